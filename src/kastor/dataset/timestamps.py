"""Moments of a video as people write them in texts: found, and written anew in the same form. Arithmetic on text only.

Known are `MM:SS`, `HH:MM:SS` (with fractions), `12.5s`, `12 seconds`, `1m30s`, `500 ms`, ranges of two of them, and
what the caller's own patterns name. What only looks like a moment is left alone, with the reason.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

SLACK_S = 1  # a moment may lie this far beyond the end: durations are rounded up


class Unit(StrEnum):
    """What a number or a group of a pattern counts."""

    CLOCK = "clock"
    SECONDS = "s"
    MILLISECONDS = "ms"


@dataclass(frozen=True, slots=True)
class Form:
    """How a moment is written: with so many digits after the point, fields of a clock, digits in the first field."""

    unit: Unit
    digits: int = 0
    point: str = "."
    num_fields: int = 2
    width: int = 1
    between: tuple[str, str] | None = None  # what stands after minutes and seconds, as in 1m30s

    def written(self, seconds: Fraction, *, ties_up: bool = True, down: bool = False) -> str:
        """The moment in this form, rounded to its digits; `down` where a digit more would lie beyond the video.

        >>> Form(Unit.CLOCK, digits=1, width=2).written(Fraction("65.25"))
        '01:05.3'
        """
        scale = 1000 if self.unit is Unit.MILLISECONDS else 1
        exact = seconds * scale * 10**self.digits
        half = 0 if down else Fraction(1, 2)
        count = math.floor(exact + half) if ties_up or down else math.ceil(exact - half)
        whole, part = divmod(max(0, count), 10**self.digits)
        fraction = f"{self.point}{part:0{self.digits}d}" if self.digits else ""
        if self.between is not None:
            return f"{whole // 60}{self.between[0]}{whole % 60:0{self.width}d}{fraction}{self.between[1]}"
        if self.unit is not Unit.CLOCK:
            return f"{whole:0{self.width}d}{fraction}"
        minutes, rest = divmod(whole, 60)
        if self.num_fields == 2:
            return f"{minutes:0{self.width}d}:{rest:02d}{fraction}"
        return f"{minutes // 60:0{self.width}d}:{minutes % 60:02d}:{rest:02d}{fraction}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment written at text[begin:stop]."""

    begin: int
    stop: int
    seconds: Fraction
    form: Form


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment, or a range of two; `length`, where there is one, is written beside instead of an end."""

    start: Stamp
    end: Stamp | None = None
    length: Stamp | None = None

    @property
    def interval(self) -> tuple[Fraction, Fraction]:
        """From when to when; the same twice for a moment."""
        if self.end is not None:
            return self.start.seconds, self.end.seconds
        return self.start.seconds, self.start.seconds + (self.length.seconds if self.length else 0)


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """What looks like a moment and is not taken for one."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A form of the caller's own: groups `time`, or `start` and `end`, in `unit`; or something to leave alone."""

    name: str
    regex: re.Pattern[str]
    unit: Unit
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The moments of a text, in order, and what was left alone."""

    marks: tuple[Mark, ...]
    left: tuple[LeftAlone, ...]


_CLOCK = re.compile(
    r"(?<![\w:.])(?:(?P<h>\d{1,3}):(?P<hm>[0-5]\d)|(?P<m>\d{1,3})):(?P<s>[0-5]\d)"
    r"(?:(?P<point>\.)(?P<frac>\d{1,9})|(?P<comma>,)(?P<millis>\d{3})(?!\d))?(?![\w:])"
)
_UNIT = r"(?P<unit>ms|msecs?|milliseconds?|s|secs?|seconds?)\b"
_NUMBER = re.compile(r"(?<![\w:.])(?P<n>\d+(?:\.\d+)?)(?:\s?)" + _UNIT)
_COMPOUND = re.compile(
    r"(?<![\w:.])(?P<m>\d+)(?P<after_m>\s?(?:m|mins?|minutes?)\s?(?:and\s)?)(?P<s>\d+)(?:\.(?P<frac>\d+))?"
    r"(?P<after_s>\s?(?:s|secs?|seconds?))\b"
)
_FIRST_OF_RANGE = re.compile(r"(?<![\w:.])(?P<n>\d+(?:\.\d+)?)\s*(?:[-–—~]|to|until|till|and)\s*\Z")
_LINK = re.compile(
    r"[\])]?\s*(?:-{1,2}>?|–|—|~|→|\.{2,3}|to|until|till|through|[,;|]?\s*(?:end|stop|ends|ending)(?:[ _]?time)?"
    r"(?:\s+at)?\s*[:=]?)\s*[\[(]?"
)
_COLUMN = re.compile(r"\s*[,;|\t]\s*|\s+")
_BETWEEN = re.compile(r"\bbetween\s+[\[(]?\Z", re.IGNORECASE)
_AND = re.compile(r"\s*(?:and|,)\s*", re.IGNORECASE)
LEADING = re.compile(r"\s*(?:[-*•>#]+\s*|\d{1,4}[.)]\s+)?(?:(?:at|from|start|time|timestamp)\b\s*[:=]?\s*)?[\[(<]?\s*")
_OTHERS = re.compile(r"\b(?:minutes?|frames?)\s+\d+\b|\b\d+\s?(?:minutes?|mins?|hours?|frames)\b", re.IGNORECASE)

_BOOKS = (
    "genesis|exodus|leviticus|numbers|deuteronomy|joshua|judges|ruth|samuel|kings|chronicles|ezra|nehemiah|esther|job|"
    "psalms?|proverbs|ecclesiastes|song|isaiah|jeremiah|lamentations|ezekiel|daniel|hosea|joel|amos|obadiah|jonah|micah|"
    "nahum|habakkuk|zephaniah|haggai|zechariah|malachi|matthew|mark|luke|john|acts|romans|corinthians|galatians|"
    "ephesians|philippians|colossians|thessalonians|timothy|titus|philemon|hebrews|james|peter|jude|revelation|surah|"
    "quran|koran|verses?|chapter"
)
_CLOCK_CONTEXT = (
    (
        re.compile(
            r"(?:\be\.g\.|\bfor example|\bsuch as|\blike|\bformat\w*(?: as| is)?|\bas in)\s*[:,]?\s*[\"'`(\[]*\Z", re.I
        ),
        None,
        "looks like an example of the form",
    ),
    (re.compile(rf"\b(?:{_BOOKS})\.?\s*\Z", re.IGNORECASE), None, "looks like a verse"),
    (
        re.compile(
            r"\b(?:ratio|aspect|scale|scored?|odds|won|lost|beat\w*)(?:\s+(?:of|is|was|at|by))?\s*[:=]?\s*\Z", re.I
        ),
        re.compile(r"\s*(?:aspect|ratio|scale|odds|score|victory|win|defeat|split)\b", re.I),
        "looks like a ratio or a score",
    ),
    (
        re.compile(
            r"(?:\d{4}-\d\d-\d\d,?|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day,?(?:\s+at)?|\b(?:today|tonight)(?:\s+at)?)\s*\Z",
            re.I,
        ),
        re.compile(r"\s*(?:[ap]\.?m\b|o['’]clock|uhr\b|hrs?\b|hours\b|UTC|GMT|CET|[EP][SD]T\b)", re.I),
        "looks like a time of day",
    ),
)
_LENGTH_BEFORE = re.compile(
    r"\b(?:for|lasts?|lasting|lasted|takes?|took|taking|every|within|during|duration|length|in|another|only|first|last|next"
    r"|than|an?|per|each|about|around|roughly|nearly|of|these|those)(?:\s+(?:of|is|about|around|another|only|the))?\s*[:=]?\s*\Z",
    re.IGNORECASE,
)
_LENGTH_AFTER = re.compile(
    r"\s*-?(?:long\b|later\b|earlier\b|after\b|before\b|apart\b|per\b|each\b|clip\b|video\b|film\b|duration\b|pause\b)",
    re.IGNORECASE,
)
_DECADE = re.compile(r"(?:\d{2}|\d{4})(?<=0)s")


def find(text: str, begin: int, stop: int, duration_s: Fraction, patterns: Sequence[Pattern] = ()) -> Found:
    """The moments in text[begin:stop] of a video that lasts `duration_s`.

    >>> found = find("from 1:05 to 1:30, see John 3:16", 0, 32, Fraction(600))
    >>> [tuple(map(int, mark.interval)) for mark in found.marks], found.left[0].text
    ([(65, 90)], '3:16')
    """
    left: list[LeftAlone] = []
    taken = _Taken(begin, stop)
    marks = _own(text, begin, stop, patterns, taken, left)
    stamps = sorted(_stamps(text, begin, stop, taken, left), key=lambda stamp: stamp.begin)
    marks += _joined(text, begin, _padded(stamps), left)
    inside = []
    for mark in sorted(marks, key=lambda mark: mark.start.begin):
        why = _refusal(mark, duration_s)
        if why is None:
            inside.append(mark)
        else:
            left.append(LeftAlone(_shown(text, mark), why))
    left += [LeftAlone(match[0], "not a form that is known") for match in _OTHERS.finditer(text, begin, stop)]
    return Found(tuple(inside), tuple(left))


def stamp_of(text: str, begin: int, stop: int, unit: Unit) -> Stamp | None:
    """The moment that all of text[begin:stop] is: a clock, a number with its unit, or a number of `unit`.

    >>> stamp_of("1500", 0, 4, Unit.MILLISECONDS).seconds
    Fraction(3, 2)
    """
    for regex, made in ((_CLOCK, _clock), (_COMPOUND, _compound), (_NUMBER, _number)):
        match = regex.fullmatch(text, begin, stop)
        if match is not None:
            return made(match)
    bare = re.compile(r"\d+(?:\.\d+)?").fullmatch(text, begin, stop)
    return None if bare is None or unit is Unit.CLOCK else _plain(text, begin, stop, unit)


class _Taken:
    """Which characters of text[begin:stop] belong to something that was found."""

    def __init__(self, begin: int, stop: int) -> None:
        self._begin = begin
        self._mask = bytearray(max(0, stop - begin))

    def take(self, begin: int, stop: int) -> bool:
        """Take text[begin:stop]; whether nothing of it was taken before."""
        low, high = begin - self._begin, stop - self._begin
        if any(self._mask[low:high]):
            return False
        self._mask[low:high] = b"\1" * (high - low)
        return True


def _own(
    text: str, begin: int, stop: int, patterns: Sequence[Pattern], taken: _Taken, left: list[LeftAlone]
) -> list[Mark]:
    """What the caller's patterns find."""
    marks: list[Mark] = []
    for pattern in patterns:
        for match in pattern.regex.finditer(text, begin, stop):
            if not taken.take(*match.span()):
                continue
            groups = [name for name in ("time", "start", "end") if match.groupdict().get(name) is not None]
            stamps = [stamp_of(text, *match.span(name), pattern.unit) for name in groups]
            known = [stamp for stamp in stamps if stamp is not None]
            if pattern.ignored or not known or len(known) < len(stamps):
                left.append(LeftAlone(match[0], f"by the pattern {pattern.name}"))
            else:
                marks.append(Mark(known[0], known[1] if len(known) > 1 else None))
    return marks


def _stamps(text: str, begin: int, stop: int, taken: _Taken, left: list[LeftAlone]) -> Iterator[Stamp]:
    for regex, made in ((_COMPOUND, _compound), (_CLOCK, _clock), (_NUMBER, _number)):
        for match in regex.finditer(text, begin, stop):
            if not taken.take(*match.span()):
                continue
            stamp = made(match)
            first = _first_of_range(text, begin, match.start(), stamp) if regex is _NUMBER else None
            why = _lookalike(text, begin, stop, first or stamp, match.end())
            if why is not None:
                left.append(LeftAlone(text[(first or stamp).begin : match.end()], why))
                continue
            if first is not None:
                yield first
            yield stamp


def _lookalike(text: str, begin: int, stop: int, stamp: Stamp, after: int) -> str | None:
    """Why it is no moment, by the words around it."""
    before, behind = text[max(begin, stamp.begin - 40) : stamp.begin], text[after : min(stop, after + 20)]
    if stamp.form.unit is Unit.CLOCK and stamp.form.between is None:
        for ahead, following, why in _CLOCK_CONTEXT:
            if ahead.search(before) or (following is not None and following.match(behind)):
                return why
        return None
    if _LENGTH_BEFORE.search(before) or _LENGTH_AFTER.match(behind):
        return "looks like a length of time, not a moment"
    if _DECADE.fullmatch(text, stamp.begin, after) and re.search(r"\bthe\s+\Z", before):
        return "looks like a decade"
    return None


def _first_of_range(text: str, begin: int, at: int, stamp: Stamp) -> Stamp | None:
    """The 5 of "5-10 s"."""
    match = _FIRST_OF_RANGE.search(text, max(begin, at - 30), at)
    if match is None or (
        re.search(r"and\s*\Z", match[0]) and not _BETWEEN.search(text, max(begin, match.start() - 20), match.start())
    ):
        return None
    return _plain(text, match.start("n"), match.end("n"), stamp.form.unit)


def _joined(text: str, begin: int, stamps: Sequence[Stamp], left: list[LeftAlone]) -> list[Mark]:
    """Neighbouring moments that are a range made one."""
    marks: list[Mark] = []
    place = 0
    while place < len(stamps):
        here = stamps[place]
        after = stamps[place + 1] if place + 1 < len(stamps) else None
        if after is not None and _linked(text, begin, here, after):
            if after.seconds < here.seconds:
                left.append(LeftAlone(text[here.begin : after.stop], "a range whose end lies before its start"))
            else:
                marks.append(Mark(here, after))
            place += 2
        else:
            marks.append(Mark(here))
            place += 1
    return marks


def _linked(text: str, begin: int, here: Stamp, after: Stamp) -> bool:
    unit_end = re.compile(r"\s?" + _UNIT).match(text, here.stop)
    gap = text[unit_end.end() if unit_end and here.form.unit is not Unit.CLOCK else here.stop : after.begin]
    if _LINK.fullmatch(gap):
        return True
    if _AND.fullmatch(gap) and _BETWEEN.search(text, max(begin, here.begin - 20), here.begin):
        return True
    line = max(begin, text.rfind("\n", begin, here.begin) + 1)
    return LEADING.fullmatch(text, line, here.begin) is not None and _COLUMN.fullmatch(gap) is not None


def _refusal(mark: Mark, duration_s: Fraction) -> str | None:
    last = max(mark.interval)
    return None if last <= duration_s + SLACK_S else f"lies beyond the video's {float(duration_s):.1f} s"


def _shown(text: str, mark: Mark) -> str:
    return text[mark.start.begin : (mark.end or mark.start).stop]


def _padded(stamps: Sequence[Stamp]) -> list[Stamp]:
    """Clocks of which one has a single digit in front are all written so."""
    plain = {
        stamp.form.num_fields
        for stamp in stamps
        if stamp.form.unit is Unit.CLOCK and stamp.form.between is None and stamp.form.width == 1
    }
    return [
        replace(stamp, form=replace(stamp.form, width=1))
        if stamp.form.unit is Unit.CLOCK and stamp.form.between is None and stamp.form.num_fields in plain
        else stamp
        for stamp in stamps
    ]


def _clock(match: re.Match[str]) -> Stamp:
    lead = match["h"] or match["m"]
    fraction = match["frac"] or match["millis"] or ""
    minutes = int(match["h"]) * 60 + int(match["hm"]) if match["h"] else int(match["m"])
    seconds = minutes * 60 + int(match["s"]) + (Fraction(f"0.{fraction}") if fraction else Fraction(0))
    form = Form(Unit.CLOCK, len(fraction), match["comma"] or ".", 3 if match["h"] else 2, min(2, len(lead)))
    return Stamp(match.start(), match.end(), Fraction(seconds), form)


def _compound(match: re.Match[str]) -> Stamp:
    fraction = match["frac"] or ""
    seconds = 60 * int(match["m"]) + Fraction(f"{match['s']}.{fraction or 0}")
    width = 2 if match["s"].startswith("0") and len(match["s"]) > 1 else 1
    form = Form(Unit.CLOCK, len(fraction), width=width, between=(match["after_m"], match["after_s"]))
    return Stamp(match.start(), match.end(), seconds, form)


def _number(match: re.Match[str]) -> Stamp:
    unit = Unit.MILLISECONDS if match["unit"].startswith("m") else Unit.SECONDS
    return _plain(match.string, match.start("n"), match.end("n"), unit)


def _plain(text: str, begin: int, stop: int, unit: Unit) -> Stamp:
    whole, _, fraction = text[begin:stop].partition(".")
    width = len(whole) if whole.startswith("0") else 1
    seconds = Fraction(text[begin:stop]) / (1000 if unit is Unit.MILLISECONDS else 1)
    return Stamp(begin, stop, seconds, Form(unit, len(fraction), width=width))

"""Notations of a moment in a video: read from text, and written again in the same notation. Arithmetic on text only.

Known are `MM:SS` and `HH:MM:SS` (with fractions), `12.5s`, `12 seconds`, `500 ms`, `1m30s`, `PT1M30S`, ranges of two.
What stands around a moment, and whether it is one at all, is decided by the formats (`timestamp_*`), not here.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

SLACK_S = 1  # a moment may lie this far beyond the end: durations are rounded up
HOUR, MINUTE, SECOND = Fraction(3600), Fraction(60), Fraction(1)
MILLISECOND, MICROSECOND, NANOSECOND = Fraction(1, 10**3), Fraction(1, 10**6), Fraction(1, 10**9)

Edit = tuple[int, int, str]
"""text[begin:stop] becomes this."""


class TimeUnit(StrEnum):
    """What a bare number of a caller's own pattern or key counts."""

    CLOCK = "clock"
    SECONDS = "s"
    MILLISECONDS = "ms"

    @property
    def size(self) -> Fraction:
        """Seconds in one of it."""
        return MILLISECOND if self is TimeUnit.MILLISECONDS else SECOND


@dataclass(frozen=True, slots=True)
class TimeField:
    """The digits text[begin:stop] of a moment: how many seconds one counts, how wide and how exactly it is written."""

    begin: int
    stop: int
    size: Fraction
    width: int = 1
    digits: int = 0  # after the point
    point: str = "."


@dataclass(frozen=True, slots=True)
class WrittenTime:
    """A moment written at text[begin:stop]. Its fields, largest unit first, are all of it that ever changes."""

    begin: int
    stop: int
    seconds: Fraction
    fields: tuple[TimeField, ...]

    def edits(self, seconds: Fraction, *, ties_up: bool = True, down: bool = False) -> list[Edit]:
        """What makes it another moment, rounded to its digits; `down` where a digit more would lie beyond the video."""
        last = self.fields[-1]
        step = last.size / 10**last.digits
        half = 0 if down else Fraction(1, 2)
        exact = seconds / step
        rest = max(0, math.floor(exact + half) if ties_up or down else math.ceil(exact - half)) * step
        edits = []
        for field in self.fields:
            whole = math.floor(rest / field.size)
            rest -= whole * field.size
            part = f"{field.point}{int(rest / step):0{field.digits}d}" if field.digits else ""
            edits.append((field.begin, field.stop, f"{whole:0{field.width}d}{part}"))
        return edits

    def written(self, text: str, seconds: Fraction, *, down: bool = False) -> str:
        """Another moment in the notation of this one.

        >>> parse_written_time("01:05.2", 0, 7).written("01:05.2", Fraction("3.25"))
        '00:03.3'
        """
        return apply_edits(text, self.edits(seconds, down=down), self.begin, self.stop)


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """One moment, or a range of two; `length`, where there is one, is written beside instead of an end."""

    start: WrittenTime
    end: WrittenTime | None = None
    length: WrittenTime | None = None

    @property
    def interval(self) -> tuple[Fraction, Fraction]:
        """From when to when; the same twice for a moment."""
        if self.end is not None:
            return self.start.seconds, self.end.seconds
        return self.start.seconds, self.start.seconds + (self.length.seconds if self.length else 0)

    @property
    def begin(self) -> int:
        """Where it begins in the text."""
        return self.start.begin

    @property
    def stop(self) -> int:
        """Where it ends in the text."""
        return (self.end or self.start).stop


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """A notation of the caller's own: groups `time`, or `start` and `end`, in `unit`; or something to leave alone."""

    name: str
    regex: re.Pattern[str]
    unit: TimeUnit
    ignored: bool = False


_BEFORE = r"(?<![\w:.,/])"
_FRACTION = r"(?:(?P<point>\.)(?P<frac>[0-9]{1,9}))?"
_AFTER = r"(?!\w|[.,;/:][0-9]|\s?[-–][0-9]+(?:[^0-9:.]|$)|-[^\W\d])"  # 3:16-18 is no moment, nor 20:15-train
_CLOCK_FIELDS = r"(?:(?P<h>[0-9]{1,3}):(?P<hm>[0-5][0-9])|(?P<m>[0-9]{1,3})):(?P<s>[0-5][0-9])"
CLOCK = re.compile(_BEFORE + _CLOCK_FIELDS + _FRACTION + _AFTER)
_CLOCK_ALONE = re.compile(_CLOCK_FIELDS + r"(?:(?P<point>[.,])(?P<frac>[0-9]{1,9}))?")
SHORT_CLOCK = re.compile(r"(?P<m>[0-9]{1,3}):(?P<s>[0-9])(?!\w|[.,;/:][0-9])")  # 0:5
_COMPOUND = re.compile(
    _BEFORE + r"(?:(?P<h>[0-9]+)\s?(?:h|hrs?|hours?)\s?,?\s?(?:and\s)?)?"
    r"(?P<m>[0-9]+)\s?(?:m|mins?|minutes?)\s?,?\s?(?:and\s)?(?P<s>[0-9]+)" + _FRACTION + r"\s?(?:s|secs?|seconds?)\b",
    re.IGNORECASE,
)
_ISO = re.compile(r"(?<!\w)PT(?:(?P<h>[0-9]+)H)?(?:(?P<m>[0-9]+)M)?(?P<s>[0-9]+)" + _FRACTION + r"S\b")
_UNIT = r"(?P<unit>ms|msecs?|milliseconds?|s|secs?|seconds?)\b"
NUMBER = re.compile(_BEFORE + r"(?P<s>[0-9]+)" + _FRACTION + r"(?:\s?" + _UNIT + r"|-(?P<mark>second)(?=\smark\b))")
_BARE = re.compile(r"(?P<s>[0-9]+)" + _FRACTION)
_FIRST_OF_RANGE = re.compile(r"(?<![\w:.,/])(?P<s>[0-9]+)" + _FRACTION + r"\s*(?:[-–—~]|to|until|till|and)\s*\Z")
_BETWEEN = re.compile(r"\bbetween\s+[\[(]?\Z", re.IGNORECASE)
LINK = re.compile(
    r"[\])*]*\s*(?:-{1,2}>?|–|—|~|→|\.{2,3}|to|until|till|through|[,;|]?\s*(?:end|stop|ends|ending)(?:[ _]?time)?"
    r"(?:\s+at)?\s*[:=]?)\s*[*\[(]*"
)
_AND = re.compile(r"\s*(?:and|,)\s*", re.IGNORECASE)


def parse_written_time(text: str, begin: int, stop: int, size: Fraction | None = None) -> WrittenTime | None:
    """The moment that all of text[begin:stop] is; a bare number counts units of `size` seconds, or is none.

    >>> parse_written_time("1500", 0, 4, MILLISECOND).seconds, parse_written_time("1500", 0, 4)
    (Fraction(3, 2), None)
    """
    for regex, read in _ALONE:
        match = regex.fullmatch(text, begin, stop)
        if match is not None:
            return read(match)
    bare = None if size is None else _BARE.fullmatch(text, begin, stop)
    return None if bare is None or size is None else number_time(bare, size)


def find_written_times(text: str, begin: int, stop: int) -> Iterator[WrittenTime]:
    """Everything in text[begin:stop] that is written as a moment, in order."""
    found: list[WrittenTime] = []
    for regex, read in ((_ISO, clock_time), (_COMPOUND, clock_time), (CLOCK, clock_time), (NUMBER, _number)):
        for match in regex.finditer(text, begin, stop):
            if any(match.start() < other.stop and other.begin < match.end() for other in found):
                continue
            stamp = read(match)
            first = _first_of_range(text, begin, stamp) if regex is NUMBER else None
            found += [stamp] if first is None else [first, stamp]
    yield from sorted(found, key=lambda stamp: stamp.begin)


def find_time_spans(text: str, begin: int, stop: int) -> list[TimeSpan]:
    """Everything in text[begin:stop] that is written as a moment or a range of two.

    >>> [tuple(map(int, mark.interval)) for mark in find_time_spans("from 1:05 to 1:30, at 95 s", 0, 26)]
    [(65, 90), (95, 95)]
    """
    found: list[TimeSpan] = []
    waiting: WrittenTime | None = None
    for stamp in find_written_times(text, begin, stop):
        if waiting is not None and _linked(text, begin, waiting, stamp):
            found.append(TimeSpan(waiting, stamp))
            waiting = None
            continue
        if waiting is not None:
            found.append(TimeSpan(waiting))
        waiting = stamp
    return found if waiting is None else [*found, TimeSpan(waiting)]


def apply_edits(text: str, edits: Sequence[Edit], begin: int = 0, stop: int | None = None) -> str:
    """text[begin:stop] after all edits, which do not overlap."""
    parts, at = [], begin
    for first, after, written in sorted(edits):
        parts += [text[at:first], written]
        at = after
    return "".join([*parts, text[at:stop]])


def clock_time(match: re.Match[str]) -> WrittenTime:
    """The moment of a match with groups h, hm or m, s and frac."""
    group = match.groupdict()
    spelled = match.re in (_COMPOUND, _ISO)
    names = [
        (name, size) for name, size in (("h", HOUR), ("hm", MINUTE), ("m", MINUTE), ("s", SECOND)) if group.get(name)
    ]
    fields, seconds = [], Fraction(0)
    for name, size in names:
        digits = group[name]
        width = len(digits) if digits.startswith("0") or not spelled else 1
        fraction = (group.get("frac") or "") if name == "s" else ""
        stop = match.end("frac") if fraction else match.end(name)
        point = (group.get("point") or ".") if fraction else "."
        fields.append(TimeField(match.start(name), stop, size, min(2, width), len(fraction), point))
        seconds += size * Fraction(f"{digits}.{fraction or 0}")
    return WrittenTime(match.start(), match.end(), seconds, tuple(fields))


def number_time(match: re.Match[str], size: Fraction) -> WrittenTime:
    """The moment of a match with groups s and frac, a count of `size` seconds."""
    digits, fraction = match["s"], match["frac"] or ""
    stop = match.end("frac") if fraction else match.end("s")
    width = len(digits) if digits.startswith("0") else 1
    field = TimeField(match.start("s"), stop, size, width, len(fraction), match["point"] or ".")
    return WrittenTime(match.start("s"), match.end(), size * Fraction(f"{digits}.{fraction or 0}"), (field,))


def _number(match: re.Match[str]) -> WrittenTime:
    return number_time(match, MILLISECOND if (match["unit"] or "").startswith("m") else SECOND)


_ALONE = ((_CLOCK_ALONE, clock_time), (_COMPOUND, clock_time), (_ISO, clock_time), (NUMBER, _number))


def _first_of_range(text: str, begin: int, stamp: WrittenTime) -> WrittenTime | None:
    """The 5 of "5-10 s"."""
    match = _FIRST_OF_RANGE.search(text, max(begin, stamp.begin - 30), stamp.begin)
    if match is None or (
        re.search(r"and\s*\Z", match[0]) and not _BETWEEN.search(text, max(begin, match.start() - 20), match.start())
    ):
        return None
    first = number_time(match, stamp.fields[0].size)
    return WrittenTime(first.begin, first.fields[0].stop, first.seconds, first.fields)


def _linked(text: str, begin: int, here: WrittenTime, after: WrittenTime) -> bool:
    """Whether two neighbouring moments are written as a range."""
    gap = text[here.stop : after.begin]
    if LINK.fullmatch(gap):
        return True
    return (
        _AND.fullmatch(gap) is not None and _BETWEEN.search(text, max(begin, here.begin - 20), here.begin) is not None
    )

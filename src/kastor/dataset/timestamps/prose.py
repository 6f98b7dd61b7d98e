"""Moments in prose: certain by the words before them, certainly none by the words around them, or a reason to refuse.

A clock beside a preposition of time ("at 21:50", "from 5 to 10 s") is a moment. Scores, verses, times of day, lengths
and examples of a form are none. Everything else that could be read as a moment is doubtful, and a text with doubt is
not rewritten. Only English is understood; other languages are doubtful.
"""

import re
from collections.abc import Iterator

from kastor.dataset.timestamps.time_formats import CLOCK, TimeSpan, find_time_spans, parse_written_time
from kastor.dataset.timestamps.tree import IgnoredMatch, TimestampReading, decimal, quote_text, raise_ambiguous

MAX_MARKS = 500  # in prose; every list is another format
MAX_SENTENCE_CHARS, MAX_EXAMPLE_CHARS = 400, 400

_INTRODUCED = re.compile(
    r"(?:\b(?:at|from|to|until|till|by|around|between|near|since|before|after|during|timestamps?|times?|moment)"
    r"(?:\s+(?:about|around|exactly|time|the|timestamp))?|@)\s*[:=]?\s*[\[(*]*\Z",
    re.IGNORECASE,
)
_INTRODUCED_NUMBER = re.compile(  # "after 5 s" and "by 5 s" may be lengths
    r"(?:\b(?:at|from|to|until|till|between|timestamps?|times?)(?:\s+(?:about|around|exactly|time|the|timestamp))?|@)"
    r"\s*[:=]?\s*[\[(*]*\Z",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\s*,?\s*(?:and|or|,)\s*", re.IGNORECASE)
_SPEECH = re.compile(
    r"[\"“”«»]|\b(?:sa(?:y|ys|id|ying)|tell(?:s|ing)?|told|announc\w+|reads?|reading|stat(?:es|ed)|mentions?|ask(?:s|ed)?|"
    r"clock|sign|poster|ticket|trains?|flights?|bus|o['’]clock|meeting|alarm|appointment|schedul\w+|departs?|"
    r"open(?:s|ing)? hours)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.?!](?:\s+|\Z)|\n+")
_BOOKS = (
    "genesis|exodus|leviticus|numbers|deuteronomy|joshua|judges|ruth|samuel|kings|chronicles|ezra|nehemiah|esther|job|"
    "psalms?|proverbs|ecclesiastes|song|isaiah|jeremiah|lamentations|ezekiel|daniel|hosea|joel|amos|obadiah|jonah|micah|"
    "nahum|habakkuk|zephaniah|haggai|zechariah|malachi|matthew|mark|luke|john|acts|romans|corinthians|galatians|"
    "ephesians|philippians|colossians|thessalonians|timothy|titus|philemon|hebrews|james|peter|jude|revelation|surah|"
    "quran|koran|verses?|chapter"
)
EXAMPLE = (
    r"(?:\be\.g\.|\bi\.e\.|\bfor (?:example|instance)|\bexamples?|\bsuch as|\blike|\bas in|\bstyle"
    r"|\b(?:format|form|schema|template|shape|pattern|syntax|notation)\w*(?:\s+(?:as|is|of|like))?"
    r"|\b(?:H{1,2}:)?M{1,2}:SS\b)\s*(?:this|these)?"
)
_EXAMPLE = re.compile(EXAMPLE + r"\s*[:,]?\s*[\"'`(\[<*]*\Z", re.IGNORECASE)
_WRITE = re.compile(  # in a prompt: use 1:05, not 65 s
    r"(?:\b(?:use|write|print|not)|\b(?:format|write|output|return|answer|list|give|report)\b[^.?!\n]{0,40}\bas\s*:?)"
    r"\s*[\"'`(\[<*]*\Z",
    re.IGNORECASE,
)
_STRUCTURE = re.compile(EXAMPLE + r"(?:\s+\w+){0,3}\s*[:,]?\s*(?P<open>[\[{])", re.IGNORECASE)
_CODE = re.compile(r"(?P<fence>`{1,3})[^`]+(?P=fence)")
_BELOW = re.compile(EXAMPLE + r"[^.?!\n]{0,40}:[ \t]*\n(?:[^\n]*\S[^\n]*(?:\n|\Z))+", re.IGNORECASE)
_AGAIN = re.compile(
    r"[\s,;()\[\]\"'`*<>-]*(?:not|or|and|rather than|instead of|but not)?[\s,;()\[\]\"'`*<>-]*", re.IGNORECASE
)
_ZERO = re.compile(
    r"\b(?:count(?:s|ing|ed)?|start(?:s|ing|ed)?|begin(?:s|ning)?|relative to|zero)\b[^.?!\n]{0,30}\Z", re.IGNORECASE
)
_TIME_OF_DAY = re.compile(
    r"\s*\(?(?:[ap]\.?m\b|o['’]clock|uhr\b|hrs?\b|hours\b|UTC|GMT|CET|[EP][SD]T\b)", re.IGNORECASE
)
_OF_DAY = "looks like a time of day"
_LOOKALIKES = (
    (re.compile(rf"\b(?:{_BOOKS})\.?\s*\Z", re.IGNORECASE), None, "looks like a verse"),
    (
        re.compile(
            r"\b(?:ratio|aspect|scale|scored?|odds|won|lost|beat\w*|lead\w*)(?:\s+(?:of|is|was|at|by|to))?\s*[:=]?\s*\Z",
            re.I,
        ),
        re.compile(r"\s*(?:aspect|ratio|scale|odds|score|victory|win|defeat|split)\b", re.I),
        "looks like a ratio or a score",
    ),
    (
        re.compile(
            r"(?:\d{4}-\d\d-\d\d|\d[./]\d{1,2}[./]\d{2,4}|\b(?:19|20)\d\d|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day"
            r"|\b(?:today|tonight|yesterday|tomorrow))(?:,?\s+at|,|T)?\s*\Z",
            re.I,
        ),
        _TIME_OF_DAY,
        _OF_DAY,
    ),
)
_CLOCK_LENGTH = re.compile(
    r"\b(?:for|lasts?|lasting|lasted|takes?|took|than|least|most|duration|length|up to|within|every|per)"
    r"(?:\s+(?:of|is|about|around))?\s*[:=]?\s*\Z",
    re.IGNORECASE,
)
_LENGTH_BEFORE = re.compile(
    r"\b(?:for|lasts?|lasting|lasted|takes?|took|taking|every|within|duration|length|in|another|only|first|last|next"
    r"|than|an?|per|each|these|those|least|most|up to|into|waits?|waited|waiting|pauses?|paused|"
    r"max(?:imum)?|min(?:imum)?)"
    r"(?:\s+(?:of|is|about|around|another|only|the|exactly))?\s*[:=]?\s*\Z",
    re.IGNORECASE,
)
_LENGTH_ASKED = re.compile(
    r"\b(?:about|around|roughly|nearly|approximately|of|over|under|exactly|with|use)\s+\Z", re.IGNORECASE
)
_LENGTH_OF = re.compile(
    r"\s*-?(?:long\b|per\b|each\b|\w*\s?(?:segments?|chunks?|intervals?|clips?|videos?|films?|movies?|recordings?|"
    r"windows?|steps?|duration|pauses?|exposures?)\b)",
    re.IGNORECASE,
)
_LENGTH_FROM = re.compile(r"\s*-?(?:later|earlier|after|before|apart)\b", re.IGNORECASE)
_DECADE = re.compile(r"(?:[0-9]{2}|[0-9]{4})(?<=0)s")
# all that somebody might mean as a moment, in any language, whether it can be read or not
_SUSPECT = re.compile(
    r"(?<![0-9A-Za-z_.])\d+(?:[:：∶]\d{2,})+(?:[;:.,]\d+)*"
    r"|(?<![\w.,/])\d[\d.,/]*[\s-]?(?:ms|msecs?|s|secs?|h|hrs?|m|mins?|(?:milli)?seconds?|minutes?|hours?|sekunden?|minuten?|"
    r"stunden?|secondes?|heures?|segundos?|minutos?|secondi|minuti|секунд\w*|сек|минут\w*|мин)\b"
    r"|(?<![0-9A-Za-z_.])\d+\s?(?:秒|分|時|时|초|분)"
    r"|(?<![\w.])\d{1,2}\s?h\s?\d{2}\b"
    r"|(?<![\w.])\d+(?:st|nd|rd|th|\.)\s(?:second|minute|sekunde)\b"
    r"|\b(?:at|after|around)\s(?:about\s|the\s)?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|"
    r"forty|fifty|half)\b[\w\s-]{0,24}?\b(?:seconds?|minutes?)\b"
    r"|\b(?:sec(?:ond)?s?|min(?:ute)?s?|frames?|sekunde|minute|seconde|segundo|minuto|секунда|минута)\s+\d+\b"
    r"|(?<![\w.])\d+\s?['′’]\s?\d+(?:\s?(?:[\"″”]|''))?|\bP(?:\d+D)?T\d\w+"
    r"|<(?:start|end|begin|stop|time|timestamp|t)\b[^<>\n]{0,20}>\s*\d[\d.:]*"
    r"|\b(?:start|end|begin|stop|time|timestamp|offset|from|to|t)(?:[_ ]?(?:time|s|sec|seconds|ms))?"
    r"[\"']?\s*[=:]\s*[\"']?\d[\d.:]*"
    r"|\b(?:at|from|until|um|à|alle)\s+\d{1,3}[.,]\d{2}\b(?!\s?[%€$])",  # 21.50 for 21:50; YAML; XML
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"\d[\d.,/]*[\s-]?[^\W\d]+")
_BARE_RANGE = re.compile(  # also of Whisper, of Audacity's labels, of MicroDVD's subtitles, of CSV without a header
    r"\b(?:from|between)\s+\d[\d.]*\s+(?:to|and|until)\s+\d[\d.]*\b"
    r"|\b(?:at|until)\s+\d{3,}\b"
    r"|^\W{0,3}\d+(?:\.\d+)?(?:[ ]*(?:-{1,2}>?|[–—~→])[ ]*|[ ]*[\t;][ ]*|\}\{)\d+(?:\.\d+)?\b(?!-)"
    r"|^\d+(?:\.\d+)?,\d+(?:\.\d+)?,[\"\w](?<!\d)",
    re.IGNORECASE | re.MULTILINE,
)


def prose_marks(
    text: str, begin: int, stop: int, reading: TimestampReading, *, lead: int | None = None
) -> tuple[TimeSpan, ...]:
    """The moments of text[begin:stop], all of them certain; one that begins at `lead` needs no word before it.

    Raises:
        CannotSplit: something in it may be a moment or not.

    """
    own = list(own_marks(text, begin, stop, reading))
    known: list[tuple[int, int]] = [(low, high) for low, high, _ in own]
    found = [mark for _, _, mark in own if mark is not None]
    example = _example_spans(text, begin, stop, reading)
    candidates = find_time_spans(text, begin, stop)
    if len(candidates) > MAX_MARKS:
        raise raise_ambiguous(text[begin:stop], f"more than {MAX_MARKS} numbers that may be moments stand in prose")
    for mark in candidates:
        if _overlaps(known, mark.begin, mark.stop):
            continue
        known.append((mark.begin, mark.stop))
        why = _no_moment(text, begin, mark, reading, example)
        if why is not None:
            reading.left.append(IgnoredMatch(text[mark.begin : mark.stop], why))
            if why == _EXAMPLE_OF_FORM:
                example.append(_after_example(text, mark.stop, stop))
        elif mark.begin != lead and not _certain(text, begin, stop, mark, found[-1] if found else None):
            raise raise_ambiguous(
                _around(text, begin, stop, mark.begin, mark.stop),
                f"{quote_text(text[mark.begin : mark.stop])} may be a moment or not",
            )
        else:
            found.append(decimal(text, reading.without_ambiguity(text, mark), reading))
    _check_suspects(text, begin, stop, known, reading, example)
    return _ordered(text, found, reading)


def mentions_time(text: str, begin: int, stop: int) -> bool:
    """Whether anything in text[begin:stop] might be a moment, however it is written."""
    return _SUSPECT.search(text, begin, stop) is not None


def shows_example(text: str) -> bool:
    """Whether the text says that something in it is an example of the form."""
    return re.search(EXAMPLE, text, re.IGNORECASE) is not None


def own_marks(
    text: str, begin: int, stop: int, reading: TimestampReading
) -> Iterator[tuple[int, int, TimeSpan | None]]:
    """What the caller's patterns find, and where: a mark, or nothing where they say that it is none."""
    taken: list[tuple[int, int]] = []
    for pattern in reading.forms.patterns:
        for match in pattern.regex.finditer(text, begin, stop):
            if _overlaps(taken, *match.span()):
                continue
            taken.append(match.span())
            groups = [name for name in ("time", "start", "end") if match.groupdict().get(name) is not None]
            stamps = [parse_written_time(text, *match.span(name), pattern.unit.size) for name in groups]
            known = [stamp for stamp in stamps if stamp is not None]
            if pattern.ignored or not known or len(known) < len(stamps):
                reading.left.append(IgnoredMatch(match[0], f"by the pattern {pattern.name}"))
                yield *match.span(), None
            else:
                yield (
                    *match.span(),
                    reading.without_ambiguity(text, TimeSpan(known[0], known[1] if len(known) > 1 else None)),
                )


def lookalike(text: str, begin: int, mark: TimeSpan) -> str | None:
    """Why a clock is no moment of the video, by the words around it."""
    before, behind = text[max(begin, mark.begin - 40) : mark.begin], text[mark.stop : mark.stop + 20]
    for ahead, following, why in _LOOKALIKES:
        if ahead.search(before) or (following is not None and following.match(behind)):
            return why
    return None


def check_of_day(text: str, begin: int, stop: int, mark: TimeSpan) -> None:
    """Raises `CannotSplit` if text[begin:stop] begins with a time of day."""
    if len(mark.start.fields) > 1 and _TIME_OF_DAY.match(text, mark.stop, stop):
        raise raise_ambiguous(text[begin:stop], _OF_DAY)


_EXAMPLE_OF_FORM = "looks like an example of the form"


def _no_moment(
    text: str, begin: int, mark: TimeSpan, reading: TimestampReading, example: list[tuple[int, int]]
) -> str | None:
    """Why it is certainly no moment; `None` if that is not certain."""
    before = text[max(begin, mark.begin - 60) : mark.begin]
    if _EXAMPLE.search(before) or _overlaps(example, mark.begin, mark.stop):
        return _EXAMPLE_OF_FORM
    if reading.is_prompt and _WRITE.search(before):
        return _EXAMPLE_OF_FORM
    if reading.is_prompt and mark.end is None and mark.start.seconds == 0 and _ZERO.search(before):
        return "is the beginning of any part"
    is_clock = len(mark.start.fields) > 1
    if is_clock:
        if _CLOCK_LENGTH.search(before) or re.match(r"\s*long\b", text[mark.stop :]):
            return "looks like a length of time, not a moment"
        return lookalike(text, begin, mark)
    if text[mark.begin : mark.stop].endswith("-second"):
        return None
    if _CLOCK_LENGTH.search(before) or (mark.end is None and _is_length(text, before, mark.stop, reading)):
        return "looks like a length of time, not a moment"
    if re.search(r"\bthe\s+\Z", before) and _DECADE.fullmatch(text, mark.begin, mark.stop):
        return "looks like a decade"
    return None


def _is_length(text: str, before: str, stop: int, reading: TimestampReading) -> bool:
    """Whether the number with a unit that ends at `stop` is a length of time by the words around it."""
    if _INTRODUCED_NUMBER.search(before):
        return False
    if _LENGTH_BEFORE.search(before) or (reading.is_prompt and _LENGTH_ASKED.search(before)):
        return True
    return _LENGTH_OF.match(text, stop) is not None or _LENGTH_FROM.match(text, stop) is not None


def _certain(text: str, begin: int, stop: int, mark: TimeSpan, ahead: TimeSpan | None) -> bool:
    """Whether the words before it say that it is a moment, and no speech is told of that it may be part of."""
    before = text[max(begin, mark.begin - 40) : mark.begin]
    introduced = _INTRODUCED if len(mark.start.fields) > 1 else _INTRODUCED_NUMBER
    goes_on = ahead is not None and _GOES_ON.fullmatch(text, ahead.stop, mark.begin) is not None  # "at 0:05 and 0:09"
    if not (goes_on or introduced.search(before)) or _LENGTH_FROM.match(text, mark.stop):
        return False
    sentence, after = _sentence(text, begin, stop, mark.begin)
    if not _SPEECH.search(text, sentence, after):
        return True
    return len(text[sentence : mark.begin].split()) <= 1  # "At 21:50 he says …"


def _sentence(text: str, begin: int, stop: int, at: int) -> tuple[int, int]:
    begin, stop = max(begin, at - MAX_SENTENCE_CHARS), min(stop, at + MAX_SENTENCE_CHARS)
    first = max((match.end() for match in _SENTENCE.finditer(text, begin, at)), default=begin)
    after = _SENTENCE.search(text, at, stop)
    return first, after.start() if after else stop


def _example_spans(text: str, begin: int, stop: int, reading: TimestampReading) -> list[tuple[int, int]]:
    """Where examples of the form are shown: {"start": "00:05"} after “like”, lines below “Format:”, a prompt's code."""
    spans = [
        (match.start(), _closing(text, match.start("open"), stop)) for match in _STRUCTURE.finditer(text, begin, stop)
    ]
    if reading.is_prompt:
        spans += [match.span() for match in _CODE.finditer(text, begin, stop)]
        spans += [match.span() for match in _BELOW.finditer(text, begin, stop)]
    return spans


def _closing(text: str, at: int, stop: int) -> int:
    """Where the bracket that opens at `at` is closed."""
    depth, stop = 0, min(stop, at + MAX_EXAMPLE_CHARS)
    for place in range(at, stop):
        depth += (text[place] in "[{") - (text[place] in "]}")
        if depth == 0:
            return place + 1
    return stop


def _after_example(text: str, at: int, stop: int) -> tuple[int, int]:
    """What goes on an example: “1:05, not 65 s”."""
    match = _AGAIN.match(text, at, stop)
    return at, (match.end() if match else at) + 1


def _check_suspects(
    text: str,
    begin: int,
    stop: int,
    known: list[tuple[int, int]],
    reading: TimestampReading,
    example: list[tuple[int, int]],
) -> None:
    """Raises `CannotSplit` for what may be a moment that could not be read."""
    for match in _SUSPECT.finditer(text, begin, stop):
        if _overlaps(known, *match.span()):
            continue
        before = text[max(begin, match.start() - 60) : match.start()]
        if (
            _EXAMPLE.search(before)
            or _overlaps(example, *match.span())
            or (reading.is_prompt and _WRITE.search(before))
        ):
            reading.left.append(IgnoredMatch(match[0], _EXAMPLE_OF_FORM))
        elif _AMOUNT.fullmatch(match[0]) and _is_length(text, before, match.end(), reading):
            reading.left.append(IgnoredMatch(match[0], "looks like a length of time, not a moment"))
        elif ":" in match[0] and CLOCK.fullmatch(match[0]) is None and re.search(rf"\b(?:{_BOOKS})\s*\Z", before, re.I):
            reading.left.append(IgnoredMatch(match[0], "looks like a verse"))
        else:
            shown = _around(text, begin, stop, *match.span())
            raise raise_ambiguous(
                shown, f"{quote_text(match[0])} may be a moment, but not in a form that is read with certainty"
            )
    if not reading.is_prompt and not known and (bare := _BARE_RANGE.search(text, begin, stop)):
        raise raise_ambiguous(bare[0], "may be moments, but has no unit")


def _ordered(text: str, found: list[TimeSpan], reading: TimestampReading) -> tuple[TimeSpan, ...]:
    """The marks in their order; in an answer that tells what happens, moments only go forward."""
    marks_now = sorted(found, key=lambda mark: mark.begin)
    for one, after in zip(marks_now, marks_now[1:], strict=False):
        if not reading.is_prompt and after.interval[0] < one.interval[0]:
            shown = text[after.begin : after.stop]
            raise raise_ambiguous(shown, f"lies before {quote_text(text[one.begin : one.stop])}, which stands first")
    return tuple(marks_now)


def _overlaps(spans: list[tuple[int, int]], begin: int, stop: int) -> bool:
    return any(begin < high and low < stop for low, high in spans)


def _around(text: str, begin: int, stop: int, low: int, high: int) -> str:
    """What stands around text[low:high], by whole words."""
    first, after = max(begin, low - 24), min(stop, high + 24)
    return text[first:after]

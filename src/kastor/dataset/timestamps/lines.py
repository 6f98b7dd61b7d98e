"""Lines that each begin, or each end, with a moment: `[0:05 - 0:20] A dog barks`, `* **0:05** Hello`, `Hello (0:05)`.

In a line that begins with a moment only that is one; where more of it reads like a moment of the video for certain
("…, and from 22:05 to 22:10"), nobody can know, and it is refused.
"""

import re
from dataclasses import dataclass, replace

from kastor.dataset.timestamps.prose import check_of_day, lookalike, mentions_time, own_marks, prose_marks
from kastor.dataset.timestamps.time_formats import (
    LINK,
    SHORT_CLOCK,
    TimeSpan,
    WrittenTime,
    clock_time,
    find_time_spans,
    find_written_times,
)
from kastor.dataset.timestamps.tree import (
    CannotSplit,
    TextNode,
    TimestampReading,
    decimal,
    join_quoted,
    quote_text,
    raise_ambiguous,
)

_HEAD = re.compile(
    r"[ \t]*(?:[-*•>#]+[ \t]*)?(?:(?P<number>[0-9]{1,4})[.)][ \t]+)?[*_`~]{0,3}"
    r"(?P<words>(?:(?:at|from|time|timestamp)\b[ \t]*[:=]?[ \t]*)?)[*_`~\[(<]{0,3}[ \t]*",
    re.IGNORECASE,
)
_TAIL = re.compile(r"[ \t]*[\])>*_`~.,;]*[ \t]*")
_LENGTH = re.compile(
    r"\s+(?:later|earlier|after|before|apart|of|per|long|each)\b|\s?-?\w+\s(?:clips?|segments?)\b", re.I
)
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_COLUMN = re.compile(r"[ \t]*[,;|\t][ \t]*|[ \t]+")
_BESIDE = re.compile(r"[\[<;,.:|/•–—-][ \t]*\Z")  # where one more moment may stand: "21:50 car, 22:02 dog"
_SECTION = re.compile(r"\s*#|\s*\*\*[^*]+\*\*:?\s*\Z|.*:\s*\Z")


@dataclass(frozen=True, slots=True)
class _Head:
    """A line that begins with a moment: its first letter, its moment, where the rest of it begins."""

    begin: int
    stop: int
    mark: TimeSpan
    rest: int
    worded: bool  # "At 0:05 …", a sentence
    number: tuple[int, int] | None


def line_list(text: str, begin: int, stop: int, reading: TimestampReading) -> TextNode | None:
    """The lines of text[begin:stop], if each that matters begins or ends with a moment.

    Raises:
        CannotSplit: they do, but not for sure.

    """
    lines = [match.span() for match in _LINE.finditer(text, begin, stop)]
    heads = _heads(text, lines, reading)
    bare = [head for head in heads if not head.worded]
    if bare:
        return _headed(text, begin, stop, lines, heads, reading)
    if len(heads) > 1 and len(heads) == len(lines):
        return _sentences(text, heads, reading)
    return _tailed(text, lines, reading)


def head_mark(text: str, begin: int, stop: int, reading: TimestampReading) -> TimeSpan | None:
    """The moment or range that text[begin:stop] begins with, read as one line.

    Raises:
        CannotSplit: more of it may be moments.

    """
    heads = _heads(text, [(begin, stop)], reading)
    if not heads or heads[0].worded:
        return None
    _check_rest(text, heads[0], reading)
    return heads[0].mark


def _heads(text: str, lines: list[tuple[int, int]], reading: TimestampReading) -> list[_Head]:
    found = [head for begin, stop in lines if (head := _head(text, begin, stop, reading)) is not None]
    if any(len(head.mark.start.fields) > 1 and not _is_short(text, head.mark.start) for head in found):
        starts = [head.mark.start.seconds for head in found]
        short = [head for head in found if _is_short(text, head.mark.start)]
        if short and starts != sorted(starts):
            raise raise_ambiguous(
                text[short[0].begin : short[0].stop], "may begin with a moment of one digit of seconds, or a ratio"
            )
        return _columns(text, found)
    return _columns(text, [head for head in found if not _is_short(text, head.mark.start)])


def _is_short(text: str, stamp: WrittenTime) -> bool:
    return SHORT_CLOCK.fullmatch(text, stamp.begin, stamp.stop) is not None


def _head(text: str, begin: int, stop: int, reading: TimestampReading) -> _Head | None:
    match = _HEAD.match(text, begin, stop)
    if match is None:
        return None
    own = next(
        (mark for low, _, mark in own_marks(text, begin, stop, reading) if mark and low <= match.end() <= mark.begin),
        None,
    )
    mark = own or _mark_at(text, match.end(), stop)
    if mark is None:
        return None
    if len(mark.start.fields) == 1 and mark.end is None and _LENGTH.match(text, mark.stop, stop):
        return None
    tail = _TAIL.match(text, mark.stop, stop)
    rest = tail.end() if tail else mark.stop
    number = match.span("number") if match["number"] else None
    return _Head(begin, stop, mark, rest, bool(match["words"]), number)


def _mark_at(text: str, at: int, stop: int) -> TimeSpan | None:
    for mark in find_time_spans(text, at, stop):
        return mark if mark.begin == at else None
    short = SHORT_CLOCK.match(text, at, stop)
    return None if short is None else TimeSpan(clock_time(short))


def _columns(text: str, heads: list[_Head]) -> list[_Head]:
    """Heads with a second moment in a column of its own, which is the end if every line has one."""
    seconds = [None if head.mark.end else _second(text, head) for head in heads]
    if not any(seconds):
        return heads
    ranged = [
        replace(head, mark=TimeSpan(head.mark.start, second), rest=second.stop)
        for head, second in zip(heads, seconds, strict=True)
        if second is not None and second.seconds >= head.mark.start.seconds
    ]
    if len(ranged) != len(heads) or len(heads) < 2:
        odd = heads[next(place for place, second in enumerate(seconds) if second)]
        raise raise_ambiguous(text[odd.begin : odd.stop], "begins with two moments that are not clearly a range")
    return ranged


def _second(text: str, head: _Head) -> WrittenTime | None:
    for stamp in find_written_times(text, head.mark.stop, head.stop):
        gap = text[head.mark.stop : stamp.begin]
        return stamp if _COLUMN.fullmatch(gap) and not LINK.fullmatch(gap) else None
    return None


def _headed(
    text: str, begin: int, stop: int, lines: list[tuple[int, int]], heads: list[_Head], reading: TimestampReading
) -> TextNode:
    """Each head with what follows up to the next; what stands above the first is kept in every part."""
    if mentions_time(text, begin, heads[0].begin):
        raise raise_ambiguous(text[begin : heads[0].begin], "stands above the list and may name a moment")
    items = []
    for place, head in enumerate(heads):
        after = heads[place + 1].begin if place + 1 < len(heads) else stop
        end = head.begin + len(text[head.begin : after].rstrip())
        decimal(text, reading.without_ambiguity(text, head.mark), reading)
        _check_rest(text, head, reading)
        _check_below(text, head, end, is_last=place + 1 == len(heads), reading=reading)
        items.append(TextNode(head.begin, end, (head.mark,), unit=True, number=head.number))
    _check_footer(text, items)
    return join_quoted(items)


def _check_rest(text: str, head: _Head, reading: TimestampReading) -> None:
    """Raises `CannotSplit` where the rest of the line names a moment for certain, or the first is none."""
    check_of_day(text, head.begin, head.stop, head.mark)
    for mark in find_time_spans(text, head.rest, head.stop):
        if _BESIDE.search(text, head.rest, mark.begin):
            raise raise_ambiguous(
                text[head.begin : head.stop], f"{quote_text(text[mark.begin : mark.stop])} may be a moment, too"
            )
        beside = TimestampReading(reading.duration_s, reading.forms, reading.is_prompt)
        try:
            certain = prose_marks(text, max(head.rest, mark.begin - 40), mark.stop, beside)
        except CannotSplit:
            continue  # it does not read as a moment for certain, so it is content
        if certain:
            raise raise_ambiguous(
                text[head.begin : head.stop], f"{quote_text(text[mark.begin : mark.stop])} may be a moment, too"
            )


def _check_below(text: str, head: _Head, end: int, *, is_last: bool, reading: TimestampReading) -> None:
    """Raises `CannotSplit` where lines below a head may belong elsewhere or name moments."""
    alone = not text[head.rest : head.stop].strip()  # a cue: what follows is its text
    if end > head.stop and not alone and mentions_time(text, head.stop, end):
        raise raise_ambiguous(text[head.stop : end], "may name a moment below a line that begins with one")
    below = [text[slice(*match.span())] for match in _LINE.finditer(text, head.stop, end)]
    if not is_last and below and _SECTION.match(below[-1]):
        raise raise_ambiguous(below[-1], "is a heading within the list, of which nobody knows the part")


def _check_footer(text: str, items: list[TextNode]) -> None:
    """Raises `CannotSplit` for a paragraph behind the list, which belongs to no part."""
    paragraphs = [re.search(r"\n\s*\n", text[item.begin : item.stop]) is not None for item in items]
    if paragraphs[-1] and not any(paragraphs[:-1]):
        last = text[items[-1].begin : items[-1].stop]
        raise raise_ambiguous(
            re.split(r"\n\s*\n", last, maxsplit=1)[1], "stands behind the list; nobody knows which part it is about"
        )


def _sentences(text: str, heads: list[_Head], reading: TimestampReading) -> TextNode | None:
    """Lines that are sentences, each of which begins with its moment."""
    items = [
        TextNode(
            head.begin, head.stop, prose_marks(text, head.begin, head.stop, reading, lead=head.mark.begin), unit=True
        )
        for head in heads
    ]
    return join_quoted(items) if all(item.marks for item in items) else None


def _tailed(text: str, lines: list[tuple[int, int]], reading: TimestampReading) -> TextNode | None:
    """Lines that each end with a moment in brackets."""
    tail = re.compile(r".*\S[ \t]*[(\[](?P<moment>[^()\[\]]+)[)\]][ \t.,;]*", re.DOTALL)
    items = []
    for begin, stop in lines:
        match = tail.fullmatch(text, begin, stop)
        mark = match and _whole_mark(text, *match.span("moment"))
        if not match or not mark or lookalike(text, begin, mark) or mentions_time(text, begin, match.start("moment")):
            return None
        items.append(TextNode(begin, stop, (reading.without_ambiguity(text, mark),), unit=True))
    starts = [item.marks[0].start.seconds for item in items]
    return join_quoted(items) if len(items) > 1 and starts == sorted(starts) else None


def _whole_mark(text: str, begin: int, stop: int) -> TimeSpan | None:
    """The moment or range that all of text[begin:stop] is."""
    found = find_time_spans(text, begin, stop)
    return found[0] if len(found) == 1 and (found[0].begin, found[0].stop) == (begin, stop) else None

"""Subtitles, SRT and WebVTT: blocks with a timing line each. Only that line is time, and the tags of WebVTT within."""

import re
from collections.abc import Sequence

from kastor.dataset.timestamps.prose import mentions_time
from kastor.dataset.timestamps.time_formats import TimeSpan, WrittenTime, parse_written_time
from kastor.dataset.timestamps.tree import CannotSplit, TextNode, TimestampReading, join_quoted, raise_ambiguous

_MOMENT = r"(?:[0-9]+:)?[0-9]{1,2}:[0-9]{2}(?:[.,][0-9]{1,3})?"
_TIMING = re.compile(
    rf"[ \t]*(?P<start>{_MOMENT})[ \t]*-->[ \t]*(?P<end>{_MOMENT})(?P<rest>(?:[ \t]+\S+:\S+)*)[ \t]*\r?"
)
_TAG = re.compile(rf"<(?P<moment>{_MOMENT})>")
_NUMBER = re.compile(r"(?P<number>[0-9]+)\s*\Z")
_LINE = re.compile(r"[^\n]+")
_BLOCK = re.compile(r"\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
_COMMENTS = ("NOTE", "STYLE", "REGION")

Span = tuple[int, int]


def cue_file(text: str, begin: int, stop: int, reading: TimestampReading) -> TextNode | None:
    """The cues of the subtitles that text[begin:stop] is; `None` if it is none.

    Raises:
        CannotSplit: it is, with blocks that cannot be read.

    """
    lines = (match.span() for match in _LINE.finditer(text, begin, stop))
    if not any(_TIMING.fullmatch(text, *span) for span in lines):
        return None
    is_vtt = text[begin:stop].lstrip("\ufeff \n").startswith("WEBVTT")
    items: list[TextNode] = []
    comment: int | None = None  # where comments begin that stand above the next cue
    for match in _BLOCK.finditer(text, begin, stop):
        if "-->" not in match[0]:
            _check_block(match[0], is_first=not items and comment is None, is_vtt=is_vtt)
            comment = match.start() if items and comment is None else comment
            continue
        items.append(_cue(text, *match.span(), comment, reading, is_vtt=is_vtt))
        comment = None
    if comment is not None:
        raise raise_ambiguous(text[comment:stop], "stands behind the last cue; nobody knows which part it is about")
    return join_quoted(items)


def _check_block(block: str, *, is_first: bool, is_vtt: bool) -> None:
    """Raises `CannotSplit` for a block without a timing line that is neither the head nor a comment of WebVTT."""
    if is_vtt and block.startswith(_COMMENTS):
        return
    if not is_first or "X-TIMESTAMP-MAP" in block or mentions_time(block, 0, len(block)):
        raise raise_ambiguous(block, "is no cue: it has no line with -->")


def _cue(text: str, begin: int, stop: int, above: int | None, reading: TimestampReading, *, is_vtt: bool) -> TextNode:
    lines = [match.span() for match in _LINE.finditer(text, begin, stop)]
    places = [place for place, span in enumerate(lines) if "-->" in text[slice(*span)]]
    timing = _TIMING.fullmatch(text, *lines[places[0]])
    if len(places) != 1 or places[0] > 1 or timing is None:
        raise raise_ambiguous(text[begin:stop], "is no cue with one line of times")
    start, end = _moment(text, timing.span("start")), _moment(text, timing.span("end"))
    marks = [reading.without_ambiguity(text, TimeSpan(start, end))]
    if is_vtt:
        tags = (match.span("moment") for match in _TAG.finditer(text, timing.end(), stop))
        marks += [reading.without_ambiguity(text, TimeSpan(_moment(text, span))) for span in tags]
    number = _number(text, lines[: places[0]])
    return TextNode(begin if above is None else above, stop, tuple(marks), unit=True, number=number)


def _number(text: str, above: Sequence[Span]) -> Span | None:
    """The cue's number; names are left as they are."""
    match = _NUMBER.match(text, *above[0]) if above else None
    return match.span("number") if match else None


def _moment(text: str, span: Span) -> WrittenTime:
    stamp = parse_written_time(text, *span)
    if stamp is None:
        raise CannotSplit(f"“{text[slice(*span)]}” is no moment: minutes and seconds end at 59")
    return stamp

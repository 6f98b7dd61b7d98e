"""Finds timestamps outside the shown video segment, which may count from the segment's start."""

from collections.abc import Iterator
from fractions import Fraction

from kastor.dataset.formats.issues import Issue
from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.timestamps.rewrite import TimestampedText
from kastor.dataset.timestamps.tree import CannotSplit, quote_text
from kastor.domain.content import Example, Media, Text

OUTSIDE_SEGMENT = "moment_outside_segment"
HINT = (
    "timestamps count from the beginning of the file, as the model sees them; "
    "kastor prepare --times-from segment rewrites those that count from startOffset"
)
_ANY_S = Fraction(10**9)


def timestamps_outside_segment(line: int, example: Example) -> Iterator[Issue]:
    """A finding for each text with a readable timestamp outside the segment of the example's only video."""
    segments = [medium for medium in example.media if medium.start_s or medium.end_s is not None]
    if len(segments) != 1:
        return
    last = len(example.contents) - 1
    for i, content in enumerate(example.contents):
        for j, part in enumerate(content.parts):
            outside = _outside(part.text, segments[0], is_prompt=i < last) if isinstance(part, Text) else None
            if outside is not None:
                message = f"{outside} lies outside the segment {_shown(segments[0])}"
                yield Issue(line, f"contents[{i}].parts[{j}].text", OUTSIDE_SEGMENT, message, HINT)


def _outside(text: str, segment: Media, *, is_prompt: bool) -> str | None:
    """The first timestamp of the text outside the segment."""
    try:
        marks = TimestampedText(text, _ANY_S, TimestampConfig(), is_prompt=is_prompt).marks
    except CannotSplit:
        return None
    for mark in marks:
        begin, end = mark.interval
        if begin < (segment.start_s or 0) or (segment.end_s is not None and end > segment.end_s):
            return quote_text(text[mark.begin : mark.stop])
    return None


def _shown(segment: Media) -> str:
    end = "its end" if segment.end_s is None else f"{segment.end_s:g} s"
    return f"from {segment.start_s or 0:g} s to {end}"

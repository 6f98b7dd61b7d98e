"""A text as a tree of its moments: every format (`timestamp_*`) makes one, `retime_text` cuts it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.timestamps.time_formats import SLACK_S, TimeSpan

MAX_QUOTED_CHARS = 60


class CannotSplit(Exception):
    """A text cannot be shared out by a machine; `why` says what stands in the way."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class IgnoredMatch:
    """What looks like a moment and certainly is none."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class TextNode:
    """A stretch of the text. Of a `unit` the first mark decides where it belongs; items of a `list` are shared out."""

    begin: int
    stop: int
    marks: tuple[TimeSpan, ...] = ()
    items: tuple["TextNode", ...] = ()
    unit: bool = False
    list: bool = False
    number: tuple[int, int] | None = None  # where its place in the list is written

    @property
    def has_timestamps(self) -> bool:
        """Whether there are moments in it."""
        return bool(self.marks) or any(item.has_timestamps for item in self.items)

    @property
    def all_marks(self) -> Iterator[TimeSpan]:
        """Its moments and those of its items."""
        yield from self.marks
        for item in self.items:
            yield from item.all_marks


@dataclass(slots=True)
class TimestampReading:
    """What the formats know of a text beside its letters; `left` collects what is no moment, for people to look at."""

    duration_s: Fraction
    forms: TimestampConfig
    is_prompt: bool = False
    left: list[IgnoredMatch] = field(default_factory=list)

    def without_ambiguity(self, text: str, mark: TimeSpan) -> TimeSpan:
        """The mark.

        Raises:
            CannotSplit: it lies beyond the video, or ends before it starts.

        """
        begin, end = mark.interval
        shown = quote_text(text[mark.begin : mark.stop])
        if end < begin:
            raise CannotSplit(f"{shown}: the end lies before the start")
        if end > self.duration_s + SLACK_S:
            raise CannotSplit(
                f"{shown} lies beyond the {float(self.duration_s):.1f} s that there are; is it in its unit?"
            )
        return mark


def decimal(text: str, mark: TimeSpan, reading: TimestampReading) -> TimeSpan:
    """The mark, whose seconds are no thousands: 1.310 s is 1310 s in half of the world.

    Raises:
        CannotSplit: both could be meant.

    """
    for stamp in (mark.start, mark.end):
        one = stamp.fields[0] if stamp is not None and len(stamp.fields) == 1 else None
        if stamp and one and one.digits == 3 and 1 <= stamp.seconds <= reading.duration_s / 1000:
            raise raise_ambiguous(text[stamp.begin : stamp.stop], "has a point for decimals or for thousands")
    return mark


def join_quoted(items: list[TextNode]) -> TextNode:
    """A list of these items and nothing around them."""
    return TextNode(items[0].begin, items[-1].stop, items=tuple(items), list=True)


def quote_text(text: str) -> str:
    """A text in a sentence, short."""
    shown = " ".join(text.split())
    return f"“{shown[: MAX_QUOTED_CHARS - 3]}…”" if len(shown) > MAX_QUOTED_CHARS else f"“{shown}”"


def raise_ambiguous(text: str, why: str) -> CannotSplit:
    """The refusal of what may be a moment or not."""
    return CannotSplit(f"{quote_text(text)}: {why}; say what it is with --patterns")

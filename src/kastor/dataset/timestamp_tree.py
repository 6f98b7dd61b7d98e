"""A text as a tree of its moments: every format (`timestamp_*`) makes one, `retime_text` cuts it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from kastor.dataset.retime_forms import Forms
from kastor.dataset.timestamps import SLACK_S, Mark

MAX_QUOTED_CHARS = 60


class CannotCut(Exception):
    """A text cannot be shared out by a machine; `why` says what stands in the way."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """What looks like a moment and certainly is none."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Node:
    """A stretch of the text. Of a `unit` the first mark decides where it belongs; items of a `list` are shared out."""

    begin: int
    stop: int
    marks: tuple[Mark, ...] = ()
    items: tuple["Node", ...] = ()
    unit: bool = False
    list: bool = False
    number: tuple[int, int] | None = None  # where its place in the list is written

    @property
    def timed(self) -> bool:
        """Whether there are moments in it."""
        return bool(self.marks) or any(item.timed for item in self.items)

    @property
    def all_marks(self) -> Iterator[Mark]:
        """Its moments and those of its items."""
        yield from self.marks
        for item in self.items:
            yield from item.all_marks


@dataclass(slots=True)
class Reading:
    """What the formats know of a text beside its letters; `left` collects what is no moment, for people to look at."""

    duration_s: Fraction
    forms: Forms
    is_prompt: bool = False
    left: list[LeftAlone] = field(default_factory=list)

    def checked(self, text: str, mark: Mark) -> Mark:
        """The mark.

        Raises:
            CannotCut: it lies beyond the video, or ends before it starts.

        """
        begin, end = mark.interval
        shown = quoted(text[mark.begin : mark.stop])
        if end < begin:
            raise CannotCut(f"{shown}: the end lies before the start")
        if end > self.duration_s + SLACK_S:
            raise CannotCut(
                f"{shown} lies beyond the {float(self.duration_s):.1f} s that there are; is it in its unit?"
            )
        return mark


def decimal(text: str, mark: Mark, reading: Reading) -> Mark:
    """The mark, whose seconds are no thousands: 1.310 s is 1310 s in half of the world.

    Raises:
        CannotCut: both could be meant.

    """
    for stamp in (mark.start, mark.end):
        one = stamp.fields[0] if stamp is not None and len(stamp.fields) == 1 else None
        if stamp and one and one.digits == 3 and 1 <= stamp.seconds <= reading.duration_s / 1000:
            raise doubtful(text[stamp.begin : stamp.stop], "has a point for decimals or for thousands")
    return mark


def listed(items: list[Node]) -> Node:
    """A list of these items and nothing around them."""
    return Node(items[0].begin, items[-1].stop, items=tuple(items), list=True)


def quoted(text: str) -> str:
    """A text in a sentence, short."""
    shown = " ".join(text.split())
    return f"“{shown[: MAX_QUOTED_CHARS - 3]}…”" if len(shown) > MAX_QUOTED_CHARS else f"“{shown}”"


def doubtful(text: str, why: str) -> CannotCut:
    """The refusal of what may be a moment or not."""
    return CannotCut(f"{quoted(text)}: {why}; say what it is with --patterns")

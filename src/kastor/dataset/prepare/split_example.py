"""An example over a long video -> examples over its parts, every moment on the timeline of the part it falls in.

What cannot be shared out by a machine is said so (`CannotSplit`), never guessed. Files are not touched here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.timestamps.rewrite import PartText, TimestampedText, Window
from kastor.dataset.timestamps.time_formats import find_time_spans
from kastor.dataset.timestamps.tree import CannotSplit, raise_ambiguous
from kastor.domain.content import Example, Media, Part, Role, Text

__all__ = [
    "CannotSplit",
    "SplitRow",
    "TimestampConfig",
    "TextChange",
    "Window",
    "part_boundaries",
    "split_example",
    "unconverted_timestamps",
    "example_timestamps",
]
_BARE_NUMBER = re.compile(r"^[^\w\n]{0,3}(?P<number>\d+(?:\.\d+)?)(?![\w,:%]|\.\d)", re.MULTILINE)


IsShared = Callable[[str], bool]
"""Whether several rows have this prompt, which then says nothing of one video."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """One text before and after, and what a person should look at."""

    path: str
    before: str
    after: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitRow:
    """What an example became for one part."""

    part: int
    example: Example
    changes: tuple[TextChange, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A text part: which turn, which part, what was found in it."""

    turn: int
    place: int
    timed: TimestampedText

    @property
    def path(self) -> str:
        return f"contents[{self.turn}].parts[{self.place}].text"


def split_example(
    example: Example,
    windows: Sequence[Window],
    media: Callable[[int, Media], Media],
    duration_s: Fraction,
    forms: TimestampConfig,
    *,
    copy_untimed: bool = False,
    is_shared: IsShared = lambda text: False,
) -> tuple[SplitRow, ...]:
    """The example once for each part (window) that anything of it falls in; `media` gives a part's medium.

    The answer is shared out; prose answers go whole where all their moments fall. An answer without moments goes where
    the prompt's moments fall; if there are none either, to no part, or with `copy_untimed` to every one.

    Raises:
        CannotSplit: it cannot be shared out.

    """
    placed = _timed_texts(example, duration_s, forms, is_shared)
    asked = [one for one in placed if one.turn < len(example.contents) - 1]
    answers = [one for one in placed if one.turn == len(example.contents) - 1]
    if len(windows) > 1 and not copy_untimed and not any(one.timed.timed for one in placed):
        raise CannotSplit("neither the prompt nor the answer has moments that say which part they belong to")
    rows = []
    for number, window in enumerate(windows):
        shares = _shares(asked, answers, window)
        if shares is not None:
            if any(one.timed.timed for one in asked) and not any(one.timed.timed for one in answers):
                _check_bare_numbers(answers, window)
            rows.append(_row(example, number, placed, shares, media))
    if not rows:
        raise CannotSplit("its moments fall in several parts of the video, and the text cannot be parted")
    return tuple(rows)


def example_timestamps(
    example: Example, duration_s: Fraction, forms: TimestampConfig, is_shared: IsShared = lambda text: False
) -> tuple[tuple[Fraction, Fraction], ...]:
    """All moments and ranges in its turns, in seconds.

    Raises:
        CannotSplit: some cannot be told for sure.

    """
    found = _timed_texts(example, duration_s, forms, is_shared)
    return tuple(mark.interval for one in found for mark in one.timed.marks)


def unconverted_timestamps(
    example: Example, duration_s: Fraction, forms: TimestampConfig, is_shared: IsShared = lambda text: False
) -> tuple[str, ...]:
    """What looks like a moment and is not taken for one, each with the reason; that of the system instruction, too."""
    notes: dict[str, None] = {}
    for one in _timed_texts(example, duration_s, forms, is_shared):
        notes.update(dict.fromkeys(f"left alone: “{left.text}”: {left.why}" for left in one.timed.left))
    for part in example.system or ():
        if isinstance(part, Text):
            said = (part.text[mark.begin : mark.stop] for mark in find_time_spans(part.text, 0, len(part.text)))
            notes.update(dict.fromkeys(f"left alone: “{text}”: stands in the system instruction" for text in said))
    return tuple(notes)


def part_boundaries(
    start_s: Fraction, end_s: Fraction, max_s: Fraction, intervals: Iterable[tuple[Fraction, Fraction]]
) -> list[Fraction]:
    """Where to part [start, end) into windows of at most `max_s`: where no range is split, if the windows stay long.

    >>> spans = [(Fraction(0), Fraction(40)), (Fraction(40), Fraction(70)), (Fraction(70), Fraction(99))]
    >>> [int(at) for at in part_boundaries(Fraction(0), Fraction(100), Fraction(60), spans)]
    [0, 40, 100]
    """
    ranges = list(intervals)
    edges = sorted({edge for interval in ranges for edge in interval})
    found = [start_s]
    while end_s - found[-1] > max_s:
        latest = found[-1] + max_s
        good = [
            edge
            for edge in edges
            if found[-1] + max_s / 2 < edge <= latest and not any(low < edge < high for low, high in ranges)
        ]
        found.append(good[-1] if good else latest)
    return [*found, end_s]


def _check_bare_numbers(answers: Sequence[_Placed], window: Window) -> None:
    """Nothing, if no line begins with a number that would be another one in this part, were it a moment in seconds.

    Raises:
        CannotSplit: one does, in the answer to a prompt with moments; shows it.

    """
    for match in (match for one in answers for match in _BARE_NUMBER.finditer(one.timed.text)):
        if window.zero and window.low <= Fraction(match["number"]) <= window.high:
            raise raise_ambiguous(match[0], "may be a moment, as the prompt has moments, but has no unit")


def _timed_texts(example: Example, duration_s: Fraction, forms: TimestampConfig, is_shared: IsShared) -> list[_Placed]:
    last = len(example.contents) - 1
    placed = []
    for i, content in enumerate(example.contents):
        is_prompt = i < last and content.role is Role.USER
        for j, part in enumerate(content.parts):
            if isinstance(part, Text):
                shared = is_prompt and is_shared(part.text)
                timed = TimestampedText(part.text, duration_s, forms, is_prompt=is_prompt, is_shared=shared)
                placed.append(_Placed(i, j, timed))
    return placed


def _shares(
    asked: Sequence[_Placed], answers: Sequence[_Placed], window: Window
) -> dict[tuple[int, int], PartText] | None:
    """What each text becomes in this part; `None` if the example has nothing here.

    Raises:
        CannotSplit: the answer has something here and the prompt has not.

    """
    given: dict[tuple[int, int], PartText] = {}
    timed_answer = any(one.timed.timed for one in answers)
    for one in answers:
        whole_elsewhere = not one.timed.dividable and not one.timed.holds(window)
        share = None if whole_elsewhere else one.timed.share(window)
        if share is None:
            return None
        given[one.turn, one.place] = share
    for one in asked:
        share = one.timed.share(window) if timed_answer or one.timed.holds(window) else None
        if share is None and timed_answer:
            raise CannotSplit("moments of the prompt and of the answer fall in different parts of the video")
        if share is None:
            return None
        given[one.turn, one.place] = share
    return given


def _row(
    example: Example,
    number: int,
    placed: Sequence[_Placed],
    shares: dict[tuple[int, int], PartText],
    media: Callable[[int, Media], Media],
) -> SplitRow:
    def made(turn: int, place: int, part: Part) -> Part:
        if isinstance(part, Media):
            return media(number, part)
        return Text(shares[turn, place].text) if (turn, place) in shares else part

    contents = tuple(
        replace(content, parts=tuple(made(i, j, part) for j, part in enumerate(content.parts)))
        for i, content in enumerate(example.contents)
    )
    changes = tuple(
        TextChange(one.path, one.timed.text, share.text, share.notes)
        for one in placed
        if (share := shares[one.turn, one.place]).text != one.timed.text or share.notes
    )
    return SplitRow(number, replace(example, contents=contents), changes)

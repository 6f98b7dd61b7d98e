"""One text with moments of a video, and what of it belongs to a part of that video.

A text is JSON, subtitles, a table, lines that each begin with a moment, or prose; each format finds its moments with
certainty or refuses the text. Elements of lists are shared out; prose is kept whole. Only the moments are rewritten,
and the numbers of counted items; everything else stays as it was written, to the letter.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from kastor.dataset.formats.json_spans import JsonSpan, parse_json_spans
from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.timestamps.cues import cue_file
from kastor.dataset.timestamps.json_values import JsonTimestamps
from kastor.dataset.timestamps.lines import line_list
from kastor.dataset.timestamps.prose import mentions_time, prose_marks, shows_example
from kastor.dataset.timestamps.tables import table
from kastor.dataset.timestamps.time_formats import Edit, TimeSpan, apply_edits, find_time_spans
from kastor.dataset.timestamps.tree import CannotSplit, IgnoredMatch, TextNode, TimestampReading, quote_text

_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*\n(?P<body>.*?)\n?[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"[^\n]*\S[^\n]*")


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a video as its moments count: [low, high), rewritten so that `zero` becomes 0.

    The first part has everything before it, too, and the last everything after: nothing is lost at the ends.
    """

    low: Fraction
    high: Fraction
    zero: Fraction = Fraction(0)
    first: bool = True
    last: bool = True

    def meets(self, mark: TimeSpan) -> bool:
        """Whether any of it falls in here."""
        begin, end = mark.interval
        ahead = self.first or end > self.low or (begin == end and begin >= self.low)
        return ahead and (self.last or begin < self.high)

    def holds(self, mark: TimeSpan) -> bool:
        """Whether all of it falls in here."""
        begin, end = mark.interval
        return self.meets(mark) and self.clipped(mark) == (begin, end)

    def clipped(self, mark: TimeSpan) -> tuple[Fraction, Fraction]:
        """What of it falls in here."""
        begin, end = mark.interval
        return begin if self.first else max(begin, self.low), end if self.last else min(end, self.high)


@dataclass(frozen=True, slots=True)
class PartText:
    """What of a text belongs to a window, and what was done to it."""

    text: str
    notes: tuple[str, ...]


class TimestampedText:
    """A text whose moments were found.

    Raises:
        CannotSplit: it has moments in a place where they cannot be told for sure.

    """

    def __init__(
        self,
        text: str,
        duration_s: Fraction,
        forms: TimestampConfig,
        *,
        is_prompt: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.text = text
        self._reading = TimestampReading(duration_s, forms, is_prompt)
        self._shows_form = is_prompt and shows_example(text)
        self._root = self._constant() if is_shared else self._parsed()
        self._dividable = not self.prose or parse_json_spans(text) is not None

    @property
    def left(self) -> Sequence[IgnoredMatch]:
        """What looks like a moment and certainly is none."""
        return self._reading.left

    @property
    def timed(self) -> bool:
        """Whether there are moments in it."""
        return self._root.has_timestamps

    @property
    def prose(self) -> bool:
        """Whether it can only be kept whole."""
        return not self._root.items and not self._root.unit and not self._root.list

    @property
    def dividable(self) -> bool:
        """Whether a range in it may be clipped without harm to other words: JSON and lists, not prose."""
        return self._dividable

    @property
    def marks(self) -> tuple[TimeSpan, ...]:
        """All moments, in the order of the text."""
        return tuple(sorted(self._root.all_marks, key=lambda mark: mark.start.begin))

    def holds(self, window: Window) -> bool:
        """Whether all moments fall wholly in the window."""
        return all(window.holds(mark) for mark in self._root.all_marks)

    def share(self, window: Window, *, ties_up: bool = True) -> PartText | None:
        """What of the text falls in the window, on its timeline; `None` if nothing does.

        Raises:
            CannotSplit: something of it falls in here and something does not, and they cannot be parted.

        """
        if not self.timed:
            return PartText(self.text, ())
        edits: list[tuple[int, int, str]] = []
        notes: list[str] = []
        met = [window.meets(mark) for mark in self._root.all_marks]
        if not any(met) or (self.prose and not all(met)):
            return None
        there = self._edit(self._root, _Editing(window, edits, notes, ties_up))
        if not there or not any(written for _, _, written in edits):
            return None
        return PartText(apply_edits(self.text, edits), tuple(notes))

    def _edit(self, node: TextNode, doing: "_Editing") -> bool:
        """Collect what has to change; whether the node stays at all."""
        if not node.has_timestamps:
            return True
        if node.list:
            self._share_out(node, doing)
            return True
        if node.marks and not doing.window.meets(node.marks[0]) and (node.unit or not self.prose):
            if node.unit or self._alone(node, doing.window):
                return False
            raise CannotSplit(f"{self._words(node)} has moments in several parts of the video")
        others = node.marks[1:] if node.unit else node.marks
        if not all(doing.window.holds(mark) if node.unit else doing.window.meets(mark) for mark in others):
            raise CannotSplit(f"{self._words(node)} has moments in several parts of the video")
        for mark in node.marks:
            self._move(mark, doing)
        for item in node.items:
            if not self._edit(item, doing):
                raise CannotSplit(f"{self._words(item)} does not fall where the rest of it falls")
        return True

    def _alone(self, node: TextNode, window: Window) -> bool:
        """Whether all of an object lies elsewhere."""
        return not any(window.meets(mark) for mark in node.all_marks)

    def _share_out(self, node: TextNode, doing: "_Editing") -> None:
        kept = []
        for place, item in enumerate(node.items):
            inner = _Editing(doing.window, [], [], doing.ties_up)
            elsewhere = item.has_timestamps and self._alone(item, doing.window)
            if not elsewhere and self._edit(item, inner):
                kept.append(place)
                doing.edits.extend(inner.edits)
                doing.notes.extend(inner.notes)
        if len(kept) < len(node.items):
            doing.edits.extend(self._numbered([node.items[place] for place in kept], node.items))
        if not kept:
            doing.edits.append((node.items[0].begin, node.items[-1].stop, ""))
            return
        if kept[0] > 0:
            doing.edits.append((node.items[0].begin, node.items[kept[0]].begin, ""))
        for place, after in zip(kept, [*kept[1:], len(node.items)], strict=True):
            if after > place + 1:
                doing.edits.append((node.items[place].stop, node.items[after - 1].stop, ""))

    def _numbered(self, kept: Sequence[TextNode], items: Sequence[TextNode]) -> Iterator[Edit]:
        """The numbers of the items that are kept: those of a list that counts its items count anew."""
        written = [int(self.text[slice(*item.number)]) for item in items if item.number]
        if len(written) < len(items) or not _consecutive(written):
            return
        for number, item in enumerate(kept, min(written[0], 1)):
            if item.number:
                yield *item.number, str(number)

    def _move(self, mark: TimeSpan, doing: "_Editing") -> None:
        begin, end = doing.window.clipped(mark)
        zero = doing.window.zero
        moved = [(mark.start, begin - zero), (mark.end, end - zero), (mark.length, end - begin)]
        cut = end < mark.interval[1]
        for stamp, seconds in moved:
            if stamp is not None:
                down = cut and stamp is not mark.start
                doing.edits.extend(stamp.edits(seconds, ties_up=doing.ties_up, down=down))
        if (begin, end) != mark.interval:
            before = self.text[mark.begin : mark.stop]
            last = mark.end or mark.start
            after = mark.start.written(self.text, begin - zero), last.written(self.text, end - zero, down=cut)
            doing.notes.append(f"clipped at the cut: {before} is {after[0]} to {after[1]} here")

    def _words(self, node: TextNode) -> str:
        return quote_text(self.text[node.begin : node.stop])

    def _constant(self) -> TextNode:
        """A prompt that several rows share: what it names is none of one video's moments."""
        said = (self.text[mark.begin : mark.stop] for mark in find_time_spans(self.text, 0, len(self.text)))
        self._reading.left += [IgnoredMatch(text, "stands in a prompt that several rows share") for text in said]
        return TextNode(0, len(self.text))

    def _parsed(self) -> TextNode:
        fence = None if self._shows_form else _FENCE.search(self.text)
        if fence is None or _FENCE.search(self.text, fence.end()) is not None:
            return self._format(0, len(self.text))
        outside = ((0, fence.start("body")), (fence.end("body"), len(self.text)))
        if any(mentions_time(self.text, *span) for span in outside):
            return self._format(0, len(self.text))
        return self._format(*fence.span("body"))

    def _format(self, begin: int, stop: int) -> TextNode:
        """What the first format makes of text[begin:stop] that knows it; prose, if none does."""
        spot = parse_json_spans(self.text, begin, stop)
        if spot is not None:
            return JsonTimestamps(self.text, self._reading).node(spot)
        lines = self._json_lines(begin, stop)
        if lines:
            return JsonTimestamps(self.text, self._reading).lines(lines)
        if self._shows_form:
            return TextNode(begin, stop, prose_marks(self.text, begin, stop, self._reading))
        for known in (cue_file, table, line_list):
            node = known(self.text, begin, stop, self._reading)
            if node is not None:
                return node
        return TextNode(begin, stop, prose_marks(self.text, begin, stop, self._reading))

    def _json_lines(self, begin: int, stop: int) -> list[JsonSpan]:
        """The objects of a text that has one on each line."""
        spots = []
        for match in _LINE.finditer(self.text, begin, stop):
            spot = parse_json_spans(self.text, *match.span())
            if spot is None:
                return []
            spots.append(spot)
        return spots


@dataclass(slots=True)
class _Editing:
    """One window's changes as they are collected."""

    window: Window
    edits: list[tuple[int, int, str]]
    notes: list[str]
    ties_up: bool


def _consecutive(numbers: Sequence[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(numbers))

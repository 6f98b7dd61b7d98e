"""One text with moments of a video, and what of it belongs to a part of that video.

A text is JSON, lines that each begin with a moment, or prose. Elements of JSON arrays and lines are shared out; prose
is kept whole. Only the moments are rewritten; everything else stays as it was written, to the letter.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kastor.dataset.json_spans import Spot, json_spot
from kastor.dataset.retime_forms import Forms
from kastor.dataset.timestamps import LEADING, SLACK_S, LeftAlone, Mark, Stamp, Unit, find, stamp_of

_FENCE = re.compile(r"\s*```(?:json|jsonl)?[ \t]*\n(?P<body>.*?)\n?```\s*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-fA-F]{4})|.)")


class CannotCut(Exception):
    """A text cannot be shared out by a machine; `why` says what stands in the way."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


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

    def meets(self, mark: Mark) -> bool:
        """Whether any of it falls in here."""
        begin, end = mark.interval
        ahead = self.first or end > self.low or (begin == end and begin >= self.low)
        return ahead and (self.last or begin < self.high)

    def holds(self, mark: Mark) -> bool:
        """Whether all of it falls in here."""
        begin, end = mark.interval
        return self.meets(mark) and self.clipped(mark) == (begin, end)

    def clipped(self, mark: Mark) -> tuple[Fraction, Fraction]:
        """What of it falls in here."""
        begin, end = mark.interval
        return begin if self.first else max(begin, self.low), end if self.last else min(end, self.high)


@dataclass(frozen=True, slots=True)
class Node:
    """A stretch of the text. Of a `unit` the first mark decides where it belongs; items of a `list` are shared out."""

    begin: int
    stop: int
    marks: tuple[Mark, ...] = ()
    items: tuple["Node", ...] = ()
    unit: bool = False
    list: bool = False

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


@dataclass(frozen=True, slots=True)
class Share:
    """What of a text belongs to a window, and what was done to it."""

    text: str
    notes: tuple[str, ...]


class Timed:
    """A text whose moments were found.

    Raises:
        CannotCut: it has moments in a place where they cannot be told for sure.

    """

    def __init__(self, text: str, duration_s: Fraction, forms: Forms) -> None:
        self.text = text
        self.left: list[LeftAlone] = []
        self._duration_s = duration_s
        self._forms = forms
        self._unescaped = _ESCAPE.sub(_blanked, text)  # as JSON strings mean it, with every place where it was
        self._root = self._parsed()
        self._dividable = not self.prose or json_spot(text) is not None

    @property
    def timed(self) -> bool:
        """Whether there are moments in it."""
        return self._root.timed

    @property
    def prose(self) -> bool:
        """Whether it can only be kept whole."""
        return not self._root.items and not self._root.unit and not self._root.list

    @property
    def dividable(self) -> bool:
        """Whether a range in it may be clipped without harm to other words: JSON and lists, not prose."""
        return self._dividable

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All moments, in the order of the text."""
        return tuple(sorted(self._root.all_marks, key=lambda mark: mark.start.begin))

    def holds(self, window: Window) -> bool:
        """Whether all moments fall wholly in the window."""
        return all(window.holds(mark) for mark in self._root.all_marks)

    def share(self, window: Window, *, ties_up: bool = True) -> Share | None:
        """What of the text falls in the window, on its timeline; `None` if nothing does.

        Raises:
            CannotCut: something of it falls in here and something does not, and they cannot be parted.

        """
        if not self.timed:
            return Share(self.text, ())
        edits: list[tuple[int, int, str]] = []
        notes: list[str] = []
        met = [window.meets(mark) for mark in self._root.all_marks]
        if not any(met) or (self.prose and not all(met)):
            return None
        there = self._edit(self._root, _Editing(window, edits, notes, ties_up))
        if not there or not notes_of_marks(edits):
            return None
        return Share(_edited(self.text, edits), tuple(notes))

    def _edit(self, node: Node, doing: "_Editing") -> bool:
        """Collect what has to change; whether the node stays at all."""
        if not node.timed:
            return True
        if node.list:
            self._share_out(node, doing)
            return True
        if node.marks and not doing.window.meets(node.marks[0]) and (node.unit or not self.prose):
            if node.unit or self._alone(node, doing.window):
                return False
            raise CannotCut(f"{self._words(node)} has moments in several parts of the video")
        others = node.marks[1:] if node.unit else node.marks
        if not all(doing.window.holds(mark) if node.unit else doing.window.meets(mark) for mark in others):
            raise CannotCut(f"{self._words(node)} has moments in several parts of the video")
        for mark in node.marks:
            self._move(mark, doing)
        for item in node.items:
            if not self._edit(item, doing):
                raise CannotCut(f"{self._words(item)} does not fall where the rest of it falls")
        return True

    def _alone(self, node: Node, window: Window) -> bool:
        """Whether all of an object lies elsewhere."""
        return not any(window.meets(mark) for mark in node.all_marks)

    def _share_out(self, node: Node, doing: "_Editing") -> None:
        kept = []
        for place, item in enumerate(node.items):
            inner = _Editing(doing.window, [], [], doing.ties_up)
            elsewhere = item.timed and self._alone(item, doing.window)
            if not elsewhere and self._edit(item, inner):
                kept.append(place)
                doing.edits.extend(inner.edits)
                doing.notes.extend(inner.notes)
        if not kept:
            doing.edits.append((node.items[0].begin, node.items[-1].stop, ""))
            return
        if kept[0] > 0:
            doing.edits.append((node.items[0].begin, node.items[kept[0]].begin, ""))
        for place, after in zip(kept, [*kept[1:], len(node.items)], strict=True):
            if after > place + 1:
                doing.edits.append((node.items[place].stop, node.items[after - 1].stop, ""))

    def _move(self, mark: Mark, doing: "_Editing") -> None:
        begin, end = doing.window.clipped(mark)
        zero = doing.window.zero
        moved = [(mark.start, begin - zero), (mark.end, end - zero), (mark.length, end - begin)]
        cut = end < mark.interval[1]
        for stamp, seconds in moved:
            if stamp is not None:
                down = cut and stamp is not mark.start
                written = stamp.form.written(seconds, ties_up=doing.ties_up, down=down)
                doing.edits.append((stamp.begin, stamp.stop, written))
        if (begin, end) != mark.interval:
            before = self.text[mark.start.begin : (mark.end or mark.start).stop]
            last = mark.end or mark.start
            after = mark.start.form.written(begin - zero), last.form.written(end - zero, down=cut)
            doing.notes.append(f"clipped at the cut: {before} is {after[0]} to {after[1]} here")

    def _words(self, node: Node) -> str:
        shown = " ".join(self.text[node.begin : node.stop].split())
        return f"“{shown[:57]}…”" if len(shown) > 60 else f"“{shown}”"

    def _parsed(self) -> Node:
        fenced = _FENCE.fullmatch(self.text)
        begin, stop = fenced.span("body") if fenced else (0, len(self.text))
        spot = json_spot(self.text, begin, stop)
        if spot is not None:
            return self._json(spot)
        lines = self._json_lines(begin, stop)
        if lines:
            return Node(begin, stop, items=tuple(self._json(line) for line in lines), list=True)
        return self._lines_or_prose()

    def _json_lines(self, begin: int, stop: int) -> list[Spot]:
        """The objects of a text that has one on each line."""
        spots = []
        for match in re.compile(r"[^\n]*\S[^\n]*").finditer(self.text, begin, stop):
            spot = json_spot(self.text, *match.span())
            if spot is None:
                return []
            spots.append(spot)
        return spots

    def _lines_or_prose(self) -> Node:
        marks = self._find(self.text, 0, len(self.text))
        units = self._units(marks)
        if len(units) < 2 and not (units and units[0] == 0 and "\n" not in self.text.strip()):
            return Node(0, len(self.text), marks)
        for left in self.left:
            if left.why.startswith("lies beyond"):
                raise CannotCut(f"“{left.text}” {left.why}")
        places = [mark.start.begin for mark in marks]
        items = []
        for begin, after in zip(units, [*units[1:], len(self.text)], strict=True):
            stop = begin + len(self.text[begin:after].rstrip())
            held = marks[bisect_left(places, begin) : bisect_left(places, stop)]
            items.append(Node(begin, stop, held, unit=True))
        listed = Node(units[0], items[-1].stop, items=tuple(items), list=True)
        header = tuple(mark for mark in marks if mark.start.begin < units[0])
        return Node(0, len(self.text), items=(Node(0, units[0], header), listed)) if header else listed

    def _units(self, marks: Sequence[Mark]) -> list[int]:
        """Where lines begin that begin with a moment; of subtitles, the number before belongs to it."""
        begins = []
        for mark in marks:
            line = self.text.rfind("\n", 0, mark.start.begin) + 1
            if LEADING.fullmatch(self.text, line, mark.start.begin):
                above = self.text.rfind("\n", 0, max(0, line - 1)) + 1
                numbered = line > 0 and self.text[above : line - 1].strip().isdecimal()
                begins.append(above if numbered else line)
        return sorted(set(begins))

    def _find(self, text: str, begin: int, stop: int) -> tuple[Mark, ...]:
        found = find(text, begin, stop, self._duration_s, self._forms.patterns)
        self.left += found.left
        return found.marks

    def _json(self, spot: Spot, key: str = "") -> Node:
        if spot.kind == "object":
            return self._object(spot)
        if spot.kind == "array":
            return self._array(spot, key)
        if spot.kind == "string":
            marks = self._find(self._unescaped, spot.begin + 1, spot.stop - 1)
            return Node(spot.begin, spot.stop, marks)
        return Node(spot.begin, spot.stop)

    def _object(self, spot: Spot) -> Node:
        held: dict[str, list[Stamp]] = {"start": [], "end": [], "length": [], "point": []}
        marks: list[Mark] = []
        items: list[Node] = []
        for key, item in spot.items:
            meaning = self._forms.keys.meaning(key)
            pair = self._pair(item, meaning)
            stamp = self._stamp(item, meaning[1]) if meaning and meaning[0] != "range" else None
            if pair is not None:
                marks.append(pair)
            elif stamp is not None and meaning is not None:
                held[meaning[0]].append(stamp)
            else:
                items.append(self._json(item, key))
        marks += self._paired(held)
        self._check(marks)
        self._check_parallel(items)
        return Node(spot.begin, spot.stop, tuple(marks), tuple(items))

    def _paired(self, held: Mapping[str, list[Stamp]]) -> Iterator[Mark]:
        starts, ends, lengths = held["start"], held["end"], held["length"]
        if len(starts) == len(ends):
            yield from (Mark(start, end) for start, end in zip(starts, ends, strict=True))
        elif len(starts) == len(lengths) and not ends:
            yield from (Mark(start, length=length) for start, length in zip(starts, lengths, strict=True))
        else:
            yield from (Mark(stamp) for stamp in (*starts, *ends))
        yield from (Mark(stamp) for stamp in held["point"])
        if lengths and len(starts) != len(lengths):
            self.left += [
                LeftAlone(self.text[stamp.begin : stamp.stop], "a length without a start") for stamp in lengths
            ]

    def _check(self, marks: Sequence[Mark]) -> None:
        for mark in marks:
            begin, end = mark.interval
            shown = self.text[mark.start.begin : (mark.end or mark.start).stop]
            if end < begin:
                raise CannotCut(f"“{shown}”: the end lies before the start")
            if end > self._duration_s + SLACK_S:
                raise CannotCut(
                    f"“{shown}” lies beyond the video's {float(self._duration_s):.1f} s; is it in its unit?"
                )

    def _check_parallel(self, items: Sequence[Node]) -> None:
        """Lists side by side, one of them of moments, belong together by their places."""
        sizes = [len(item.items) for item in items if item.list and all(one.unit for one in item.items)]
        for size in sizes:
            others = [item for item in items if len(item.items) == size]
            if size > 1 and len(others) > 1:
                raise CannotCut("lists side by side belong together by their places; write them as one list of objects")

    def _array(self, spot: Spot, key: str) -> Node:
        meaning = self._forms.keys.meaning(key)
        items = [self._element(item, meaning) for _, item in spot.items]
        if any(item.timed for item in items) and not all(item.timed for item in items):
            raise CannotCut(f"in the list {self._words(Node(spot.begin, spot.stop))} only some elements have moments")
        listed = bool(items) and all(item.timed for item in items)
        return Node(spot.begin, spot.stop, items=tuple(items), list=listed)

    def _element(self, item: Spot, meaning: tuple[str, Unit] | None) -> Node:
        pair = self._pair(item, meaning)
        stamp = self._stamp(item, meaning[1]) if meaning and meaning[0] != "length" else None
        if pair is not None or stamp is not None:
            marks = [pair] if pair is not None else [Mark(stamp)] if stamp is not None else []
            self._check(marks)
            return Node(item.begin, item.stop, tuple(marks), unit=True)
        node = self._json(item)
        if item.kind == "string" and node.marks:
            return Node(node.begin, node.stop, node.marks, unit=True)
        return node

    def _stamp(self, item: Spot, unit: Unit) -> Stamp | None:
        if item.kind == "string":
            return stamp_of(self.text, item.begin + 1, item.stop - 1, unit)
        return stamp_of(self.text, item.begin, item.stop, unit) if item.kind == "number" else None

    def _pair(self, item: Spot, meaning: tuple[str, Unit] | None) -> Mark | None:
        """A range written as two values, or as one string."""
        if meaning is None or meaning[0] == "length":
            return None
        if item.kind == "array" and len(item.items) == 2:
            both = [self._stamp(one, meaning[1]) for _, one in item.items]
            if both[0] is not None and both[1] is not None and both[0].seconds <= both[1].seconds:
                return Mark(both[0], both[1])
        if item.kind == "string":
            node = self._json(item)
            if len(node.marks) == 1 and node.marks[0].end is not None:
                return node.marks[0]
        return None


@dataclass(slots=True)
class _Editing:
    """One window's changes as they are collected."""

    window: Window
    edits: list[tuple[int, int, str]]
    notes: list[str]
    ties_up: bool


def notes_of_marks(edits: Sequence[tuple[int, int, str]]) -> bool:
    """Whether a moment stays: what is only taken out leaves nothing."""
    return any(text for _, _, text in edits)


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for begin, stop, written in sorted(edits):
        parts += [text[at:begin], written]
        at = stop
    return "".join([*parts, text[at:]])


def _blanked(match: re.Match[str]) -> str:
    """Escapes as what they mean where that may stand in a moment, else as blanks; no place changes."""
    meant = chr(int(match["code"], 16)) if match["code"] else " "
    return (meant if meant in "–—→" else " ").ljust(len(match[0]))

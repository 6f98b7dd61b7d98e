"""Moments in JSON: the values under names of times, of objects and of the elements of lists.

In an object that has such a name no other text is one. Without one, a text is read as any other; what stands alone
under a name that is not known for a time is doubtful.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from kastor.dataset.formats.json_spans import JsonSpan
from kastor.dataset.timestamps.config import KeyMeaning
from kastor.dataset.timestamps.lines import head_mark
from kastor.dataset.timestamps.prose import mentions_time, prose_marks
from kastor.dataset.timestamps.time_formats import (
    SECOND,
    SLACK_S,
    TimeSpan,
    WrittenTime,
    find_time_spans,
    parse_written_time,
)
from kastor.dataset.timestamps.tree import (
    CannotSplit,
    IgnoredMatch,
    TextNode,
    TimestampReading,
    quote_text,
    raise_ambiguous,
)

_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-fA-F]{4})|(?P<letter>.))")
_WORDS = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|[0-9]+")
_NO_TIMES = frozenset(
    ["clock", "score", "scores", "ratio", "aspect", "odds", "result", "verse", "date", "version", "id"]
)
_UNIT_NAMES = frozenset(["unit", "units", "fps", "timescale", "timebase"])
_SECONDS = frozenset(["s", "sec", "secs", "second", "seconds"])
_PERHAPS_TIMES = frozenset(  # names whose numbers may be moments: of other languages, or of other things, too
    [
        *("inicio", "fin", "debut", "début", "anfang", "beginn", "ende", "zeit", "tiempo", "hora", "inizio", "fine"),
        *("tempo", "startzeit", "endzeit", "начало", "конец", "время", "開始", "終了", "時間", "时间", "开始", "结束"),
        *(
            "시작",
            "끝",
            "시간",
            "in",
            "out",
            "pts",
            "moment",
            "moments",
            "clip",
            "clips",
            "cue",
            "temporal",
            "grounding",
        ),
    ]
)
_FRAMES = frozenset(["frame", "frames"])
_FRAME_WORDS = _FRAMES | {
    "start",
    "end",
    "begin",
    "stop",
    "first",
    "last",
    "from",
    "to",
    "index",
    "idx",
    "number",
    "no",
    "id",
}


class JsonTimestamps:
    """The moments of JSON values in one text."""

    def __init__(self, text: str, reading: TimestampReading) -> None:
        self._text = text
        self._reading = reading
        self._plain = _ESCAPE.sub(_unescaped, text)  # as strings mean it, with every place where it was

    def node(self, spot: JsonSpan, key: str = "", *, within: bool = False) -> TextNode:
        """The node of a value under `key`; `within` an object whose times are named, so that texts are none.

        Raises:
            CannotSplit: it has what may be a moment or not.

        """
        if spot.kind == "object":
            return self._object(spot, within=within)
        if spot.kind == "array":
            return self._array(spot, key, within=within)
        if spot.kind == "string" and not within:
            return TextNode(spot.begin, spot.stop, self._text_marks(spot, key))
        if spot.kind == "number" and not within:
            self._check_frames(spot, key)
        return TextNode(spot.begin, spot.stop)

    def lines(self, spots: Sequence[JsonSpan]) -> TextNode:
        """The list that has one object on each line."""
        return self._list(spots[0].begin, spots[-1].stop, [self.node(spot) for spot in spots])

    def _object(self, spot: JsonSpan, *, within: bool) -> TextNode:
        times = _Times(self._text)
        others: list[tuple[str, JsonSpan]] = []
        named = False
        for key, item in spot.items:
            if not within and any(mark.begin == 0 for mark in find_time_spans(key, 0, len(key))):
                raise raise_ambiguous(key, "is a name that may be a moment")
            meaning = self._reading.forms.keys.meaning(key)
            named = named or meaning is not None
            if meaning is None or not self._takes(item, meaning, times):
                others.append((key, item))
        others += times.drop_lone_units(within=within)
        found = [self._reading.without_ambiguity(self._text, mark) for mark in times.marks(self._reading)]
        if named and not found and not within:
            self._check_texts(others)
        items = [self.node(item, key, within=within or bool(found)) for key, item in others]
        if found or any(item.has_timestamps for item in items):
            self._check_unit(others)
        _check_parallel(items)
        return TextNode(spot.begin, spot.stop, tuple(found), tuple(items))

    def _takes(self, item: JsonSpan, meaning: KeyMeaning, times: "_Times") -> bool:
        """Whether a value under a name of a time is a moment or a range, which `times` then has."""
        pair = self._pair(item, meaning)
        if pair is not None:
            times.whole.append(pair)
            return True
        if meaning.kind == "range" or (meaning.plural and item.kind == "number"):
            if item.kind in ("number", "string") and not _is_word(self._text[item.begin : item.stop]):
                raise raise_ambiguous(
                    self._text[item.begin : item.stop], "stands under a name of several times, and is not"
                )
            return False
        stamp = self._stamp(item, meaning)
        if stamp is not None:
            times.add(meaning, stamp, item)
            return True
        self._check_unread(item, meaning)
        return False

    def _check_texts(self, items: Sequence[tuple[str, JsonSpan]]) -> None:
        """Raises `CannotSplit` for a text that may name a moment beside names of times that hold none."""
        for _, item in items:
            if item.kind == "string" and mentions_time(self._plain, item.begin + 1, item.stop - 1):
                raise raise_ambiguous(
                    self._plain[item.begin + 1 : item.stop - 1], "stands beside times that are not read"
                )

    def _check_unread(self, item: JsonSpan, meaning: KeyMeaning) -> None:
        """Raises `CannotSplit` for a value under a name of a time that holds a number and is not read."""
        shown = self._text[item.begin : item.stop]
        if item.kind == "number" or (item.kind == "string" and not _is_word(shown)):
            raise raise_ambiguous(
                f"{meaning.stem}: {shown}", "stands under the name of a time and is not read with certainty"
            )

    def _stamp(self, item: JsonSpan, meaning: KeyMeaning) -> WrittenTime | None:
        if item.kind == "string":
            return parse_written_time(self._text, item.begin + 1, item.stop - 1, meaning.size)
        if item.kind == "number":
            return parse_written_time(self._text, item.begin, item.stop, meaning.size)
        return self._composite(item) if item.kind == "object" else None

    def _composite(self, item: JsonSpan) -> WrittenTime | None:
        """The one moment of an object such as {"h": 0, "m": 21, "s": 50}."""
        parts = []
        for key, value in item.items:
            meaning = self._reading.forms.keys.meaning(key)
            if meaning is None or meaning.stem or value.kind != "number":
                return None
            stamp = parse_written_time(self._text, value.begin, value.stop, meaning.size)
            if stamp is None:
                return None
            parts.append(stamp)
        return _combined(parts)

    def _pair(self, item: JsonSpan, meaning: KeyMeaning) -> TimeSpan | None:
        """A range written as two values, or as one string."""
        if meaning.kind not in ("range", "point"):
            return None
        if item.kind == "array" and len(item.items) == 2:
            both = [self._stamp(one, meaning) for _, one in item.items]
            if both[0] is not None and both[1] is not None and both[0].seconds <= both[1].seconds:
                return None if meaning.plural else TimeSpan(both[0], both[1])
        if item.kind == "string":
            found = find_time_spans(self._plain, item.begin + 1, item.stop - 1)
            whole = self._plain[item.begin + 1 : item.stop - 1].strip(" []()")
            if len(found) == 1 and found[0].end and self._plain[found[0].begin : found[0].stop] == whole:
                return found[0]
        return None

    def _array(self, spot: JsonSpan, key: str, *, within: bool) -> TextNode:
        meaning = self._reading.forms.keys.meaning(key) if key else None
        if not key and not within:
            self._check_bare(spot)
        return self._list(spot.begin, spot.stop, [self._element(item, key, meaning, within) for _, item in spot.items])

    def _list(self, begin: int, stop: int, items: list[TextNode]) -> TextNode:
        timed = [item.has_timestamps for item in items]
        if any(timed) and not all(timed):
            raise CannotSplit(f"in the list {quote_text(self._text[begin:stop])} only some elements have moments")
        return TextNode(begin, stop, items=tuple(items), list=any(timed))

    def _element(self, item: JsonSpan, key: str, meaning: KeyMeaning | None, within: bool) -> TextNode:
        if meaning is not None and meaning.kind != "length":
            mark = self._pair(item, KeyMeaning("range", meaning.size))
            stamp = None if mark else self._stamp(item, meaning)
            mark = TimeSpan(stamp) if stamp else mark
            if mark is not None:
                return TextNode(item.begin, item.stop, (self._reading.without_ambiguity(self._text, mark),), unit=True)
            self._check_unread(item, meaning)
        if item.kind == "string" and not within:
            return self._line(item, key)
        return self.node(item, "" if item.kind == "array" else key, within=within)

    def _line(self, item: JsonSpan, key: str) -> TextNode:
        """An element that is a text: one line, which may begin with its moment."""
        begin, stop = item.begin + 1, item.stop - 1
        if _names_no_time(key):
            return TextNode(item.begin, item.stop)
        found = head_mark(self._plain, begin, stop, self._reading)
        if found is None:
            return TextNode(item.begin, item.stop, self._text_marks(item, key), unit=True)
        if key and not self._plain[found.stop : stop].strip(" )]"):
            raise raise_ambiguous(self._plain[begin:stop], f"stands under “{key}”, which is not known for a time")
        return TextNode(item.begin, item.stop, (self._reading.without_ambiguity(self._plain, found),), unit=True)

    def _text_marks(self, spot: JsonSpan, key: str) -> tuple[TimeSpan, ...]:
        """The moments of a string whose object names no time."""
        begin, stop = spot.begin + 1, spot.stop - 1
        if _names_no_time(key):
            return ()
        if parse_written_time(self._plain, begin, stop) is not None:
            raise raise_ambiguous(self._plain[begin:stop], f"stands under “{key}”, which is not known for a time")
        if not mentions_time(self._plain, begin, stop):
            return ()
        found = head_mark(self._plain, begin, stop, self._reading)
        if found is not None:
            raise raise_ambiguous(
                self._plain[begin:stop], f"begins with a moment under “{key}”, which is not known for a time"
            )
        return prose_marks(self._plain, begin, stop, self._reading)

    def _check_unit(self, others: Sequence[tuple[str, JsonSpan]]) -> None:
        """Raises `CannotSplit` where the object says that its times are in another unit than seconds."""
        for key, item in others:
            shown = self._text[item.begin : item.stop]
            if _key_words(key) & _UNIT_NAMES and shown.strip('"').lower() not in _SECONDS:
                raise raise_ambiguous(f"{key}: {shown}", "gives a unit of the times beside, which is not seconds")

    def _check_frames(self, spot: JsonSpan, key: str) -> None:
        words = _key_words(key)
        if words & _PERHAPS_TIMES:
            raise raise_ambiguous(
                f"{key}: {self._text[spot.begin : spot.stop]}", "stands under a name that may be one of a time"
            )
        if words & _FRAMES and words <= _FRAME_WORDS:
            raise raise_ambiguous(
                f"{key}: {self._text[spot.begin : spot.stop]}", "counts frames, which are not rewritten"
            )

    def _check_bare(self, spot: JsonSpan) -> None:
        """Raise `CannotSplit` for a list of nothing but numbers, which may be seconds, or of two beside a text."""
        values = [value for _, item in spot.items for value in ([item] if item.kind != "array" else _values(item))]
        numbers = [float(self._text[value.begin : value.stop]) for value in values if value.kind == "number"]
        labelled = len(numbers) == 2 and {item.kind for _, item in spot.items} == {"number", "string"}
        ranged = labelled and 0 <= numbers[0] < numbers[1] <= self._reading.duration_s + SLACK_S
        if ranged or (values and len(numbers) == len(values)):
            raise raise_ambiguous(self._text[spot.begin : spot.stop], "may be moments, but nothing names them")


@dataclass(slots=True)
class _Times:
    """The moments that one object names, as they are collected."""

    text: str
    whole: list[TimeSpan] = field(default_factory=list)
    stamps: dict[tuple[str, str], list[tuple[KeyMeaning, WrittenTime, JsonSpan]]] = field(default_factory=dict)

    def add(self, meaning: KeyMeaning, stamp: WrittenTime, spot: JsonSpan) -> None:
        """One more value under a name of a time."""
        self.stamps.setdefault((meaning.kind, meaning.stem), []).append((meaning, stamp, spot))

    def drop_lone_units(self, *, within: bool) -> Iterator[tuple[str, JsonSpan]]:
        """Values named by units alone that make no whole moment: content beside named times, else doubtful."""
        lone = self.stamps.get(("point", ""))
        if not lone or (len(lone) > 1 and _combined([stamp for _, stamp, _ in lone]) is not None):
            return
        named = within or self.whole or len(self.stamps) > 1
        del self.stamps["point", ""]
        for _, stamp, spot in lone:
            if not named:
                raise raise_ambiguous(self.text[stamp.begin : stamp.stop], "may be a moment or a length")
            yield "", spot

    def marks(self, reading: TimestampReading) -> Iterator[TimeSpan]:
        """The moments and ranges."""
        held: dict[str, list[WrittenTime]] = {"start": [], "end": [], "length": [], "point": []}
        for (kind, _), found in self.stamps.items():
            held[kind] += _whole(found)
            if any(one.fields[-1].size > SECOND for one in held[kind]):
                shown = self.text[held[kind][-1].begin : held[kind][-1].stop]
                raise raise_ambiguous(shown, "counts minutes or hours, in which a moment of a part is not exact")
        starts, ends, lengths = held["start"], held["end"], held["length"]
        yield from self.whole
        if len(starts) == len(ends):
            yield from (TimeSpan(start, end) for start, end in zip(starts, ends, strict=True))
        elif len(starts) == len(lengths) and not ends:
            yield from (TimeSpan(start, length=length) for start, length in zip(starts, lengths, strict=True))
        else:
            yield from (TimeSpan(stamp) for stamp in (*starts, *ends))
        yield from (TimeSpan(stamp) for stamp in held["point"])
        if lengths and len(starts) != len(lengths):
            reading.left += [
                IgnoredMatch(self.text[one.begin : one.stop], "a length without a start") for one in lengths
            ]


def _whole(found: Sequence[tuple[KeyMeaning, WrittenTime, JsonSpan]]) -> list[WrittenTime]:
    """The values of one name in several units as one moment, where they are that."""
    values = [stamp for _, stamp, _ in found]
    combined = _combined(values) if len(values) > 1 and all(meaning.has_unit for meaning, _, _ in found) else None
    return values if combined is None else [combined]


def _combined(values: Sequence[WrittenTime]) -> WrittenTime | None:
    """One moment of hours, minutes, seconds and the like; `None` if they are none, or end with minutes."""
    fields = sorted((one for value in values for one in value.fields), key=lambda one: one.size, reverse=True)
    sizes = [one.size for one in fields]
    if len(set(sizes)) < len(values) or len(fields) > len(values) or not sizes or sizes[-1] > SECOND:
        return None
    seconds = {value.fields[0].size: value.seconds for value in values}
    if any(seconds[after] >= before for before, after in zip(sizes, sizes[1:], strict=False)):
        return None
    begin, stop = min(value.begin for value in values), max(value.stop for value in values)
    return WrittenTime(begin, stop, sum(seconds.values(), Fraction(0)), tuple(fields))


def _check_parallel(items: Sequence[TextNode]) -> None:
    """Raises `CannotSplit` for lists side by side, one of them of moments, which belong together by their places."""
    sizes = [len(item.items) for item in items if item.list and all(one.unit for one in item.items)]
    for size in sizes:
        others = [item for item in items if len(item.items) == size]
        if size > 1 and len(others) > 1:
            raise CannotSplit("lists side by side belong together by their places; write them as one list of objects")


def _values(spot: JsonSpan) -> list[JsonSpan]:
    return [item for _, item in spot.items]


def _key_words(key: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(key)}


def _names_no_time(key: str) -> bool:
    return bool(_key_words(key) & _NO_TIMES)


def _is_word(shown: str) -> bool:
    return not any(letter.isdigit() for letter in shown)


def _unescaped(match: re.Match[str]) -> str:
    """Escapes as what they mean where that may stand in a moment, else as blanks; no place changes."""
    if match["code"]:
        meant = chr(int(match["code"], 16))
        return (meant if meant in "–—→" else " ").ljust(6)
    return {"n": "\n", '"': '"'}.get(match["letter"], " ").ljust(2)

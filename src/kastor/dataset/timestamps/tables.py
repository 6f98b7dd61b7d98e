"""Tables with columns named for times: Markdown (`| Time | Event |`) and CSV with a header (`start,end,text`)."""

import re
from collections.abc import Sequence

from kastor.dataset.timestamps.config import KeyMeaning
from kastor.dataset.timestamps.prose import mentions_time
from kastor.dataset.timestamps.time_formats import SECOND, TimeSpan, WrittenTime, find_time_spans, parse_written_time
from kastor.dataset.timestamps.tree import TextNode, TimestampReading, join_quoted, raise_ambiguous

_LINE = re.compile(r"[^\n]*\S[^\n]*")
_RULE = re.compile(r"\s*\|?[\s:|-]*-[\s:|-]*\|?\s*")
_CELL = {
    separator: re.compile(rf'[ ]*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^"{sep}][^{sep}]*)|)[ ]*(?:{sep}|\Z)')
    for separator, sep in ((",", ","), (";", ";"), ("\t", r"\t"))
}
_PIPED = re.compile(r"(?:\\\||[^|])*")

Cell = tuple[int, int]


def table(text: str, begin: int, stop: int, reading: TimestampReading) -> TextNode | None:
    """The rows of the table that text[begin:stop] is; `None` if it is none with a column of times.

    Raises:
        CannotSplit: it is one, with rows that cannot be read.

    """
    lines = [match.span() for match in _LINE.finditer(text, begin, stop)]
    return _markdown(text, begin, stop, lines, reading) or _separated(text, lines, reading)


def _markdown(text: str, begin: int, stop: int, lines: list[Cell], reading: TimestampReading) -> TextNode | None:
    rule = next((place for place, span in enumerate(lines) if place and _RULE.fullmatch(text, *span)), None)
    if rule is None or "|" not in text[slice(*lines[rule - 1])]:
        return None
    names = _piped(text, *lines[rule - 1])
    last = next((place for place in range(rule + 1, len(lines)) if "|" not in text[slice(*lines[place])]), len(lines))
    rows = [_piped(text, *span) for span in lines[rule + 1 : last]]
    node = _rows(text, names, lines[rule + 1 : last], rows, reading)
    if node is not None and (
        mentions_time(text, begin, lines[rule - 1][0]) or mentions_time(text, lines[last - 1][1], stop)
    ):
        raise raise_ambiguous(text[begin:stop], "a moment may be named beside the table")
    return node


def _piped(text: str, begin: int, stop: int) -> list[Cell]:
    """The cells of a line, blanks and bold marks aside."""
    cells, at = [], begin
    while at <= stop:
        match = _PIPED.match(text, at, stop)
        end = match.end() if match else stop
        cells.append(_trimmed(text, at, end))
        at = end + 1
    line = text[begin:stop].strip()
    return cells[line.startswith("|") : len(cells) - line.endswith("|")]


def _trimmed(text: str, begin: int, stop: int) -> Cell:
    while begin < stop and text[begin] in " \t*_`[(":
        begin += 1
    while begin < stop and text[stop - 1] in " \t*_`])":
        stop -= 1
    return begin, stop


def _separated(text: str, lines: list[Cell], reading: TimestampReading) -> TextNode | None:
    if len(lines) < 2:
        return None
    for separator in _CELL:
        names = _cells(text, *lines[0], separator)
        if names and len(names) > 1 and any(_meaning(text, name, reading) for name in names):
            rows = [_cells(text, *span, separator) for span in lines[1:]]
            if any(row is None or len(row) != len(names) for row in rows):
                raise raise_ambiguous(text[slice(*lines[0])], "heads a table whose rows have other columns")
            return _rows(text, names, lines[1:], [row for row in rows if row is not None], reading)
    return None


def _cells(text: str, begin: int, stop: int, separator: str) -> list[Cell] | None:
    """Where the values of a line of CSV stand; `None` if its quotes are not closed."""
    found, at, ended = [], begin, False
    while at < stop or not ended:
        match = _CELL[separator].match(text, at, stop)
        if match is None:
            return None
        group = "quoted" if match["quoted"] is not None else "plain"
        low, high = match.span(group) if match[group] is not None else (match.end(), match.end())
        found.append((low, low + len(text[low:high].rstrip())))
        ended = match.end() == stop and text[match.end() - 1 : match.end()] != separator
        at = match.end()
        if at == stop and not ended:
            found.append((stop, stop))
            break
    return found


def _meaning(text: str, name: Cell, reading: TimestampReading) -> KeyMeaning | None:
    return reading.forms.keys.column(text[slice(*name)])


def _rows(
    text: str, names: Sequence[Cell], lines: Sequence[Cell], rows: Sequence[Sequence[Cell]], reading: TimestampReading
) -> TextNode | None:
    meanings = [_meaning(text, name, reading) for name in names]
    if not rows or not any(meaning and meaning.kind != "length" for meaning in meanings):
        return None
    for name, meaning in zip(names, meanings, strict=True):
        if meaning is not None and meaning.size > SECOND:
            raise raise_ambiguous(text[slice(*name)], "heads a column of minutes or hours, which are not exact")
    items = []
    for (begin, stop), row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise raise_ambiguous(text[begin:stop], "has other columns than the head of the table")
        items.append(TextNode(begin, stop, (_row_mark(text, begin, stop, row, meanings, reading),), unit=True))
    return join_quoted(items)


def _row_mark(
    text: str,
    begin: int,
    stop: int,
    row: Sequence[Cell],
    meanings: Sequence[KeyMeaning | None],
    reading: TimestampReading,
) -> TimeSpan:
    held: dict[str, list[TimeSpan]] = {}
    for cell, meaning in zip(row, meanings, strict=True):
        if meaning is None or cell[0] == cell[1]:
            continue
        mark = _cell_mark(text, cell, meaning)
        if mark is None:
            raise raise_ambiguous(text[begin:stop], "stands in a column of times and is not read with certainty")
        held.setdefault(meaning.kind, []).append(mark)
    kinds = {kind: found[0] for kind, found in held.items() if len(found) == 1}
    if len(kinds) < len(held) or not kinds:
        raise raise_ambiguous(text[begin:stop], "has no moment, or more than one of a kind")
    return reading.without_ambiguity(text, _joined(text, begin, stop, kinds))


def _joined(text: str, begin: int, stop: int, kinds: dict[str, TimeSpan]) -> TimeSpan:
    """The one moment or range of a row."""
    if set(kinds) in ({"point"}, {"range"}):
        return next(iter(kinds.values()))
    if (
        "start" in kinds
        and set(kinds) <= {"start", "end", "length"}
        and all(mark.end is None for mark in kinds.values())
    ):
        parts: dict[str, WrittenTime | None] = {kind: mark.start for kind, mark in kinds.items()}
        end, length = parts.get("end"), parts.get("length")
        return TimeSpan(kinds["start"].start, end, length)
    raise raise_ambiguous(text[begin:stop], "has times that do not make one moment or range")


def _cell_mark(text: str, cell: Cell, meaning: KeyMeaning) -> TimeSpan | None:
    stamp = parse_written_time(text, *cell, meaning.size)
    if stamp is not None:
        return TimeSpan(stamp)
    found = find_time_spans(text, *cell)
    whole = len(found) == 1 and found[0].end is not None and (found[0].begin, found[0].stop) == cell
    return found[0] if whole and meaning.kind in ("point", "range") else None

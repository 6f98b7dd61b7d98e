"""Where the values of a JSON text stand: the elements of lists, the fields of objects, values one after the other.

Only brackets, strings and comments are looked at, so that a faulty element does not keep the others from being read;
what a value is says `tolerant_json`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kastor.domain.errors import MalformedJson

_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*+(?P<closed>")?|\'(?:[^\'\\]|\\.)*+\'?|//[^\n]*+|/\*.*?(?:\*/|\Z)|(?P<mark>[\[\]{},:])',
    re.DOTALL,
)
_COMMENT = re.compile(rb"//[^\n]*+|/\*.*?(?:\*/|\Z)", re.DOTALL)
OPENING, CLOSING = b"[{", b"]}"
MAX_DEPTH = 4  # of objects around a list of rows


@dataclass(frozen=True, slots=True)
class Span:
    """A value at data[start:stop], perhaps with blanks around it; `key` is its field's name as it is written."""

    start: int
    stop: int
    key: bytes = b""


def children(data: bytes, begin: int) -> Iterator[Span]:
    """The elements or fields of the list or object that opens at `begin`.

    Raises:
        MalformedJson: it is never closed.

    """
    depth, start, key = 0, begin + 1, b""
    for match in _TOKEN.finditer(data, begin):
        mark = match["mark"]
        if mark is None:
            continue
        if mark in OPENING:
            depth += 1
        elif mark in CLOSING:
            depth -= 1
            if not depth:
                if _COMMENT.sub(b"", data[start : match.start()]).strip():
                    yield Span(start, match.start(), key)
                return
        elif depth == 1 and mark == b",":
            yield Span(start, match.start(), key)
            start, key = match.end(), b""
        elif depth == 1 and data[begin : begin + 1] == b"{":
            key, start = data[start : match.start()].strip(), match.end()
    line = data.count(b"\n", 0, begin) + 1
    kind = "list" if data[begin : begin + 1] == b"[" else "object"
    raise MalformedJson(
        f"The {kind} that begins on line {line} is never closed: the file is cut off, or a bracket is missing."
    )


def end_of(data: bytes, begin: int) -> int:
    """Where the list or object that opens at `begin` has ended; the end of the data, if it is never closed."""
    depth = 0
    for match in _TOKEN.finditer(data, begin):
        mark = match["mark"]
        if mark is not None and mark in OPENING:
            depth += 1
        elif mark is not None and mark in CLOSING:
            depth -= 1
            if not depth:
                return match.end()
    return len(data)


def top_level_values(data: bytes) -> Iterator[Span]:
    """Objects and lists that follow each other; whatever else stands between them is a value of its own."""
    at = 0
    while at < len(data):
        if data[at : at + 1] in (b" ", b"\t", b"\r", b"\n"):
            at += 1
            continue
        if data[at : at + 1] in (b"{", b"["):
            stop = end_of(data, at)
        else:
            stop = next((place for mark in OPENING if (place := data.find(mark, at)) >= 0), len(data))
        yield Span(at, stop)
        at = stop


def is_unfinished(line: bytes, following: bytes) -> bool:
    """Whether `line` begins a value that goes on on the lines behind it, the first of which is `following`.

    >>> is_unfinished(b'{"examples": [', b'{"a": 1},'), is_unfinished(b'{"a": 1,', b'{"a": 2}')
    (True, False)
    """
    brackets: list[bytes] = []
    for match in _TOKEN.finditer(line):
        mark = match["mark"]
        if mark is None:
            if match[0][:1] == b'"' and not match["closed"]:
                return False  # strings end on the line where they begin
        elif mark in OPENING:
            brackets.append(mark)
        elif mark in CLOSING:
            if not brackets:
                return False
            brackets.pop()
    if not brackets:
        return False
    is_next_row = following.lstrip()[:1] == b"{" and brackets[-1] == b"{" and line.rstrip()[-1:] in (b",", b"{")
    return not is_next_row


def row_lists(data: bytes, begin: int, depth: int = 0, path: str = "") -> Iterator[tuple[str, int]]:
    """The lists of objects or lists within an object, at most so deep: the path and the place of each.

    Raises:
        MalformedJson: the object is never closed.

    """
    for child in children(data, begin):
        text = data[child.start : child.stop]
        opening = text.lstrip()[:1]
        at = child.stop - len(text.lstrip())
        name = path + child.key.strip(b"\"'").decode("utf-8", "replace")
        if opening == b"[":
            first = next(children(data, at), None)
            if first is not None and data[first.start : first.stop].lstrip()[:1] in (b"{", b"["):
                yield name, at
        elif opening == b"{" and depth < MAX_DEPTH:
            yield from row_lists(data, at, depth + 1, f"{name}.")

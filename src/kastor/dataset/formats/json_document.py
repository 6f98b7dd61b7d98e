"""Locates values in a JSON document: elements of lists, fields of objects, consecutive top-level values.

Only brackets, strings and comments are examined, so that a faulty element does not prevent reading the others;
`tolerant_json` parses the values.
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
MAX_DEPTH = 4  # of nested objects around a list of rows


@dataclass(frozen=True, slots=True)
class Span:
    """A value at data[start:stop], with any surrounding whitespace; `key` is its field's name as written."""

    start: int
    stop: int
    key: bytes = b""


def children(data: bytes, begin: int) -> Iterator[Span]:
    """The elements or fields of the list or object that opens at `begin`.

    Raises:
        MalformedJson: the list or object is never closed.

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
        f"The {kind} that begins on line {line} is never closed: the file is truncated, or a bracket is missing."
    )


def end_of(data: bytes, begin: int) -> int:
    """The end of the list or object that opens at `begin`; the end of the data if it is never closed."""
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
    """Consecutive objects and lists; anything between two of them counts as one value."""
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
    """Whether `line` starts a value that continues on the next lines, the first of which is `following`.

    >>> is_unfinished(b'{"examples": [', b'{"a": 1},'), is_unfinished(b'{"a": 1,', b'{"a": 2}')
    (True, False)
    """
    brackets: list[bytes] = []
    for match in _TOKEN.finditer(line):
        mark = match["mark"]
        if mark is None:
            if match[0][:1] == b'"' and not match["closed"]:
                return False  # a string must end on the line where it starts
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
    """The path and offset of each list of objects or of lists inside an object, down to `MAX_DEPTH` levels.

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

"""JSON with the place of every value in its text, so that single values can be rewritten and nothing else changes."""

import json
import re
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # in the library since 2.6

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"true|false|null")
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """A value at text[begin:stop]; `kind` is object, array, string, number or word. `items` have their keys, if any."""

    kind: str
    begin: int
    stop: int
    items: tuple[tuple[str, "JsonSpan"], ...] = ()


def parse_json_spans(text: str, begin: int = 0, stop: int | None = None) -> JsonSpan | None:
    """The object or array that text[begin:stop] is, blanks aside; `None` if it is neither.

    >>> parse_json_spans('{"a": [1]}').items[0][1].begin
    6
    """
    end = len(text) if stop is None else stop
    at = _blank(text, begin)
    if at >= end or text[at] not in "[{":
        return None
    try:
        json.loads(text[at:end])
        spot = _value(text, at, 0)
    except (ValueError, RecursionError):
        return None
    return spot if _blank(text, spot.stop) >= end else None


def _blank(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, depth: int) -> JsonSpan:
    """The value at `at`; the text is known to be JSON."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    opening = text[at]
    if opening == "{":
        return _held(text, at, depth, "object", "}")
    if opening == "[":
        return _held(text, at, depth, "array", "]")
    if opening == '"':
        return JsonSpan("string", at, scanstring(text, at + 1)[1])
    match = _NUMBER.match(text, at) or _WORD.match(text, at)
    if match is None:
        raise ValueError("NaN or the like")
    return JsonSpan("number" if match.re is _NUMBER else "word", at, match.end())


def _held(text: str, begin: int, depth: int, kind: str, closing: str) -> JsonSpan:
    items: list[tuple[str, JsonSpan]] = []
    at = _blank(text, begin + 1)
    while text[at] != closing:
        key = ""
        if kind == "object":
            key, at = scanstring(text, at + 1)
            at = _blank(text, _blank(text, at) + 1)  # behind the colon
        item = _value(text, at, depth + 1)
        items.append((key, item))
        at = _blank(text, item.stop)
        if text[at] == ",":
            at = _blank(text, at + 1)
    return JsonSpan(kind, begin, at + 1, tuple(items))

"""Parses JSON into spans: the position of every value, so that single values can be rewritten in place."""

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
    """A value at text[begin:stop]; `kind` is object, array, string, number or word.

    `items` are pairs of a key, empty in an array, and a value.
    """

    kind: str
    begin: int
    stop: int
    items: tuple[tuple[str, "JsonSpan"], ...] = ()


def parse_json_spans(text: str, begin: int = 0, stop: int | None = None) -> JsonSpan | None:
    """The span of the object or array in text[begin:stop], surrounding whitespace aside; `None` if it is neither.

    >>> parse_json_spans('{"a": [1]}').items[0][1].begin
    6
    """
    end = len(text) if stop is None else stop
    at = _skip_space(text, begin)
    if at >= end or text[at] not in "[{":
        return None
    try:
        json.loads(text[at:end])
        span = _value(text, at, 0)
    except (ValueError, RecursionError):
        return None
    return span if _skip_space(text, span.stop) >= end else None


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, depth: int) -> JsonSpan:
    """The span of the value at `at`; the text must be valid JSON."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    opening = text[at]
    if opening == "{":
        return _container(text, at, depth, "object", "}")
    if opening == "[":
        return _container(text, at, depth, "array", "]")
    if opening == '"':
        return JsonSpan("string", at, scanstring(text, at + 1)[1])
    match = _NUMBER.match(text, at) or _WORD.match(text, at)
    if match is None:
        raise ValueError("NaN or the like")
    return JsonSpan("number" if match.re is _NUMBER else "word", at, match.end())


def _container(text: str, begin: int, depth: int, kind: str, closing: str) -> JsonSpan:
    items: list[tuple[str, JsonSpan]] = []
    at = _skip_space(text, begin + 1)
    while text[at] != closing:
        key = ""
        if kind == "object":
            key, at = scanstring(text, at + 1)
            at = _skip_space(text, _skip_space(text, at) + 1)  # after the colon
        item = _value(text, at, depth + 1)
        items.append((key, item))
        at = _skip_space(text, item.stop)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
    return JsonSpan(kind, begin, at + 1, tuple(items))

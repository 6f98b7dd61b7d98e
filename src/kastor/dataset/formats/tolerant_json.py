"""Parses JSON as Google's scripts write it: strictly first, then with trailing commas. Errors give the position."""

import math
import re

import orjson
import pyjson5

from kastor.domain.errors import MalformedJson

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

MAX_DEPTH = 128
MANY_COLONS = 40
# A string (up to the end of the text if it is never closed, so that no match starts inside one), a comment, or a comma
# before a closing bracket. Possessive quantifiers keep the time linear for any text.
_GAP = r"(?:\s|//[^\n]*+|/\*.*?\*/)*+"
_STRING_OR_EXTRA = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\Z)|(?P<extra>//[^\n]*+|/\*(?:.*?\*/|.*\Z)|,(?=' + _GAP + r"[\]}]))", re.DOTALL
)
_TOKEN = re.compile(  # JSON with bare names, single quotes and comments
    r"""(?P<comment>//[^\n]*+|/\*.*?\*/)|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|[{}\[\]:]|[^\s"'{}\[\],:/]+""", re.DOTALL
)


def parse_json(data: bytes, first_line: int | None = 1) -> JsonValue:
    """The value of a JSON text; `first_line` is the number of its first line, or `None` to leave lines out of errors.

    Raises:
        MalformedJson: even the tolerant parser rejects it, or it holds NaN or Infinity; gives line and column.

    """
    try:
        return orjson.loads(data)  # type: ignore[no-any-return]  # a JSON value by construction
    except orjson.JSONDecodeError:
        return _read_tolerantly(data, first_line)


def repeated_key(data: bytes, value: JsonValue) -> str | None:
    """A key that occurs twice in one object of `data`; `value` is the parsed `data`.

    JSON parsers keep the last of equal keys silently. If each colon belongs to a parsed key or to a string, no key was
    lost, and the slow search is skipped.

    Raises:
        MalformedJson: the value is nested too deeply.

    """
    if not _has_more_colons(data, _num_colons(value)) and not has_escaped_colons(data):
        return None
    objects: list[set[str] | None] = []  # the keys of each open object; `None` for a list
    name = ""
    for match in _TOKEN.finditer(data.decode()):
        word = match[0]
        if match["comment"]:
            continue
        if word in "{[":
            objects.append(set() if word == "{" else None)
        elif word in "}]":
            objects.pop()
        elif word == ":" and objects and (keys := objects[-1]) is not None:
            key = _key(name)
            if key in keys:
                return key
            keys.add(key)
        else:
            name = word
    return None


def has_escaped_colons(data: bytes) -> bool:
    """Whether the text may contain a colon written as an escape sequence."""
    return b"\\" in data and any(escape in data for escape in (b"\\u003a", b"\\u003A", b"\\x3a", b"\\x3A"))


def _key(word: str) -> str:
    """The key that a quoted string or a bare name stands for."""
    if "\\" not in word:
        return word[1:-1] if word[0] in "\"'" else word
    return str(pyjson5.decode(word if word[0] in "\"'" else f'"{word}"'))


def _has_more_colons(data: bytes, number: int) -> bool:
    """Whether there are more colons than `number`; for few, `find` is 30 times as fast as `count`."""
    if number > MANY_COLONS:
        return data.count(b":") > number
    find, begin = data.find, 0
    for _ in range(number + 1):
        begin = find(b":", begin) + 1
        if not begin:
            return False
    return True


def _num_colons(value: JsonValue, depth: int = 0) -> int:
    """The number of colons in this value as JSON without escapes: one per key, and those inside strings."""
    if type(value) is str:
        return value.count(":") if ":" in value else 0
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    if type(value) is dict:
        return len(value) + sum([_num_colons(name) + _num_colons(held, depth) for name, held in value.items()])
    return sum([_num_colons(held, depth) for held in value]) if type(value) is list else 0


def _too_deep() -> MalformedJson:
    return MalformedJson(f"Nested too deeply: at most {MAX_DEPTH} levels are supported.")


def _read_tolerantly(data: bytes, first_line: int | None) -> JsonValue:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"Not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}.") from error
    if not text.strip():
        raise MalformedJson("Empty: a JSON value was expected.")
    try:
        value = pyjson5.decode(text, maxdepth=MAX_DEPTH)
    except (pyjson5.Json5DecoderException, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise _fault(text, first_line) from error
    value = _as_strictly_read(value)
    if not _finite(value):
        raise _fault(text, first_line)
    return value


def _as_strictly_read(value: JsonValue) -> JsonValue:
    """The value with integers beyond 64 bits as floats, infinite if too large, as the strict parser returns them."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, list):
        return [_as_strictly_read(one) for one in value]
    if isinstance(value, dict):
        return {name: _as_strictly_read(one) for name, one in value.items()}
    return value


def _fault(text: str, first_line: int | None) -> MalformedJson:
    """The strict parser's error for the text without the extras that the tolerant parser accepts."""
    try:
        orjson.loads(_STRING_OR_EXTRA.sub(_blanked, text))
    except orjson.JSONDecodeError as error:
        line = "" if first_line is None else f"line {error.lineno + first_line - 1}, "
        return MalformedJson(f"{error.msg[:1].upper()}{error.msg[1:]} at {line}column {error.colno}.")
    return _too_deep()


def _blanked(match: re.Match[str]) -> str:
    """The match itself if it is a string; otherwise as many spaces, so that offsets stay the same."""
    extra = match["extra"]
    if extra is None:
        return match[0]
    return " " * len(extra) if "\n" not in extra else re.sub(r"[^\n]", " ", extra)


def _finite(value: JsonValue) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, dict) or all(map(_finite, value.values()))

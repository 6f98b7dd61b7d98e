"""JSON as Google's own scripts write it: strict first, then with trailing commas. Says where a fault is."""

import math
import re

import orjson
import pyjson5

from kastor.domain.errors import MalformedJson

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

MAX_DEPTH = 128
# a string (to the end of the text where nothing closes it, so that no match begins inside one), a comment, or a comma
# before a closing bracket; possessive, so that the time is linear in the text whatever it holds
_GAP = r"(?:\s|//[^\n]*+|/\*.*?\*/)*+"
_STRING_OR_EXTRA = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\Z)|(?P<extra>//[^\n]*+|/\*(?:.*?\*/|.*\Z)|,(?=' + _GAP + r"[\]}]))", re.DOTALL
)


def read_json(data: bytes) -> JsonValue:
    """The value that `data` spells.

    Raises:
        MalformedJson: it is not JSON even to a tolerant reader, or holds NaN or Infinity; gives line and column.

    """
    try:
        return orjson.loads(data)  # type: ignore[no-any-return]  # a JSON value by construction
    except orjson.JSONDecodeError:
        return _read_tolerantly(data)


def _read_tolerantly(data: bytes) -> JsonValue:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"Not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}.") from error
    if not text.strip():
        raise MalformedJson("Empty: a JSON value was expected.")
    try:
        value = pyjson5.decode(text, maxdepth=MAX_DEPTH)
    except (pyjson5.Json5DecoderException, ValueError) as error:  # the latter: an integer of thousands of digits
        raise _fault(text) from error
    value = _as_strictly_read(value)
    if not _finite(value):
        raise _fault(text)
    return value


def _as_strictly_read(value: JsonValue) -> JsonValue:
    """The value with whole numbers beyond 64 bits as the strict reader gives them: floats, infinite if need be."""
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


def _fault(text: str) -> MalformedJson:
    """What is wrong, as the strict reader puts it once all is out of the way that a tolerant one passes over."""
    try:
        orjson.loads(_STRING_OR_EXTRA.sub(_blanked, text))
    except orjson.JSONDecodeError as error:
        return MalformedJson(f"{error.msg[:1].upper()}{error.msg[1:]} at line {error.lineno}, column {error.colno}.")
    return MalformedJson(f"Nested too deeply: at most {MAX_DEPTH} levels are read.")


def _blanked(match: re.Match[str]) -> str:
    """Strings as they are; the rest as spaces, so that every place stays where it is."""
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

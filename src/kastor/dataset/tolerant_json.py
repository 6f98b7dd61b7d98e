"""JSON as Google's own scripts write it: strict first, then with trailing commas. Says where a fault is."""

import math
import re

import orjson
import pyjson5

from kastor.domain.errors import MalformedJson

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

_NEAR = re.compile(r" near (\d+)")


def read_json(data: bytes) -> JsonValue:
    """The value that `data` spells.

    Raises:
        MalformedJson: it is not JSON even to a tolerant reader, or holds NaN or Infinity; gives line and column.

    """
    try:
        return orjson.loads(data)  # type: ignore[no-any-return]  # a JSON value by construction
    except orjson.JSONDecodeError as strict:
        return _read_tolerantly(data, strict)


def _read_tolerantly(data: bytes, strict: orjson.JSONDecodeError) -> JsonValue:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"Not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}.") from error
    if not text.strip():
        raise MalformedJson("Empty: a JSON value was expected.")
    try:
        value = pyjson5.decode(text, maxdepth=128)
    except pyjson5.Json5DecoderException as error:
        message = str(error.args[0])
        near = _NEAR.search(message)
        at = int(near.group(1)) - 1 if near and "Unclosed" not in message else strict.pos
        raise MalformedJson(f"{_said(message)} at {_place(text, at)}.") from error
    if not _finite(value):
        raise MalformedJson("NaN and Infinity are not JSON numbers.")
    return value  # type: ignore[no-any-return]  # a JSON value by construction


def _said(message: str) -> str:
    plain = _NEAR.sub("", message).replace("b'", "").replace("'", "").replace("JSON5Value", "a value")
    code = re.search(r"U\+([0-9a-fA-F]{4,6})", plain)
    shown = repr(chr(int(code.group(1), 16))) if code else ""
    return re.sub(r"U\+[0-9a-fA-F]{4,6}", lambda _: shown, plain).removesuffix(" starting")


def _place(text: str, at: int) -> str:
    before = text[: max(at, 0)]
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _finite(value: JsonValue) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, dict) or all(map(_finite, value.values()))

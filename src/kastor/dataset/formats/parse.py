"""Parses a JSON value in one of Google's formats into an example. `row_formats` parses the other formats.

`{"text_input": …, "output": …}` (Gemini API), `{"contents": […]}` (Vertex; vertex-api.md §7.1), or a list of two texts.
Field names may be camelCase or snake_case, and a single object is accepted where a list is expected. A model turn may
have a `weight` of 0 or 1, as in OpenAI's format; Google has no such field, and stored jobs keep it in theirs.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from kastor.dataset.formats.issues import MAX_NAME_CHARS, RowError, describe_value, kind_name
from kastor.dataset.formats.tolerant_json import JsonValue, parse_json
from kastor.domain.content import (
    Content,
    Example,
    FunctionCall,
    FunctionResponse,
    Media,
    Part,
    Resolution,
    Role,
    Text,
)
from kastor.domain.errors import InvalidArgument
from kastor.domain.excerpt import excerpt
from kastor.domain.tools import MAX_DEPTH, exceeds_max_depth

SHAPES = '{"text_input": …, "output": …} or {"contents": [{"role": "user", …}, {"role": "model", …}]}'
COLUMNS_HINT = "write one row per text, as pandas' to_json(path, orient='records', lines=True) does"
RESOLUTION_PREFIX = "MEDIA_RESOLUTION_"
ROLES = {"user": Role.USER, "model": Role.MODEL, "assistant": Role.MODEL, "function": Role.USER}
"""Gemini's roles, and OpenAI's `assistant`, which many files combine with `parts`."""
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
MAX_FPS = 24.0
PLAIN_ROLES = ("user", Role.USER), ("model", Role.MODEL)
PART_FIELDS = {"text", "fileData", "inlineData", "functionCall", "functionResponse", "videoMetadata", "mediaResolution"}
TURN_FIELDS = {"role", "parts", "weight"}
PAIR_FIELDS = {"text_input", "output"}

Fields = Mapping[str, JsonValue]


def decode_example(line: bytes) -> Example:
    """The example on a line in one of Google's formats, as `encode_example` writes it.

    Raises:
        InvalidArgument: the line is not an example; names the faulty field.

    """
    try:
        return parse_google_example(parse_json(line))
    except RowError as fault:
        raise InvalidArgument.of(fault.path or "example", fault.message) from fault


def parse_google_example(value: JsonValue) -> Example:
    """The example that `value` holds in one of Google's formats.

    Raises:
        RowError: it is not an example; names the faulty field.

    """
    if (pair := parse_text_pair(value)) is not None:
        return Example.pair(*pair)
    if not isinstance(value, dict):
        raise RowError("", "shape", f"{kind_name(value)}, not an object", f"an example is {SHAPES}")
    if "contents" in value:
        return parse_conversation(value)
    name = "textInput" if "textInput" in value else "text_input"
    if name not in value or "output" not in value:
        have = ", ".join(map(repr, value)) or "nothing"
        raise RowError("", "shape", f"the object holds {have}", f"an example is {SHAPES}")
    return Example.pair(*(text_value(value[key], key, COLUMNS_HINT) for key in (name, "output")))


def parse_text_pair(value: JsonValue) -> tuple[str, str] | None:
    """The two texts of a list of exactly two texts; `None` for any other value."""
    if isinstance(value, list) and len(value) == 2:
        first, second = value
        if isinstance(first, str) and isinstance(second, str):
            return first, second
    return None


def parse_conversation(value: Fields) -> Example:
    """The example of an object with `contents`.

    Raises:
        RowError: names the faulty field.

    """
    contents = parse_plain_turns(value["contents"]) or _turns(list_value(value["contents"]))
    if len(value) == 1:
        return Example(contents)
    system = _field(value, "systemInstruction", "system_instruction")
    tools = _field(value, "tools", "tools")
    return Example(
        contents,
        None if system is None else _system(system),
        orjson.dumps(list_value(tools)).decode() if tools else "",
        _resolution_of_all(value),
    )


def parse_plain_turns(turns: Any) -> tuple[Content, ...] | None:  # noqa: ANN401  # any JSON value
    """The turns, if they alternate and each holds one text, as most do; takes a third of the general parser's time."""
    if type(turns) is not list or not turns or len(turns) % 2:
        return None
    found = []
    for i, turn in enumerate(turns):
        name, role = PLAIN_ROLES[i % 2]
        try:
            (part,) = turn["parts"]
            text = part["text"]
        except (KeyError, TypeError, ValueError):
            return None
        if type(text) is not str or len(part) != 1 or turn.get("role") != name or len(turn) != 2:
            return None
        found.append(Content(role, (Text(text),)))
    return tuple(found)


def _turns(turns: list[JsonValue]) -> tuple[Content, ...]:
    if not turns:
        raise RowError("contents", "shape", "must be a non-empty list of turns")
    contents = tuple(_turn(turn, f"contents[{i}]") for i, turn in enumerate(turns))
    check_order(contents, [f"contents[{i}].role" for i in range(len(contents))])
    return contents


def check_order(contents: tuple[Content, ...], paths: Sequence[str]) -> None:
    """Check that the turns alternate, from the user's first to the model's last; `paths` are those of their roles.

    Raises:
        RowError: they do not; names the turn.

    """
    if contents[-1].role is not Role.MODEL:
        raise RowError(paths[-1], "last_turn", "the last turn must be the model's")
    if len(contents) == 1:
        raise RowError(paths[0].partition("[")[0], "first_turn", "a user turn must come before the model's")
    for i, content in enumerate(contents):
        if content.role is not (Role.MODEL if i % 2 else Role.USER):
            expected = "model" if i % 2 else "user"
            message = f"{content.role.value}, expected {expected}: turns alternate"
            raise RowError(paths[i], "turn_order", message, "merge both turns into one" if i else "")


def _resolution_of_all(value: Fields) -> Resolution | None:
    config = _field(value, "generationConfig", "generation_config")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise RowError("generationConfig", "shape", f"{kind_name(config)}, not an object")
    asked = _field(config, "mediaResolution", "media_resolution")
    return None if asked is None else named_resolution(asked, "generationConfig.mediaResolution")


def _system(value: JsonValue) -> tuple[Part, ...]:
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, dict):
        raise RowError("systemInstruction", "shape", f"{kind_name(value)}, not an object with parts")
    return _parts(value, "systemInstruction")


def _turn(value: JsonValue, path: str) -> Content:
    if not isinstance(value, dict):
        raise RowError(path, "shape", f"{kind_name(value)}, not an object with role and parts")
    name = value.get("role")
    role = Role.USER if name is None else ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        hint = "system text goes into systemInstruction"
        raise RowError(f"{path}.role", "role", f"{describe_value(name)}, expected user or model", hint)
    return Content(role, _parts(value, path), turn_weight(value, role, path))


def turn_weight(value: Fields, role: Role, path: str) -> int:
    """The `weight` of a turn: 1, the default, if the model learns it, 0 if it is context only.

    Raises:
        RowError: it is another number, or 1 on a turn that is not the model's.

    """
    weight = value.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError(f"{path}.weight", "turn_weight", f"{describe_value(weight)}, expected 0 (context) or 1 (learnt)")
    if weight and role is not Role.MODEL:
        raise RowError(f"{path}.weight", "turn_weight", "1 on a turn that is not the model's", "leave it out there")
    return int(weight) if role is Role.MODEL else 1


def _parts(value: Fields, path: str) -> tuple[Part, ...]:
    parts = list_value(value.get("parts"))
    if not parts:
        raise RowError(f"{path}.parts", "shape", "must be a non-empty list of parts")
    return tuple(_part(part, f"{path}.parts[{i}]") for i, part in enumerate(parts))


def _part(part: JsonValue, path: str) -> Part:
    if isinstance(part, dict) and len(part) == 1 and "text" in part:
        return Text(text_value(part["text"], f"{path}.text"))
    if not isinstance(part, dict):
        raise RowError(path, "part_kind", f"{kind_name(part)}, not an object such as {{'text': …}}")
    fields = {camel_case(name): held for name, held in part.items() if held is not None}
    if len(fields) < sum(held is not None for held in part.values()):
        raise RowError(path, "duplicate_key", "holds one field in two spellings", "keep one of them")
    unknown = sorted(fields.keys() - PART_FIELDS)
    if unknown:
        message = f"holds {', '.join(excerpt(name, MAX_NAME_CHARS) for name in unknown)}, which cannot be tuned on"
        raise RowError(path, "part_kind", message, f"a part holds one of {', '.join(_PARTS)}")
    held = [name for name in _PARTS if name in fields]
    if len(held) != 1:
        found = " and ".join(map(repr, held)) or "nothing"
        raise RowError(path, "part_kind", f"holds {found}, expected one of {', '.join(_PARTS)}")
    return _PARTS[held[0]](fields, path)


def parse_media_part(fields: Fields, path: str) -> Media:
    """The medium of a part with `fileData` or `inlineData` and its metadata; field names in camelCase.

    Raises:
        RowError: names the faulty field.

    """
    return _file_part(fields, path) if "fileData" in fields else _inline_part(fields, path)


def _text_part(fields: Fields, path: str) -> Part:
    if len(fields) > 1:
        raise RowError(path, "part_kind", "videoMetadata and mediaResolution apply to media, not to text")
    return Text(text_value(fields["text"], f"{path}.text"))


def _file_part(fields: Fields, path: str) -> Media:
    held = object_value(fields["fileData"], f"{path}.fileData")
    uri = text_value(_field(held, "fileUri", "file_uri"), f"{path}.fileData.fileUri")
    if not uri:
        raise RowError(f"{path}.fileData.fileUri", "media_address", "is empty")
    return _media(fields, path, _mime_type(held, f"{path}.fileData"), uri=uri)


def _inline_part(fields: Fields, path: str) -> Media:
    held = object_value(fields["inlineData"], f"{path}.inlineData")
    text = text_value(held.get("data"), f"{path}.inlineData.data")
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"{path}.inlineData.data", "base64", "is not base64") from error
    if not data:
        raise RowError(f"{path}.inlineData.data", "base64", "is empty")
    return _media(fields, path, _mime_type(held, f"{path}.inlineData"), data=data)


def _media(fields: Fields, path: str, mime_type: str, *, uri: str = "", data: bytes = b"") -> Media:
    at = f"{path}.videoMetadata"
    segment = object_value(fields.get("videoMetadata", {}), at)
    start = _duration(_field(segment, "startOffset", "start_offset"), f"{at}.startOffset")
    end = _duration(_field(segment, "endOffset", "end_offset"), f"{at}.endOffset")
    if end is not None and end <= (start or 0):
        raise RowError(f"{at}.endOffset", "segment", f"{end:g}s is not after startOffset, {start or 0:g}s")
    fps = _fps(segment.get("fps"), f"{at}.fps")
    asked = fields.get("mediaResolution")
    level = asked.get("level") if isinstance(asked, dict) else asked
    resolution = None if level is None else named_resolution(level, f"{path}.mediaResolution.level")
    return Media(mime_type, uri, data, start, end, fps, resolution)


def _fps(value: JsonValue, path: str) -> float | None:
    """A number or a quoted number, as Google's JSON allows."""
    if value is None:
        return None
    try:
        fps = math.nan if isinstance(value, bool | list | dict) else float(value)
    except ValueError:
        fps = math.nan
    if not 0 < fps <= MAX_FPS:
        fault = f"is {'not a number' if math.isnan(fps) else 'out of range'}; use one above 0, at most {MAX_FPS:g}"
        raise RowError(path, "fps", f"{describe_value(value)} {fault}")
    return fps


def _call_part(fields: Fields, path: str) -> FunctionCall:
    name, arguments = _function(fields["functionCall"], f"{path}.functionCall", "args")
    return FunctionCall(name, arguments)


def _response_part(fields: Fields, path: str) -> FunctionResponse:
    name, response = _function(fields["functionResponse"], f"{path}.functionResponse", "response")
    return FunctionResponse(name, response)


def _function(value: JsonValue, path: str, holds: str) -> tuple[str, str]:
    held = object_value(value, path)
    name = text_value(held.get("name"), f"{path}.name")
    if not name:
        raise RowError(f"{path}.name", "function_name", "is empty")
    given = held.get(holds)
    inner = object_value({} if given is None else given, f"{path}.{holds}")
    if exceeds_max_depth(inner):
        raise RowError(f"{path}.{holds}", "nesting", f"is nested more than {MAX_DEPTH} deep")
    return name, orjson.dumps(inner).decode()


def parse_function_part(fields: Fields, path: str) -> FunctionCall | FunctionResponse:
    """The part with `functionCall` or `functionResponse`; field names in camelCase.

    Raises:
        RowError: names the faulty field.

    """
    return _call_part(fields, path) if "functionCall" in fields else _response_part(fields, path)


_PARTS: Mapping[str, Callable[[Fields, str], Part]] = {
    "text": _text_part,
    "fileData": _file_part,
    "inlineData": _inline_part,
    "functionCall": _call_part,
    "functionResponse": _response_part,
}


def _mime_type(held: Fields, path: str) -> str:
    mime_type = text_value(_field(held, "mimeType", "mime_type"), f"{path}.mimeType").strip().lower()
    if "/" not in mime_type:
        message = f"{describe_value(mime_type)}, expected a type such as image/png or video/mp4"
        raise RowError(f"{path}.mimeType", "mime_type", message)
    return mime_type


def _duration(value: JsonValue, path: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, dict):  # google.protobuf.Duration as an object, as SDKs write it
        seconds, nanos = value.get("seconds", 0), value.get("nanos", 0)
        if isinstance(seconds, int | str) and isinstance(nanos, int) and str(seconds).isdigit():
            return int(seconds) + nanos / 1e9
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise RowError(path, "duration", f'{describe_value(value)}, expected seconds such as "5s" or "1.5s"')
    return float(match[1])


def named_resolution(value: JsonValue, path: str) -> Resolution | None:
    """The resolution with this name; `None` for UNSPECIFIED.

    Raises:
        RowError: there is no such resolution.

    """
    name = value.upper().removeprefix(RESOLUTION_PREFIX) if isinstance(value, str) else ""
    if name == "UNSPECIFIED":
        return None
    if name not in Resolution.__members__:
        known = ", ".join(RESOLUTION_PREFIX + one for one in Resolution)
        raise RowError(path, "media_resolution", f"{describe_value(value)}, expected one of {known}")
    return Resolution[name]


def _field(held: Fields, camel: str, snake: str) -> JsonValue:
    found, other = held.get(camel), held.get(snake)
    if found is not None and other is not None and camel != snake:
        raise RowError(
            "", "duplicate_key", f"holds {camel!r} and {snake!r}, one field in two spellings", "keep one of them"
        )
    return other if found is None else found


def list_value(value: JsonValue) -> list[JsonValue]:
    """The list; a single object becomes a list of one, any other value an empty list."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def object_value(value: JsonValue, path: str) -> Fields:
    """The object, or a fault at `path`."""
    if not isinstance(value, dict):
        raise RowError(path, "type", f"{kind_name(value)}, expected an object")
    return value


def text_value(value: JsonValue, path: str, list_hint: str = "") -> str:
    """The text, or a fault at `path`; `list_hint` is the hint if the value is a list or an object."""
    if not isinstance(value, str):
        hint = 'put it in quotes, as "1"' if isinstance(value, int | float) else list_hint if value else ""
        raise RowError(path, "type", f"{kind_name(value)}, expected text", hint)
    return value


def camel_case(name: str) -> str:
    """The name in camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)

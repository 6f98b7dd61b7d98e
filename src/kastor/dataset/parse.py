"""A JSON value -> an example, in every shape people hold them in. Which examples are good is `gate`'s business.

Shapes: `{"text_input": …, "output": …}` (Gemini API), `{"contents": […]}` (Vertex; vertex-api.md §7.1), a pair as a
list of two texts. Names in camelCase and snake_case alike; a lone object where a list is expected is that list.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from kastor.dataset.issues import Faulty, Issue, Row
from kastor.dataset.tolerant_json import JsonValue, read_json
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
from kastor.domain.functions import MAX_DEPTH, too_deep

INPUT_COLUMNS = ("text_input", "textInput", "input", "prompt")
OUTPUT_COLUMNS = ("output", "completion", "response")
SHAPES = '{"text_input": …, "output": …} or {"contents": [{"role": "user", …}, {"role": "model", …}]}'
RESOLUTION_PREFIX = "MEDIA_RESOLUTION_"
ROLES = {"user": Role.USER, "model": Role.MODEL, "function": Role.USER}
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
MAX_FPS = 24.0
EXAMPLE_FIELDS = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}
NOTHING_TO_NOTE = {"contents", "systemInstruction", "tools", "text_input", "output"}
PLAIN_ROLES = ("user", Role.USER), ("model", Role.MODEL)
PART_FIELDS = {"text", "fileData", "inlineData", "functionCall", "functionResponse", "videoMetadata", "mediaResolution"}

Keys = tuple[tuple[str, ...], tuple[str, ...]]
"""Names under which a pair's input and output may stand."""
USUAL_KEYS: Keys = (INPUT_COLUMNS, OUTPUT_COLUMNS)
Fields = Mapping[str, JsonValue]


def row_of(number: int, value: JsonValue, keys: Keys = USUAL_KEYS, num_bytes: int = 0) -> Row | Issue:
    """The row of line `number`, which has `num_bytes`: an example, or why it is none."""
    try:
        example = _example(value, keys)
    except Faulty as fault:
        return fault.issue(number)
    if isinstance(value, dict) and len(value) > 1 and not value.keys() <= NOTHING_TO_NOTE:
        return Row(number, example, tuple(_notes(number, value)), num_bytes)
    return Row(number, example, (), num_bytes)


def decode_example(line: bytes) -> Example:
    """The example on a line that `encode_example` or a user wrote.

    Raises:
        InvalidArgument: the line is no example; says which field is wrong.

    """
    try:
        return _example(read_json(line), USUAL_KEYS)
    except Faulty as fault:
        raise InvalidArgument.of(fault.path or "example", fault.message) from fault


def _example(value: JsonValue, keys: Keys) -> Example:
    if isinstance(value, list) and len(value) == 2:
        return Example.pair(_text(value[0], "[0]"), _text(value[1], "[1]"))
    if not isinstance(value, dict):
        raise Faulty("", "shape", f"{_kind(value)}, not an object", f"an example is {SHAPES}")
    if "contents" in value:
        return _conversation(value)
    chosen: list[str | None] = [keys[0][0], keys[1][0]]
    if not value.keys() >= set(chosen):
        chosen = [next((key for key in names if key in value), None) for names in keys]
    if chosen[0] is None or chosen[1] is None:
        have = ", ".join(map(repr, value)) or "nothing"
        raise Faulty("", "shape", f"the object holds {have}", f"an example is {SHAPES}")
    return Example.pair(_text(value[chosen[0]], chosen[0]), _text(value[chosen[1]], chosen[1]))


def _conversation(value: Fields) -> Example:
    contents = _plain_turns(value["contents"]) or _turns(_listed(value["contents"]))
    if len(value) == 1:
        return Example(contents)
    system = _field(value, "systemInstruction", "system_instruction")
    tools = _field(value, "tools", "tools")
    return Example(
        contents,
        None if system is None else _system(system),
        orjson.dumps(_listed(tools)).decode() if tools else "",
        _resolution_of_all(value),
    )


def _plain_turns(turns: Any) -> tuple[Content, ...] | None:  # noqa: ANN401  # what is not as expected raises
    """The turns, if they alternate and each is one text: as most are, and a third of the work of the general way."""
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
        if type(text) is not str or len(part) != 1 or turn.get("role") != name or "weight" in turn:
            return None
        found.append(Content(role, (Text(text),)))
    return tuple(found)


def _turns(turns: list[JsonValue]) -> tuple[Content, ...]:
    if not turns:
        raise Faulty("contents", "shape", "must be a list of turns that is not empty")
    contents = tuple(_turn(turn, f"contents[{i}]") for i, turn in enumerate(turns))
    _check_order(contents)
    return contents


def _check_order(contents: tuple[Content, ...]) -> None:
    if contents[-1].role is not Role.MODEL:
        raise Faulty(f"contents[{len(contents) - 1}].role", "last_turn", "the last turn must be the model's")
    if len(contents) == 1:
        raise Faulty("contents", "first_turn", "a user turn must stand before the model's")
    for i, content in enumerate(contents):
        if content.role is not (Role.MODEL if i % 2 else Role.USER):
            expected = "model" if i % 2 else "user"
            message = f"{content.role.value}, expected {expected}: turns alternate"
            raise Faulty(f"contents[{i}].role", "turn_order", message)


def _resolution_of_all(value: Fields) -> Resolution | None:
    config = _field(value, "generationConfig", "generation_config")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise Faulty("generationConfig", "shape", f"{_kind(config)}, not an object")
    asked = _field(config, "mediaResolution", "media_resolution")
    return None if asked is None else named_resolution(asked, "generationConfig.mediaResolution")


def _system(value: JsonValue) -> tuple[Part, ...]:
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, dict):
        raise Faulty("systemInstruction", "shape", f"{_kind(value)}, not an object with parts")
    return _parts(value, "systemInstruction")


def _turn(value: JsonValue, path: str) -> Content:
    if not isinstance(value, dict):
        raise Faulty(path, "shape", f"{_kind(value)}, not an object with role and parts")
    if value.get("weight") is not None:
        hint = "leave it out, or tune with `--supervise last`"
        raise Faulty(f"{path}.weight", "turn_weight", "a turn has no weight in Google's format, and none here", hint)
    said = value.get("role")
    role = Role.USER if said is None else ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        hint = 'Gemini calls it "model"' if said == "assistant" else "system text goes into systemInstruction"
        raise Faulty(f"{path}.role", "role", f"{said!r}, expected user or model", hint)
    return Content(role, _parts(value, path))


def _parts(value: Fields, path: str) -> tuple[Part, ...]:
    parts = _listed(value.get("parts"))
    if not parts:
        raise Faulty(f"{path}.parts", "shape", "must be a list of parts that is not empty")
    return tuple(_part(part, f"{path}.parts[{i}]") for i, part in enumerate(parts))


def _part(part: JsonValue, path: str) -> Part:
    if isinstance(part, dict) and len(part) == 1 and "text" in part:
        return Text(_text(part["text"], f"{path}.text"))
    if not isinstance(part, dict):
        raise Faulty(path, "part_kind", f"{_kind(part)}, not an object such as {{'text': …}}")
    fields = {_camel(name): held for name, held in part.items() if held is not None}
    unknown = sorted(fields.keys() - PART_FIELDS)
    if unknown:
        message = f"holds {', '.join(map(repr, unknown))}, which cannot be tuned on"
        raise Faulty(path, "part_kind", message, f"a part holds one of {', '.join(_PARTS)}")
    held = [name for name in _PARTS if name in fields]
    if len(held) != 1:
        found = " and ".join(map(repr, held)) or "nothing"
        raise Faulty(path, "part_kind", f"holds {found}, one of {', '.join(_PARTS)} is expected")
    return _PARTS[held[0]](fields, path)


def media_part(fields: Fields, path: str) -> Media:
    """The medium of a part that holds `fileData` or `inlineData`, and what stands beside it; names in camelCase.

    Raises:
        Faulty: says which field is wrong.

    """
    return _file_part(fields, path) if "fileData" in fields else _inline_part(fields, path)


def _text_part(fields: Fields, path: str) -> Part:
    if len(fields) > 1:
        raise Faulty(path, "part_kind", "videoMetadata and mediaResolution stand beside media, not beside text")
    return Text(_text(fields["text"], f"{path}.text"))


def _file_part(fields: Fields, path: str) -> Media:
    held = _object(fields["fileData"], f"{path}.fileData")
    uri = _text(_field(held, "fileUri", "file_uri"), f"{path}.fileData.fileUri")
    if not uri:
        raise Faulty(f"{path}.fileData.fileUri", "media_address", "is empty")
    return _media(fields, path, _mime_type(held, f"{path}.fileData"), uri=uri)


def _inline_part(fields: Fields, path: str) -> Media:
    held = _object(fields["inlineData"], f"{path}.inlineData")
    text = _text(held.get("data"), f"{path}.inlineData.data")
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Faulty(f"{path}.inlineData.data", "base64", "is not base64") from error
    if not data:
        raise Faulty(f"{path}.inlineData.data", "base64", "is empty")
    return _media(fields, path, _mime_type(held, f"{path}.inlineData"), data=data)


def _media(fields: Fields, path: str, mime_type: str, *, uri: str = "", data: bytes = b"") -> Media:
    at = f"{path}.videoMetadata"
    segment = _object(fields.get("videoMetadata", {}), at)
    start = _duration(_field(segment, "startOffset", "start_offset"), f"{at}.startOffset")
    end = _duration(_field(segment, "endOffset", "end_offset"), f"{at}.endOffset")
    if end is not None and end <= (start or 0):
        raise Faulty(f"{at}.endOffset", "segment", f"{end:g}s is not after startOffset, {start or 0:g}s")
    fps = segment.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS):
        raise Faulty(f"{at}.fps", "fps", f"{fps!r} is out of range; use one above 0, at most {MAX_FPS:g}")
    asked = fields.get("mediaResolution")
    level = asked.get("level") if isinstance(asked, dict) else asked
    resolution = None if level is None else named_resolution(level, f"{path}.mediaResolution.level")
    return Media(mime_type, uri, data, start, end, None if fps is None else float(fps), resolution)


def _call_part(fields: Fields, path: str) -> FunctionCall:
    name, arguments = _function(fields["functionCall"], f"{path}.functionCall", "args")
    return FunctionCall(name, arguments)


def _response_part(fields: Fields, path: str) -> FunctionResponse:
    name, response = _function(fields["functionResponse"], f"{path}.functionResponse", "response")
    return FunctionResponse(name, response)


def _function(value: JsonValue, path: str, holds: str) -> tuple[str, str]:
    held = _object(value, path)
    name = _text(held.get("name"), f"{path}.name")
    if not name:
        raise Faulty(f"{path}.name", "function_name", "is empty")
    given = held.get(holds)
    inner = _object({} if given is None else given, f"{path}.{holds}")
    if too_deep(inner):
        raise Faulty(f"{path}.{holds}", "nesting", f"is nested more than {MAX_DEPTH} deep")
    return name, orjson.dumps(inner).decode()


def function_part(fields: Fields, path: str) -> FunctionCall | FunctionResponse:
    """The part that holds `functionCall` or `functionResponse`; names in camelCase.

    Raises:
        Faulty: says which field is wrong.

    """
    return _call_part(fields, path) if "functionCall" in fields else _response_part(fields, path)


_PARTS: Mapping[str, Callable[[Fields, str], Part]] = {
    "text": _text_part,
    "fileData": _file_part,
    "inlineData": _inline_part,
    "functionCall": _call_part,
    "functionResponse": _response_part,
}


def _notes(number: int, value: Fields) -> Iterator[Issue]:
    """What is read over in a row that is kept."""
    if "contents" not in value:
        return
    unknown = sorted({_camel(name) for name in value} - EXAMPLE_FIELDS)
    if unknown:
        message = f"{', '.join(unknown)}: not a field of an example; it plays no part"
        yield Issue(number, "", "unknown_field", message)
    config = _field(value, "generationConfig", "generation_config")
    if isinstance(config, dict) and {_camel(name) for name in config} - {"mediaResolution"}:
        message = "only mediaResolution plays a part in tuning"
        yield Issue(number, "generationConfig", "no_effect", message)


def _mime_type(held: Fields, path: str) -> str:
    said = _text(_field(held, "mimeType", "mime_type"), f"{path}.mimeType").strip().lower()
    if "/" not in said:
        raise Faulty(f"{path}.mimeType", "mime_type", f"{said!r}, expected one such as image/png or video/mp4")
    return said


def _duration(value: JsonValue, path: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, dict):  # google.protobuf.Duration as an object, as SDKs dump it
        seconds, nanos = value.get("seconds", 0), value.get("nanos", 0)
        if isinstance(seconds, int | str) and isinstance(nanos, int) and str(seconds).isdigit():
            return int(seconds) + nanos / 1e9
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Faulty(path, "duration", f'{_shown(value)}, expected seconds such as "5s" or "1.5s"')
    return float(match[1])


def named_resolution(value: JsonValue, path: str) -> Resolution | None:
    """The resolution of this name; `None` for the name that leaves it open.

    Raises:
        Faulty: there is none.

    """
    name = value.upper().removeprefix(RESOLUTION_PREFIX) if isinstance(value, str) else ""
    if name == "UNSPECIFIED":
        return None
    if name not in Resolution.__members__:
        known = ", ".join(RESOLUTION_PREFIX + one for one in Resolution)
        raise Faulty(path, "media_resolution", f"{_shown(value)}, expected one of {known}")
    return Resolution[name]


def _field(held: Fields, camel: str, snake: str) -> JsonValue:
    found = held.get(camel)
    return held.get(snake) if found is None else found


def _listed(value: JsonValue) -> list[JsonValue]:
    """The list; a lone object is a list of one."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _object(value: JsonValue, path: str) -> Fields:
    if not isinstance(value, dict):
        raise Faulty(path, "type", f"{_kind(value)}, expected an object")
    return value


def _text(value: JsonValue, path: str) -> str:
    if not isinstance(value, str):
        raise Faulty(path, "type", f"{_kind(value)}, expected text", 'put it in quotes, as "1"')
    return value


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _shown(value: JsonValue) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else _kind(value)


def _kind(value: JsonValue) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")

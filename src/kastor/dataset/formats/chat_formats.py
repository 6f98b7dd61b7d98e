"""Parses a list of messages into an example: OpenAI chat, ShareGPT and similar formats.

A message has a role (`role`, `from`, `author`) and a content (`content`, `value`): text, or a list of parts. Roles,
function calls and their results become those of Google's form; `weight` says which of the model's turns are learnt.
"""

import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson

from kastor.dataset.formats.issues import RowError, describe_value, kind_name
from kastor.dataset.formats.parse import (
    Fields,
    check_order,
    parse_function_part,
    parse_media_part,
    text_value,
    turn_weight,
)
from kastor.dataset.formats.tolerant_json import JsonValue, parse_json
from kastor.domain.content import Content, Example, FunctionCall, FunctionResponse, Media, Part, Role, Text
from kastor.domain.errors import MalformedJson

ROLE_KEYS, CONTENT_KEYS = ("role", "from", "author"), ("content", "value", "text")
SYSTEM, USER, MODEL, TOOL, CALL = "system", "user", "model", "tool", "call"
ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "assistant": MODEL,
    "model": MODEL,
    "gpt": MODEL,
    "chatgpt": MODEL,
    "bot": MODEL,
    "chatbot": MODEL,
    "ai": MODEL,
    "tool": TOOL,
    "function": TOOL,
    "observation": TOOL,
    "function_call": CALL,
}
KNOWN_FIELDS = {*ROLE_KEYS, *CONTENT_KEYS, "weight", "tool_calls", "function_call", "tool_call_id"}
LEARNT_FIELDS = ("train", "training")
"""Axolotl's names for the flag that says whether a model turn is learnt."""
MEDIA_TYPES = {"image": "image/jpeg", "video": "video/mp4"}
"""The MIME type for a name without a known extension; only the kind of medium is validated by it."""


def is_messages(value: JsonValue) -> bool:
    """Whether the value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value: JsonValue) -> bool:
    return isinstance(value, dict) and any(key in value for key in ROLE_KEYS) and "parts" not in value


def parse_chat_row(messages: JsonValue, name: str, *, system: str | None, tools: str) -> tuple[Example, list[str]]:
    """The example in the messages of the field `name`, and the unused fields of its messages.

    Raises:
        RowError: they are not an example; names the faulty field.

    """
    if not isinstance(messages, list) or not messages:
        raise RowError(name, "shape", "must be a non-empty list of messages")
    reader = _Reader([] if system is None else [system])
    for index, message in enumerate(messages):
        reader.add(message, f"{name}[{index}]")
    if not reader.contents:
        raise RowError(name, "first_turn", "a user message must come before the model's")
    contents = tuple(reader.contents)
    check_order(contents, reader.paths)
    system_parts = (Text("\n\n".join(reader.system)),) if reader.system else None
    return Example(contents, system_parts, tools), sorted(reader.unused)


@dataclass(slots=True)
class _Reader:
    """The turns so far."""

    system: list[str]
    contents: list[Content] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # for each turn, the path of its message's role
    role_path: str = ""  # of the current message
    unused: set[str] = field(default_factory=set)
    calls: list[tuple[str, str]] = field(default_factory=list)  # id and name of each call without a response yet

    def add(self, message: JsonValue, path: str) -> None:
        """One more message."""
        if not isinstance(message, dict):
            raise RowError(path, "shape", f"{kind_name(message)}, not an object with role and content")
        self.role_path = f"{path}.{_role_key(message)}"
        role = _role(message, self.role_path)
        held = {key: value for key, value in message.items() if value not in (None, [], "")}
        self.unused |= {key for key, value in held.items() if not _is_read(key, value, role)}
        if message.get("refusal") or message.get("audio"):
            name = "refusal" if message.get("refusal") else "audio"
            hint = "move its text into content"
            raise RowError(f"{path}.{name}", "message_field", "is not used: answers are learnt from content", hint)
        if role is SYSTEM:
            self._add_system(message, path)
        elif role is TOOL:
            self._add_response(message, path)
        elif role is USER:
            self._append(Role.USER, tuple(_parts(message, path)), message, path)
        else:
            self._append(Role.MODEL, self._answer(message, role, path), _weighted(message), path)

    def _append(self, role: Role, parts: tuple[Part, ...], message: Fields, path: str) -> None:
        last = self.contents[-1] if self.contents else None
        if last is not None and last.role is role:
            if role is Role.MODEL or isinstance(last.parts[-1], FunctionResponse):
                fault = f"follows another {'model' if role is Role.MODEL else 'user'} turn: turns alternate"
                raise RowError(self.role_path, "turn_order", fault, "merge both messages into one")
            turn_weight(message, role, path)
            self.contents[-1] = Content(role, _joined(last.parts, parts))
            return
        self.contents.append(Content(role, parts or (Text(""),), turn_weight(message, role, path)))
        self.paths.append(self.role_path)

    def _add_system(self, message: Fields, path: str) -> None:
        if self.contents:
            fault = "a system message after the first turn; it must come before all others"
            raise RowError(self.role_path, "role", fault)
        turn_weight(message, Role.USER, path)
        for part in _parts(message, path):
            if not isinstance(part, Text):
                raise RowError(path, "part_kind", "a system message holds text only")
            self.system.append(part.text)

    def _answer(self, message: Fields, role: str, path: str) -> tuple[Part, ...]:
        """The parts of a model turn: text, calls, or both."""
        if role is CALL:
            calls = list(_called(_json(_content(message), path), path))
        else:
            calls = list(_called(message.get("tool_calls"), f"{path}.tool_calls"))
            calls += _called(message.get("function_call"), f"{path}.function_call")
        self.calls = [(call_id, call.name) for call_id, call in calls]
        texts = [] if role is CALL else [part for part in _parts(message, path) if part != Text("")]
        return (*texts, *[call for _, call in calls])

    def _add_response(self, message: Fields, path: str) -> None:
        part = FunctionResponse(self._take_call(message, path), _response(message, path))
        turn_weight(message, Role.USER, path)
        last = self.contents[-1] if self.contents else None
        if last is not None and isinstance(last.parts[-1], FunctionResponse):
            self.contents[-1] = Content(Role.USER, (*last.parts, part))
        else:
            self._append(Role.USER, (part,), {}, path)

    def _take_call(self, message: Fields, path: str) -> str:
        """The name of the function that returned this result; removes its call from the open ones."""
        call_id, name = message.get("tool_call_id"), message.get("name")
        for index, (known_id, known_name) in enumerate(self.calls):
            if known_id == call_id if call_id and known_id else name in (None, "", known_name):
                del self.calls[index]
                return known_name
        raise RowError(
            path, "response_without_call", f"answers no earlier call ({call_id or name or 'no tool_call_id'})"
        )


def _joined(first: tuple[Part, ...], second: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts of two user messages as one turn, with a blank line between texts."""
    if first == (Text(""),):
        return second or first
    if second and isinstance(first[-1], Text) and isinstance(second[0], Text):
        return (*first[:-1], Text(f"{first[-1].text}\n\n{second[0].text}"), *second[1:])
    return (*first, *second)


def _is_read(key: str, value: JsonValue, role: str) -> bool:
    """Whether a message's field is used, or holds the value that is implied without it."""
    if key in LEARNT_FIELDS:
        return value is False or (value is True and role in (MODEL, CALL))
    return key in KNOWN_FIELDS or (key == "name" and role is TOOL)


def _weighted(message: Fields) -> Fields:
    """The model's message with a `weight`, if another field says whether it is learnt."""
    flags = [message[name] for name in LEARNT_FIELDS if isinstance(message.get(name), bool)]
    if not flags or message.get("weight") is not None:
        return message
    return {name: held for name, held in message.items() if name not in LEARNT_FIELDS} | {"weight": int(all(flags))}


def _role_key(message: Fields) -> str:
    return next((key for key in ROLE_KEYS if key in message), "role")


def _role(message: Fields, path: str) -> str:
    name = message.get(_role_key(message))
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError(path, "role", f"{describe_value(name)}, expected one of {', '.join(ROLES)}")
    return role


def _content_key(message: Fields) -> str:
    return next((key for key in CONTENT_KEYS if message.get(key) is not None), "content")


def _content(message: Fields) -> JsonValue:
    return message.get(_content_key(message))


def _parts(message: Fields, path: str) -> Iterator[Part]:
    """The parts of a message's content, which is text or a list of texts and media."""
    content = _content(message)
    if content is None:
        return
    name = f"{path}.{_content_key(message)}"
    for index, part in enumerate(content if isinstance(content, list) else [content]):
        at = f"{name}[{index}]" if isinstance(content, list) else name
        if isinstance(part, str):
            yield Text(part)
        elif isinstance(part, dict):
            yield _listed_part(part, at)
        else:
            raise RowError(at, "type", f"{kind_name(part)}, expected text or a list of parts")


def _listed_part(part: Fields, path: str) -> Part:
    kind = part.get("type", "text" if "text" in part else None)
    if kind in ("text", "input_text", "output_text"):
        return Text(text_value(part.get("text"), f"{path}.text"))
    for medium in MEDIA_TYPES:
        if kind in (medium, f"{medium}_url", f"input_{medium}"):
            return _medium(part, medium, path)
    message = f"{str(kind)[:40]!r} is not supported; parts are text, image_url, image, video_url or video"
    raise RowError(f"{path}.type", "part_kind", message, "write such rows in Google's format")


def _medium(part: Fields, kind: str, path: str) -> Media:
    """The medium at the address in a part: an object with `url`, or the address itself."""
    named = next((part[key] for key in (f"{kind}_url", kind, "url", "path") if part.get(key) is not None), None)
    if isinstance(named, dict):
        named = named.get("url") or named.get("path")
    if not isinstance(named, str) or not named:
        raise RowError(path, "media_address", f"has no {kind} address", f"put the address into {kind}_url")
    if named.startswith("data:"):
        head, _, data = named.removeprefix("data:").partition(",")
        mime_type, _, encoding = head.partition(";")
        if encoding != "base64":
            raise RowError(path, "base64", "a data: address that is not base64")
        return parse_media_part({"inlineData": {"mimeType": mime_type or MEDIA_TYPES[kind], "data": data}}, path)
    guessed, _ = mimetypes.guess_type(urlsplit(named).path)
    mime_type = guessed if guessed and guessed.startswith(f"{kind}/") else MEDIA_TYPES[kind]
    return parse_media_part({"fileData": {"mimeType": mime_type, "fileUri": named}}, path)


def _called(value: JsonValue, path: str) -> Iterator[tuple[str, FunctionCall]]:
    """The calls with their ids, from a list or a single call, with or without an inner `function` object."""
    for call in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(call, dict):
            raise RowError(path, "type", f"{kind_name(call)}, expected an object with name and arguments")
        held = call.get("function", call)
        if not isinstance(held, dict):
            raise RowError(path, "type", f"function: {kind_name(held)}, expected an object")
        arguments = held.get("arguments")
        if isinstance(arguments, str):
            arguments = _json(arguments or "{}", f"{path}.arguments")
        made = parse_function_part({"functionCall": {"name": held.get("name"), "args": arguments}}, path)
        call_id = call.get("id")
        yield (call_id if isinstance(call_id, str) else ""), made  # type: ignore[misc]  # a call, as was asked for


def _response(message: Fields, path: str) -> str:
    """The function's result as a JSON object; any other value becomes its `output`."""
    content = _content(message)
    if isinstance(content, list):
        content = "".join(part.text for part in _parts(message, path) if isinstance(part, Text))
    if isinstance(content, str):
        try:
            value = parse_json(content.encode("utf-8", "surrogatepass"))
        except MalformedJson:
            value = None
        content = value if isinstance(value, dict) else {"output": content}
    elif not isinstance(content, dict):
        content = {"output": content}
    part = parse_function_part({"functionResponse": {"name": "f", "response": content}}, path)
    return part.response if isinstance(part, FunctionResponse) else ""


def _json(value: JsonValue, path: str) -> JsonValue:
    """The value of a JSON text; any value that is not text is returned as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode("utf-8", "surrogatepass"))
    except MalformedJson as error:
        raise RowError(path, "type", f"is not JSON: {error.message}") from error


def to_google_tools(tools: JsonValue, functions: JsonValue) -> tuple[str, list[str]]:
    """OpenAI's `tools` and `functions` as Google's tools, and the unused fields of their declarations.

    Raises:
        RowError: an entry does not declare a function.

    """
    declared: list[Mapping[str, JsonValue]] = []
    unused: set[str] = set()
    for name, given in (("tools", tools), ("functions", functions)):
        listed = _json(given, name)
        for index, tool in enumerate(listed if isinstance(listed, list) else [] if listed is None else [listed]):
            at = f"{name}[{index}]"
            held = tool.get("function", tool) if isinstance(tool, dict) else None
            if not isinstance(held, dict) or (isinstance(tool, dict) and tool.get("type", "function") != "function"):
                raise RowError(at, "tool_declaration", "declares no function")
            unused |= {f"{name}[].{key}" for key in held.keys() - {"name", "description", "parameters", "type"}}
            fields = {"name": held.get("name"), "description": held.get("description")}
            fields["parametersJsonSchema"] = held.get("parameters")
            declared.append({key: value for key, value in fields.items() if value is not None})
    return orjson.dumps([{"functionDeclarations": declared}]).decode() if declared else "", sorted(unused)

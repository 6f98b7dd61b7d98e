"""What a GenerateContentRequest asks for: its messages -> the domain's values (gemini-api.md §2.9).

Every field is honoured or refused by name. Refused is what changes the answer and cannot be done here; safety settings
are checked, and without effect, as nothing is judged.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from kastor.api.google.content import ContentIn, GenerateIn, GenerationConfigIn, PartIn, Unoffered
from kastor.api.google.function_calling import (
    ANY,
    calling_mode,
    calling_violations,
    explicit_fields,
    parse_tools,
    required_functions,
)
from kastor.api.google.response_schema import enum_choices, from_google_schema, from_json_schema
from kastor.api.http.protojson import ProtoModel
from kastor.dataset.formats.issues import RowError
from kastor.dataset.formats.parse import named_resolution, parse_function_part, parse_media_part
from kastor.dataset.formats.tolerant_json import JsonValue
from kastor.domain.content import Content, Part, Prompt, Resolution, Role, Text
from kastor.domain.errors import FieldViolation, InvalidArgument
from kastor.domain.generation import ResponseFormat
from kastor.services.generation_request import GenerationParams

AT = "generationConfig."
ROLES = {"": Role.USER, "user": Role.USER, "function": Role.USER, "model": Role.MODEL}
UNOFFERED = "is not offered by this server; leave it out"
PLAIN, JSON, ENUM = "text/plain", "application/json", "text/x.enum"
ANY_JSON: JsonValue = {"type": ["object", "array"]}
"""What JSON mode means without a schema: free text would be a JSON text, too, and is what nobody wants."""
MAX_SCHEMA_CHARS = 100_000
KINDS = ("text", "inline_data", "file_data", "function_call", "function_response")
OFFERED = {*KINDS, "video_metadata", "media_resolution"}


def generation_request(body: GenerateIn, name: str) -> GenerationParams:
    """What the request asks of the model called `name`.

    Raises:
        InvalidArgument: a field says what is not offered, or makes no sense; names each.

    """
    validate_request(body, name)
    config = body.generation_config or GenerationConfigIn()
    prompt = parse_prompt(body)
    if prompt.contents[-1].role is not Role.USER:
        raise InvalidArgument.of("contents", "the last turn is the model's; it must be the user's")
    form = _form(config)
    if form is not None and prompt.tools:
        said = f"{config.response_mime_type!r} beside functions is not offered; leave one of them out"
        raise InvalidArgument.of(AT + "responseMimeType", said)
    return GenerationParams(
        prompt=prompt,
        num_candidates=1 if config.candidate_count is None else config.candidate_count,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop_sequences=tuple(config.stop_sequences or ()),
        max_output_tokens=config.max_output_tokens,
        seed=config.seed,
        presence_penalty=config.presence_penalty or 0.0,
        frequency_penalty=config.frequency_penalty or 0.0,
        top_logprobs=(config.logprobs or 0) if config.response_logprobs else None,
        form=form,
        must_call=required_functions(body),
    )


def validate_request(body: GenerateIn, name: str) -> None:
    """Nothing, if the request asks only for what is offered.

    Raises:
        InvalidArgument: names each field that is not.

    """
    wrong = _given(body, "", ("cached_content",)) + calling_violations(body)
    if body.model and body.model.removeprefix("models/") != name.removeprefix("models/"):
        wrong.append(FieldViolation("model", f"{body.model!r} is not the model of the path, {name}"))
    if body.generation_config is not None:
        wrong += _config_violations(body.generation_config)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))


def parse_prompt(body: GenerateIn) -> Prompt:
    """The turns and the system instruction.

    Raises:
        InvalidArgument: there are none, or they hold something else than text and media; names the part.

    """
    if not body.contents:
        raise InvalidArgument.of("contents", "contents is not specified")
    contents = tuple(_content(content, f"contents[{i}]") for i, content in enumerate(body.contents))
    system = body.system_instruction
    parts = None if system is None or not system.parts else _parts(system, "systemInstruction")
    resolution = _resolution(body.generation_config)
    return Prompt(contents, parts, parse_tools(body), resolution, must_call=calling_mode(body) == ANY)


# ---- the configuration


def _config_violations(config: GenerationConfigIn) -> list[FieldViolation]:
    unoffered = tuple(n for n, field in GenerationConfigIn.model_fields.items() if field.annotation == Unoffered)
    wrong = _given(config, AT, unoffered)
    if config.logprobs is not None and not config.response_logprobs:
        wrong.append(FieldViolation(AT + "logprobs", "has a meaning only where responseLogprobs is true"))
    if any(modality not in ("TEXT", 1) for modality in config.response_modalities or ()):
        wrong.append(FieldViolation(AT + "responseModalities", "only TEXT is offered"))
    if any((config.thinking_config or {}).values()):
        said = "the models here do not think; leave it out, or set thinkingBudget 0"
        wrong.append(FieldViolation(AT + "thinkingConfig", said))
    return wrong + _form_violations(config)


def _form_violations(config: GenerationConfigIn) -> list[FieldViolation]:
    mime = config.response_mime_type or PLAIN
    has_schema = bool(config.response_schema or config.response_json_schema)
    if mime not in (PLAIN, JSON, ENUM):
        return [FieldViolation(AT + "responseMimeType", f"{mime!r} is not offered; use {PLAIN}, {JSON} or {ENUM}")]
    if mime == PLAIN and has_schema:
        return [FieldViolation(AT + "responseMimeType", f"must be {JSON} or {ENUM} where there is a schema")]
    if config.response_schema and config.response_json_schema:
        return [FieldViolation(AT + "responseJsonSchema", "is given beside responseSchema; use one of them")]
    return []


def _form(config: GenerationConfigIn) -> ResponseFormat | None:
    """What the answer must be: nothing in particular, any JSON, JSON by a schema, or one of an enum's texts."""
    mime = config.response_mime_type or PLAIN
    if mime == PLAIN:
        return None
    if config.response_json_schema:
        field = AT + "responseJsonSchema"
        schema = from_json_schema(cast(JsonValue, config.response_json_schema), field)
    elif config.response_schema:
        field = AT + "responseSchema"
        schema = from_google_schema(cast(JsonValue, config.response_schema), field)
    else:
        field, schema = AT + "responseMimeType", ANY_JSON
    if mime == ENUM:
        return ResponseFormat(field, choices=enum_choices(schema, field))
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_CHARS:
        raise InvalidArgument.of(field, f"is {len(text):,} characters long; at most {MAX_SCHEMA_CHARS:,} are allowed")
    return ResponseFormat(field, text)


# ---- the contents


def _content(content: ContentIn, at: str) -> Content:
    role = ROLES.get(content.role or "")
    if role is None:
        raise InvalidArgument.of(f"{at}.role", f"{content.role!r}: please use a valid role: user, model")
    return Content(role, _parts(content, at))


def _resolution(config: GenerationConfigIn | None) -> Resolution | None:
    said = None if config is None else config.media_resolution
    return None if said is None else named_resolution(said, AT + "mediaResolution")


def _parts(content: ContentIn, at: str) -> tuple[Part, ...]:
    if not content.parts:
        raise InvalidArgument.of(f"{at}.parts", "is empty; it must hold at least one part")
    return tuple(_part(part, f"{at}.parts[{i}]") for i, part in enumerate(content.parts))


def _part(part: PartIn, at: str) -> Part:
    unoffered = _given(part, f"{at}.", tuple(PartIn.model_fields.keys() - OFFERED))
    if unoffered:
        raise InvalidArgument.of_all(tuple(unoffered))
    held = [name for name in KINDS if getattr(part, name) is not None]
    if len(held) > 1:
        raise InvalidArgument.of(f"{at}.data", f"oneof field 'data' is already set: {' and '.join(held)}; set one")
    if not held:
        raise InvalidArgument.of(f"{at}.data", "required oneof field 'data' is not set; set text, or a medium")
    if held[0] in ("inline_data", "file_data"):
        return _read(parse_media_part, part, at)
    beside = _given(part, f"{at}.", ("video_metadata", "media_resolution"))
    if beside:
        raise InvalidArgument.of(beside[0].field, "stands beside media only")
    if part.function_response is not None:
        unoffered = _given(part.function_response, f"{at}.functionResponse.", ("parts", "will_continue", "scheduling"))
        if unoffered:
            raise InvalidArgument.of_all(tuple(unoffered))
    return Text(part.text) if part.text is not None else _read(parse_function_part, part, at)


def _read(read: Callable[[Mapping[str, JsonValue], str], Part], part: PartIn, at: str) -> Part:
    """The part as rows of datasets are read."""
    try:
        return read(explicit_fields(part), at)
    except RowError as fault:
        said = fault.message + (f" ({fault.hint})" if fault.hint else "")
        raise InvalidArgument.of(fault.path, said) from fault


def _given(body: ProtoModel, at: str, names: Sequence[str]) -> list[FieldViolation]:
    """A violation for each of the unoffered fields that says something; empty values say nothing."""
    fields = type(body).model_fields
    return [FieldViolation(f"{at}{fields[name].alias}", UNOFFERED) for name in names if getattr(body, name)]

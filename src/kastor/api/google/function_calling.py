"""What a GenerateContentRequest says of functions: which there are, and whether the model must call one.

Only functions that the caller runs are offered; a tool of Google's own is refused by name.
"""

from collections.abc import Mapping
from typing import cast

import orjson

from kastor.api.google.content import FunctionDeclarationIn, GenerateIn, ToolConfigIn, Unoffered
from kastor.api.google.response_schema import from_google_schema, from_json_schema
from kastor.api.http.protojson import ProtoModel
from kastor.dataset.formats.tolerant_json import JsonValue
from kastor.domain.errors import FieldViolation
from kastor.domain.tools import parse_declarations

AT = "toolConfig.functionCallingConfig."
AUTO, ANY, NONE = "AUTO", "ANY", "NONE"
UNOFFERED = "is not offered by this server; leave it out"
NO_ARGUMENTS: JsonValue = {"type": "object", "properties": {}, "additionalProperties": False}


def calling_mode(body: GenerateIn) -> str:
    """Whether the model may (AUTO), must (ANY) or must not (NONE) call functions."""
    config = None if body.tool_config is None else body.tool_config.function_calling_config
    said = None if config is None else config.mode
    return AUTO if said in (None, "MODE_UNSPECIFIED") else str(said)


def parse_tools(body: GenerateIn) -> str:
    """The tools as a prompt holds them; none where the model must not call any.

    Raises:
        InvalidArgument: a declaration is wrong; names the field.

    """
    if not _declared(body):
        return ""
    text = orjson.dumps([explicit_fields(tool) for tool in body.tools or ()]).decode()
    parse_declarations(text)
    return "" if calling_mode(body) == NONE else text


def required_functions(body: GenerateIn) -> Mapping[str, JsonValue]:
    """The functions of which the model must call one, each with the schema of its arguments; empty where it need not.

    Raises:
        InvalidArgument: a schema cannot be followed; names its path.

    """
    if calling_mode(body) != ANY:
        return {}
    allowed = _allowed(body)
    return {one.name or "": _schema(one, at) for at, one in _declared(body) if not allowed or one.name in allowed}


def calling_violations(body: GenerateIn) -> list[FieldViolation]:
    """What is not offered, or makes no sense."""
    wrong = [one for index, tool in enumerate(body.tools or ()) for one in _unoffered(tool, f"tools[{index}].")]
    for at, declared in _declared(body):
        wrong += _unoffered(declared, f"{at}.")
    if body.tool_config is not None:
        wrong += _config_violations(body, body.tool_config)
    return wrong


def explicit_fields(message: ProtoModel) -> dict[str, JsonValue]:
    """What the message says, by names in camelCase. What stands in free maps is left as it is, nulls as well."""
    fields = cast(dict[str, JsonValue], message.model_dump(by_alias=True, exclude_unset=True))
    return {name: value for name, value in fields.items() if value is not None}


def _config_violations(body: GenerateIn, asked: ToolConfigIn) -> list[FieldViolation]:
    wrong = _unoffered(asked, "toolConfig.")
    config = asked.function_calling_config
    if config is None:
        return wrong
    wrong += _unoffered(config, AT)
    names = {one.name for _, one in _declared(body)}
    if calling_mode(body) not in (AUTO, ANY, NONE):
        wrong.append(FieldViolation(AT + "mode", f"{config.mode} is not offered; use AUTO, ANY or NONE"))
    if calling_mode(body) == ANY and not names:
        wrong.append(FieldViolation(AT + "mode", "ANY without functionDeclarations: there is nothing to call"))
    if config.allowed_function_names and calling_mode(body) != ANY:
        wrong.append(FieldViolation(AT + "allowedFunctionNames", "has a meaning only where mode is ANY"))
    unknown = sorted(set(config.allowed_function_names or ()) - names)
    if unknown:
        wrong.append(FieldViolation(AT + "allowedFunctionNames", f"{unknown[0]!r} is declared by none of the tools"))
    return wrong


def _allowed(body: GenerateIn) -> list[str]:
    config = None if body.tool_config is None else body.tool_config.function_calling_config
    return list(config.allowed_function_names or ()) if config is not None else []


def _declared(body: GenerateIn) -> list[tuple[str, FunctionDeclarationIn]]:
    """Each function with the path of its declaration."""
    return [
        (f"tools[{index}].functionDeclarations[{place}]", one)
        for index, tool in enumerate(body.tools or ())
        for place, one in enumerate(tool.function_declarations or ())
    ]


def _schema(declared: FunctionDeclarationIn, at: str) -> JsonValue:
    if declared.parameters_json_schema:
        return from_json_schema(cast(JsonValue, declared.parameters_json_schema), f"{at}.parametersJsonSchema")
    if declared.parameters:
        return from_google_schema(cast(JsonValue, declared.parameters), f"{at}.parameters")
    return NO_ARGUMENTS


def _unoffered(body: ProtoModel, at: str) -> list[FieldViolation]:
    """A violation for each field that is not offered; an empty object says something here, as in `googleSearch`."""
    return [
        FieldViolation(f"{at}{known.alias}", UNOFFERED)
        for name, known in type(body).model_fields.items()
        if known.annotation == Unoffered and getattr(body, name) is not None
    ]

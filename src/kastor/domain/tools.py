"""Functions that a model may call: what a list of tools declares, as values. Standard library only.

How they are written for a model is `models.functions`; whether calls fit what was declared, by
`dataset.calls`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kastor.domain.errors import InvalidArgument

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
MAX_DEPTH = 64
"""Of the objects and lists in arguments, responses and schemas, one in another."""
GOOGLE_TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
INT64_TEXT = re.compile(r"\d{1,18}", re.ASCII)  # longer ones are no number of things
COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
SPELLINGS = {
    "any_of": "anyOf",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
    "property_ordering": "propertyOrdering",
}
FIELDS = {
    "name": "name",
    "description": "description",
    "parameters": "parameters",
    "parametersJsonSchema": "parametersJsonSchema",
    "parameters_json_schema": "parametersJsonSchema",
    "response": "response",
    "responseJsonSchema": "responseJsonSchema",
    "response_json_schema": "responseJsonSchema",
}
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}

Json = Any
"""A value that JSON has."""


@dataclass(frozen=True, slots=True)
class FunctionDeclaration:
    """A function as a model is told of it; the schemas are JSON Schema, and read only."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    response: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class ToolCallSupport:
    """What a base's way of writing function calls can hold."""

    text_beside_calls: bool  # whether a model's turn may hold text and calls


@lru_cache(maxsize=256)
def parse_declarations(tools: str) -> tuple[FunctionDeclaration, ...]:
    """The functions that `tools`, a JSON list of the wire's Tool messages, declares; none of an empty text.

    Raises:
        InvalidArgument: it declares something else, or a declaration is wrong; names the field.

    """
    found: list[FunctionDeclaration] = []
    for index, tool in enumerate(json.loads(tools) if tools else []):
        at = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise InvalidArgument.of(at, "is not an object with functionDeclarations")
        others = sorted(tool.keys() - {"functionDeclarations", "function_declarations"})
        if others:
            raise InvalidArgument.of(f"{at}.{others[0]}", "is not offered; a tool holds functionDeclarations")
        listed = tool.get("functionDeclarations", tool.get("function_declarations")) or []
        at = f"{at}.functionDeclarations"
        if isinstance(listed, dict):
            listed = [listed]
        if not isinstance(listed, list):
            raise InvalidArgument.of(at, "is not a list")
        found += [_declaration(one, f"{at}[{place}]") for place, one in enumerate(listed)]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument.of("tools", f"declares {twice} more than once")
    return tuple(found)


def _declaration(value: Json, at: str) -> FunctionDeclaration:
    if not isinstance(value, dict):
        raise InvalidArgument.of(at, "is not an object with a name")
    unknown = sorted(value.keys() - FIELDS.keys())
    if unknown:
        raise InvalidArgument.of(f"{at}.{unknown[0]}", f"is not offered; known are {', '.join(FIELDS)}")
    fields = {FIELDS[name]: held for name, held in value.items() if held is not None}
    name, description = fields.get("name"), fields.get("description", "")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        said = f"{name!r}; use a letter or _, then at most 127 letters, digits, _ . : -"
        raise InvalidArgument.of(f"{at}.name", said)
    if not isinstance(description, str):
        raise InvalidArgument.of(f"{at}.description", "is not a text")
    parameters = _schema(fields, "parameters", at)
    return FunctionDeclaration(name, description, parameters or dict(NO_PARAMETERS), _schema(fields, "response", at))


def _schema(fields: Mapping[str, Json], name: str, at: str) -> Mapping[str, Json] | None:
    """The schema in either spelling of it."""
    spelt = f"{name}JsonSchema"
    given, at = (fields[spelt], f"{at}.{spelt}") if spelt in fields else (fields.get(name), f"{at}.{name}")
    if spelt in fields and name in fields:
        raise InvalidArgument.of(at, f"is given beside {name}; use one of them")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InvalidArgument.of(at, "is not an object")
    if exceeds_max_depth(given):
        raise InvalidArgument.of(at, f"is nested more than {MAX_DEPTH} deep")
    return given if spelt in fields else json_schema(given)


def json_schema(schema: Mapping[str, Json]) -> dict[str, Json]:
    """Google's `Schema` as JSON Schema: types in lower case, `nullable` a type, properties in `propertyOrdering`.

    >>> json_schema({"type": "OBJECT", "properties": {"at": {"type": "STRING", "nullable": True}}})
    {'type': 'object', 'properties': {'at': {'type': ['string', 'null']}}}
    """
    fields = {SPELLINGS.get(name, name): held for name, held in schema.items()}
    order, nullable = fields.pop("propertyOrdering", None), fields.pop("nullable", None)
    kind = fields.get("type")
    if isinstance(kind, str) and kind.upper() in GOOGLE_TYPES:
        fields["type"] = [kind.lower(), "null"] if nullable is True else kind.lower()
    for name in COUNTS & fields.keys():
        if isinstance(fields[name], str) and INT64_TEXT.fullmatch(fields[name]):  # int64, as proto3 JSON writes it
            fields[name] = int(fields[name])
    if isinstance(fields.get("items"), dict):
        fields["items"] = json_schema(fields["items"])
    if isinstance(fields.get("anyOf"), list):
        fields["anyOf"] = [json_schema(one) if isinstance(one, dict) else one for one in fields["anyOf"]]
    held = fields.get("properties")
    if isinstance(held, dict):
        first = [name for name in order if name in held] if isinstance(order, list) else []
        names = dict.fromkeys([*first, *held])
        fields["properties"] = {name: json_schema(held[name]) if isinstance(held[name], dict) else {} for name in names}
    return fields


def exceeds_max_depth(value: Json) -> bool:
    """Whether objects and lists are nested deeper than `MAX_DEPTH`: Python's own reader gives up at some depth."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True

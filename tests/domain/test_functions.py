"""What tools declare, in both of the spellings that callers have."""

import json
from typing import Any

import pytest

from kastor.domain.errors import InvalidArgument
from kastor.domain.tools import MAX_DEPTH, exceeds_max_depth, json_schema, parse_declarations


def tools(*functions: object, **fields: object) -> str:
    return json.dumps([{"functionDeclarations": list(functions)} | fields])


def test_googles_schemas_become_json_schema() -> None:
    google = {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "enum": ["A"], "description": "a property that is called type"},
            "any_of": {"any_of": [{"type": "INTEGER"}, {"type": "NULL"}]},
            "list": {"type": "ARRAY", "items": {"type": "NUMBER", "nullable": True}, "min_items": "2"},
        },
        "propertyOrdering": ["list", "type"],
        "required": ["list"],
    }
    found = json_schema(google)
    assert found == {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 2},
            "type": {"type": "string", "enum": ["A"], "description": "a property that is called type"},
            "any_of": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["list"],
    }
    assert list(found["properties"]) == ["list", "type", "any_of"]


def test_json_schema_is_taken_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "STRING"}}, "$defs": {}}
    (found,) = parse_declarations(tools({"name": "f", "parametersJsonSchema": schema, "response": {"type": "STRING"}}))
    assert (found.parameters, found.response) == (schema, {"type": "string"})


def test_a_function_without_parameters_has_none() -> None:
    (found,) = parse_declarations(tools({"name": "f", "description": "d"}))
    assert (found.name, found.description, found.parameters) == ("f", "d", {"type": "object", "properties": {}})


def test_snake_case_and_a_lone_function_are_understood() -> None:
    assert [one.name for one in parse_declarations('[{"function_declarations": {"name": "f"}}, {}]')] == ["f"]
    assert parse_declarations("") == ()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('[{"codeExecution": {}}]', "tools[0].codeExecution"),
        ('[{"functionDeclarations": 1}]', "tools[0].functionDeclarations"),
        (tools(1), "tools[0].functionDeclarations[0]"),
        (tools({}), "tools[0].functionDeclarations[0].name"),
        (tools({"name": "a b"}), "tools[0].functionDeclarations[0].name"),
        (tools({"name": "f", "description": 1}), "tools[0].functionDeclarations[0].description"),
        (tools({"name": "f", "parameters": []}), "tools[0].functionDeclarations[0].parameters"),
        (tools({"name": "f", "colour": 1}), "tools[0].functionDeclarations[0].colour"),
        (
            tools({"name": "f", "parameters": {}, "parametersJsonSchema": {}}),
            "tools[0].functionDeclarations[0].parametersJsonSchema",
        ),
        (tools({"name": "f"}, {"name": "f"}), "tools"),
    ],
)
def test_a_wrong_declaration_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_declarations(text)
    assert [wrong.field for wrong in caught.value.violations] == [field]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"items": value}
    return value


def test_what_is_nested_too_deeply_is_refused_before_anything_recurses() -> None:
    assert not exceeds_max_depth(nested(MAX_DEPTH))
    assert exceeds_max_depth(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidArgument, match="nested more than"):
        parse_declarations(tools({"name": "f", "parameters": nested(900)}))

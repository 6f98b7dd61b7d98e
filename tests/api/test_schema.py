"""Google's Schema and JSON Schema become what the engine follows, or are refused by path and name."""

from typing import Any

import pydantic
import pytest
from google import genai
from google.genai import _transformers
from hypothesis import given
from hypothesis import strategies as st

from kastor.api.google.response_schema import MAX_DEPTH, MAX_SCHEMAS, enum_choices, from_google_schema, from_json_schema
from kastor.domain.errors import InvalidArgument

AT = "responseSchema"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "string", "description": "d", "title": "t", "example": 1, "default": "x"}, {"type": "string"}),
        ({"type": 3, "format": "int64"}, {"type": "integer"}),
        ({"type": "INTEGER", "format": "int32"}, {"minimum": -(2**31), "maximum": 2**31 - 1, "type": "integer"}),
        ({"type": "INTEGER", "minimum": "3", "maximum": 5.0}, {"type": "integer", "minimum": 3, "maximum": 5}),
        ({"type": "NUMBER", "format": "double", "minimum": 0.5}, {"type": "number", "minimum": 0.5}),
        ({"type": "BOOLEAN", "nullable": True}, {"type": ["boolean", "null"]}),
        ({"type": "STRING", "nullable": None, "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "STRING", "format": "enum", "enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
        (
            {"type": "STRING", "enum": ["a"], "nullable": True},
            {"type": ["string", "null"], "enum": ["a", None]},
        ),
        (
            {"type": "STRING", "min_length": "2", "maxLength": 3, "pattern": "^a"},
            {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"},
        ),
        (
            {"type": "ARRAY", "items": {"type": "NULL"}, "min_items": 1, "maxItems": "2"},
            {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
        ),
        (
            {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}], "nullable": True},
            {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "null"}]},
        ),
        ({"type": "OBJECT", "required": [], "title": ""}, {"type": "object"}),
        (
            {"type": "OBJECT", "properties": {"a_b": {"type": "STRING"}}, "required": ["a_b"], "minProperties": 1},
            {
                "type": "object",
                "properties": {"a_b": {"type": "string"}},
                "additionalProperties": False,
                "required": ["a_b"],
                "minProperties": 1,
            },
        ),
    ],
)
def test_googles_schema_means(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert from_google_schema(schema, AT) == expected


def test_a_lone_value_in_googles_schema_is_a_list_of_one() -> None:
    kinds = {"type": "OBJECT", "properties": {"kind": {"type": "STRING", "enum": ["a"]}}, "required": ["kind"]}
    lone = {"type": "OBJECT", "properties": {"kind": {"type": "STRING", "enum": "a"}}, "required": "kind"}
    listed = {"anyOf": [kinds], "nullable": True}
    assert from_google_schema({"anyOf": lone, "nullable": True}, "at") == from_google_schema(listed, "at")


def test_properties_come_in_the_order_wanted_then_as_listed() -> None:
    fields = {name: {"type": "NULL"} for name in "cab"}
    for spelling in ("propertyOrdering", "property_ordering"):
        made = from_google_schema({"type": "OBJECT", "properties": fields, spelling: ["b"]}, AT)
        assert list(made["properties"]) == ["b", "c", "a"]
    fields = {name: {"type": "null"} for name in "cab"}
    assert list(from_json_schema({"properties": fields, "propertyOrdering": ["a"]}, AT)["properties"]) == list("acb")


@pytest.mark.parametrize(
    ("schema", "field", "said"),
    [
        ({"type": "TEXT"}, ".type", "known are TYPE_UNSPECIFIED, STRING"),
        ({"type": 8}, ".type", "8"),
        ({"type": "STRING", "colour": 1}, ".colour", "not a keyword of Schema"),
        ({"type": "STRING", "items": {"type": "STRING"}}, ".items", "belongs to type ARRAY, not STRING"),
        ({"minimum": 1}, ".minimum", "belongs to type NUMBER or INTEGER; say the type"),
        ({"type": "INTEGER", "enum": ["1"]}, ".enum", "belongs to type STRING"),
        ({"type": "STRING", "format": "byte"}, ".format", "date-time"),
        ({"type": "STRING", "minLength": -1}, ".minLength", "whole number"),
        ({"type": "STRING", "minLength": "1_0"}, ".minLength", "must be a number"),
        ({"type": "STRING", "maxLength": 10**9}, ".maxLength", "whole number"),
        ({"type": "STRING", "pattern": "a" * 1001}, ".pattern", "at most 1,000"),
        ({"type": "STRING", "enum": [1]}, ".enum[0]", "text"),
        ({"type": "NUMBER", "minimum": "low"}, ".minimum", "number"),
        ({"type": "NUMBER", "minimum": 1e300}, ".minimum", "out of range"),
        ({"type": "ARRAY", "items": [{"type": "STRING"}]}, ".items", "must be an object"),
        ({"type": "STRING", "nullable": "yes"}, ".nullable", "true or false"),
        ({"type": "STRING", "min_length": 1, "minLength": 2}, ".minLength", "twice"),
        ({"type": "OBJECT", "properties": {"a": {"type": "X"}}}, ".properties.a.type", "not a Type"),
        (
            {"type": "OBJECT", "properties": {"a": {}}, "required": ["b"]},
            ".required",
            "'b' is not one of the properties",
        ),
        ({"type": "OBJECT", "propertyOrdering": ["b"]}, ".propertyOrdering", "no properties"),
        ({"anyOf": [{"type": "STRING"}, "x"]}, ".anyOf[1]", "must be an object"),
        ("x", "", "must be an object"),
    ],
)
def test_what_googles_schema_cannot_mean_is_named(schema: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_google_schema(schema, AT)
    assert refused.value.violations[0].field == AT + field
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"], "title": "T", "$schema": "s", "$comment": "c"}, {"type": ["string", "null"]}),
        ({"oneOf": [{"type": "string"}, {"const": None}]}, {"anyOf": [{"type": "string"}, {"const": None}]}),
        ({"allOf": [{"$ref": "#/$defs/a"}]}, {"allOf": [{"$ref": "#/$defs/a"}]}),
        (
            {"type": "object", "properties": {"a": True}},
            {"type": "object", "properties": {"a": True}, "additionalProperties": False},
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
            {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
        ),
        ({"prefixItems": [{}], "items": False}, {"prefixItems": [{}], "items": False}),
        (
            {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}, "required": ["b"]}]},
            {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}, "required": ["b"]}]},
        ),
    ],
)
def test_json_schema_means(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert from_json_schema(schema, AT) == expected


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"not": {}}, ".not"),
        ({"uniqueItems": True}, ".uniqueItems"),
        ({"multipleOf": 3}, ".multipleOf"),
        ({"if": {}}, ".if"),
        ({"allOf": [{}, {}]}, ".allOf"),
        ({"type": "STRING"}, ".type"),
        ({"type": ["string", "text"]}, ".type"),
        ({"$ref": "http://elsewhere"}, ".$ref"),
        ({"format": "iri"}, ".format"),
        ({"items": {"properties": {"x": {"contains": {}}}}}, ".items.properties.x.contains"),
        ({"enum": [{}]}, ".enum[0]"),
        (True, ""),
        ({"required": ["x"] * (MAX_SCHEMAS + 1)}, ".required"),
    ],
)
def test_what_is_not_followed_of_json_schema_is_named(schema: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_json_schema(schema, AT)
    assert refused.value.violations[0].field == AT + field


OBJECT = {from_google_schema: {"type": "OBJECT"}, from_json_schema: {"type": "object"}}
STRING = {from_google_schema: {"type": "STRING"}, from_json_schema: {"type": "string"}}


@pytest.mark.parametrize("read", [from_google_schema, from_json_schema])
def test_a_schema_too_deep_or_too_large_is_refused(read: Any) -> None:
    deep: dict[str, Any] = {"type": "ARRAY" if read is from_google_schema else "array"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"type": deep["type"], "items": deep}
    with pytest.raises(InvalidArgument, match=f"deeper than {MAX_DEPTH} levels"):
        read(deep, AT)
    names = {f"n{i}": {} for i in range(MAX_SCHEMAS)}
    with pytest.raises(InvalidArgument, match="more than 1000 parts"):
        read({**OBJECT[read], "properties": names}, AT)
    with pytest.raises(InvalidArgument, match="more than 1000 parts"):
        read({**STRING[read], "enum": [str(i) for i in range(MAX_SCHEMAS)]}, AT)


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"enum": []}, {"enum": "x"}, {"enum": [1, 2]}])
def test_choices_are_texts(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        enum_choices(schema, AT)


class Address(pydantic.BaseModel):
    street: str
    number: int | None = None


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1, description="in full")
    home: Address
    others: list[Address] = []
    age: int | str


def test_what_the_sdk_makes_of_a_pydantic_model_is_read() -> None:
    client = genai.Client(api_key="x")
    schema = _transformers.t_schema(client._api_client, Person)
    assert schema is not None
    made = from_google_schema(schema.model_dump(mode="json", by_alias=True, exclude_none=True), AT)
    assert list(made["properties"]) == ["name", "home", "others", "age"]
    assert made["properties"]["home"]["properties"]["number"] == {"type": ["integer", "null"]}
    of_json = from_json_schema(Person.model_json_schema(), AT)
    assert of_json["required"] == ["name", "home", "age"]
    assert of_json["$defs"]["Address"]["additionalProperties"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "items", "properties", "anyOf", "enum", "format", "required", "minimum", "$ref", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON)
@pytest.mark.parametrize("read", [from_google_schema, from_json_schema, enum_choices])
def test_anything_is_a_schema_or_a_refusal(read: Any, value: Any) -> None:
    try:
        read(value, AT)
    except InvalidArgument as refused:
        assert refused.violations

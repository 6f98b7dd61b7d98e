"""What an answer must look like, as callers spell it, -> JSON Schema that the engine can follow. Pure.

Two spellings: Google's `Schema` (an OpenAPI subset: types in upper case, `nullable`, `propertyOrdering`, names in
either case) and JSON Schema as pydantic and its like write it. What the engine would not follow is refused by path and
name; only annotations (title, description, default, …) are without effect. An object has no other properties than
those that are listed, unless the schema says more about them; they come in the order listed, or in
`propertyOrdering`'s. `oneOf` is read as `anyOf`, as Google does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic.alias_generators import to_camel, to_snake

from kastor.api.http.protojson import parse_json_number
from kastor.dataset.formats.tolerant_json import JsonValue
from kastor.domain.errors import InvalidArgument

MAX_DEPTH = 32
MAX_SCHEMAS = 1000
"""Schemas and values of enums, all together: the engine compiles 1,000 properties in a quarter of a second."""
MAX_PATTERN_CHARS = 1000
MAX_COUNT = 1_000_000
MAX_NUMBER = 1e15

JsonSchema = dict[str, JsonValue]
GOOGLE_TYPES = ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
"""Each at its number."""
JSON_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
ANNOTATIONS = frozenset({"title", "description", "default", "example"})
JSON_ANNOTATIONS = ANNOTATIONS | {"$schema", "$comment", "$id", "examples", "deprecated", "readOnly", "writeOnly"}
TEXT_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
NUMBER_FORMATS = ("float", "double")
INTEGER_FORMATS = ("int32", "int64")
INT32_BOUNDS: dict[str, JsonValue] = {"minimum": -(2**31), "maximum": 2**31 - 1}

COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "STRING": ("enum", "format", "minLength", "maxLength", "pattern"),
    "NUMBER": ("format", "minimum", "maximum"),
    "INTEGER": ("format", "minimum", "maximum"),
    "ARRAY": ("items", "minItems", "maxItems"),
    "OBJECT": ("properties", "required", "propertyOrdering", "minProperties", "maxProperties"),
}
"""Which of Google's keywords belong to which type; `anyOf`, `nullable` and annotations belong to all."""
REPEATED = ("anyOf", "enum", "required", "propertyOrdering")
"""Google's keywords that hold lists; a lone value is a list of one there, as in every message."""


def from_google_schema(schema: JsonValue, at: str) -> JsonSchema:
    """The JSON Schema that a `Schema` message at the path `at` means.

    >>> schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}}
    >>> from_google_schema(schema, "responseSchema")
    {'type': 'object', 'properties': {'a': {'type': ['string', 'null']}}, 'additionalProperties': False}

    Raises:
        InvalidArgument: a keyword is unknown, or a value is wrong; names its path.

    """
    return _Reader().google(schema, at, 0)


def from_json_schema(schema: JsonValue, at: str) -> JsonValue:
    """The JSON Schema, less what has no effect, as far as the engine follows it.

    Raises:
        InvalidArgument: a keyword is not offered, or a value is wrong; names its path.

    """
    return _Reader().json(schema, at, 0)


def enum_choices(schema: JsonValue, at: str) -> tuple[str, ...]:
    """The texts of an enum, for answers that are one of them.

    >>> enum_choices({"type": "string", "enum": ["a", "b"]}, "responseSchema")
    ('a', 'b')

    Raises:
        InvalidArgument: the schema is something else.

    """
    values = schema.get("enum") if isinstance(schema, dict) else None
    if not isinstance(values, list) or not values:
        raise InvalidArgument.of(at, "text/x.enum needs a schema of type STRING with an enum")
    return tuple(_text(value, f"{at}.enum") for value in values)


@dataclass(slots=True)
class _Reader:
    """One schema as it is read; counts its parts."""

    num_schemas: int = 0

    # ---- Google's spelling

    def google(self, value: JsonValue, at: str, depth: int) -> JsonSchema:
        fields = _camel(self._object(value, at, depth), at)
        kind = _google_type(fields.pop("type", None), at)
        nullable = _flag(fields.pop("nullable", False), f"{at}.nullable")
        made: JsonSchema = {"type": kind.lower()} if kind else {}
        for name, given in fields.items():
            if name in ANNOTATIONS or given in ("", []):
                continue
            here = f"{at}.{name}"
            if name in REPEATED and not isinstance(given, list):
                given = [given]
            if name == "anyOf":
                made["anyOf"] = [self.google(*one, depth + 1) for one in _listed(given, here)]
            elif name in OF_TYPE.get(kind, ()):
                made |= self._google_keyword(kind, name, given, here, depth)
            else:
                raise InvalidArgument.of(here, _misplaced(name, kind))
        if fields.get("format") == "int32":
            made = INT32_BOUNDS | made
        _order(made, at)
        return _nullable(made) if nullable else made

    def _google_keyword(self, kind: str, name: str, given: JsonValue, at: str, depth: int) -> JsonSchema:
        if name == "items":
            return {name: self.google(given, at, depth + 1)}
        if name == "properties":
            found: JsonValue = {k: self.google(one, f"{at}.{k}", depth + 1) for k, one in _mapping(given, at).items()}
            return {name: found, "additionalProperties": False}
        if name == "format":
            return _google_format(kind, _text(given, at), at)
        if name == "enum":
            return {name: [_text(*one) for one in self._values(given, at)]}
        return {name: PLAIN[name](given, at)}

    # ---- JSON Schema

    def json(self, value: JsonValue, at: str, depth: int, *, closed: bool = True) -> JsonValue:
        """The schema; `closed`: an object in it has only the properties that it lists."""
        if isinstance(value, bool) and depth:
            return value
        fields = self._object(value, at, depth)
        combined = any(name in fields for name in ("anyOf", "oneOf", "allOf", "$ref"))
        made: JsonSchema = {}
        for name, given in fields.items():
            if name not in JSON_ANNOTATIONS and name != "discriminator":
                inner = closed and not (combined and "properties" in fields)
                made |= self._json_keyword(name, given, f"{at}.{name}", depth, closed=inner)
        if "properties" in made and closed and not combined and "patternProperties" not in made:
            made.setdefault("additionalProperties", False)
        _order(made, at)
        return made

    def _json_keyword(self, name: str, given: JsonValue, at: str, depth: int, *, closed: bool) -> JsonSchema:
        if name in PLAIN:
            return {name: PLAIN[name](given, at)}
        if name in ("items", "additionalProperties"):
            return {name: self.json(given, at, depth + 1)}
        if name in ("properties", "patternProperties", "$defs", "definitions"):
            return {name: {k: self.json(one, f"{at}.{k}", depth + 1) for k, one in _mapping(given, at).items()}}
        if name == "prefixItems":
            return {name: [self.json(*one, depth + 1) for one in _listed(given, at)]}
        if name in ("anyOf", "oneOf") or (name == "allOf" and isinstance(given, list) and len(given) == 1):
            name = "anyOf" if name == "oneOf" else name
            return {name: [self.json(*one, depth + 1, closed=closed) for one in _listed(given, at)]}
        if name == "enum":
            return {name: [_scalar(*one) for one in self._values(given, at)]}
        if name == "const":
            return {name: _scalar(given, at)}
        raise InvalidArgument.of(at, "is not offered by this server; leave it out")

    # ---- both

    def _object(self, value: JsonValue, at: str, depth: int) -> Mapping[str, JsonValue]:
        self._count(1, at)
        if depth > MAX_DEPTH:
            raise InvalidArgument.of(at, f"lies deeper than {MAX_DEPTH} levels")
        return {name: given for name, given in _mapping(value, at).items() if given is not None or name == "const"}

    def _values(self, given: JsonValue, at: str) -> Sequence[tuple[JsonValue, str]]:
        found = _listed(given, at)
        self._count(len(found), at)
        return found

    def _count(self, more: int, at: str) -> None:
        self.num_schemas += more
        if self.num_schemas > MAX_SCHEMAS:
            raise InvalidArgument.of(at, f"the schema has more than {MAX_SCHEMAS} parts; use a smaller one")


# ---- values


def _mapping(value: JsonValue, at: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise InvalidArgument.of(at, "must be an object")
    return value


def _listed(value: JsonValue, at: str) -> Sequence[tuple[JsonValue, str]]:
    """The values of a list that is not empty, each with its path."""
    if not isinstance(value, list) or not value:
        raise InvalidArgument.of(at, "must be a list with something in it")
    return [(one, f"{at}[{i}]") for i, one in enumerate(value)]


def _text(value: JsonValue, at: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument.of(at, "must be a text")
    return value


def _scalar(value: JsonValue, at: str) -> JsonValue:
    if isinstance(value, dict | list):
        raise InvalidArgument.of(at, "must be a text, a number, true, false or null")
    return value


def _texts(value: JsonValue, at: str) -> JsonValue:
    found = _listed(value, at) if value != [] else []
    if len(found) > MAX_SCHEMAS:
        raise InvalidArgument.of(at, f"names {len(found):,} properties, at most {MAX_SCHEMAS:,} are allowed")
    return [_text(*one) for one in found]


def _flag(value: JsonValue, at: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument.of(at, "must be true or false")
    return value


def _number(value: JsonValue, at: str) -> JsonValue:
    number = parse_json_number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise InvalidArgument.of(at, "must be a number")
    if abs(number) > MAX_NUMBER:
        raise InvalidArgument.of(at, f"is out of range; use one from -{MAX_NUMBER:g} to {MAX_NUMBER:g}")
    return int(number) if float(number).is_integer() else number


def _count(value: JsonValue, at: str) -> JsonValue:
    number = _number(value, at)
    if not isinstance(number, int) or not 0 <= number <= MAX_COUNT:
        raise InvalidArgument.of(at, f"must be a whole number from 0 to {MAX_COUNT:,}")
    return number


def _pattern(value: JsonValue, at: str) -> JsonValue:
    text = _text(value, at)
    if len(text) > MAX_PATTERN_CHARS:
        raise InvalidArgument.of(at, f"{len(text):,} characters, at most {MAX_PATTERN_CHARS:,} are allowed")
    return text


def _reference(value: JsonValue, at: str) -> JsonValue:
    text = _text(value, at)
    if not text.startswith("#"):
        raise InvalidArgument.of(at, f"{text[:100]!r} is somewhere else; only references into this schema are followed")
    return text


def _json_type(value: JsonValue, at: str) -> JsonValue:
    listed = value if isinstance(value, list) else [value]
    for one in listed:
        if one not in JSON_TYPES:
            raise InvalidArgument.of(at, f"{str(one)[:40]!r} is not a type; known are {', '.join(JSON_TYPES)}")
    return value


def _json_format(value: JsonValue, at: str) -> JsonValue:
    text = _text(value, at)
    if text not in (*TEXT_FORMATS, *NUMBER_FORMATS, *INTEGER_FORMATS):
        raise InvalidArgument.of(at, f"{text[:40]!r} is not followed here; known are {', '.join(TEXT_FORMATS)}")
    return text


PLAIN: Mapping[str, Callable[[JsonValue, str], JsonValue]] = {
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("required", "propertyOrdering"), _texts),
    "pattern": _pattern,
    "type": _json_type,
    "format": _json_format,
    "$ref": _reference,
    "$anchor": _text,
}
"""How the value of each keyword without schemas in it is read."""


# ---- Google's ways


def _camel(fields: Mapping[str, JsonValue], at: str) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for name, value in fields.items():
        camel = to_camel(to_snake(name))
        if camel in found:
            raise InvalidArgument.of(f"{at}.{camel}", "is given twice, in two spellings")
        found[camel] = value
    return found


def _google_type(value: JsonValue, at: str) -> str:
    """The type's name, empty where it is not said."""
    name = value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(GOOGLE_TYPES):
        name = GOOGLE_TYPES[value]
    if isinstance(name, str) and name.upper() in GOOGLE_TYPES:
        return "" if name.upper() == GOOGLE_TYPES[0] else name.upper()
    if name is None:
        return ""
    raise InvalidArgument.of(f"{at}.type", f"{str(value)[:40]!r} is not a Type; known are {', '.join(GOOGLE_TYPES)}")


def _google_format(kind: str, given: str, at: str) -> JsonSchema:
    known = {"STRING": ("enum", *TEXT_FORMATS), "NUMBER": NUMBER_FORMATS, "INTEGER": INTEGER_FORMATS}[kind]
    if given not in known:
        raise InvalidArgument.of(at, f"{given[:40]!r} is not followed for {kind}; known are {', '.join(known)}")
    return {"format": given} if given in TEXT_FORMATS else {}


def _misplaced(name: str, kind: str) -> str:
    owners = [owner for owner, names in OF_TYPE.items() if name in names]
    if not owners:
        return "is not a keyword of Schema; use responseJsonSchema for JSON Schema"
    return f"belongs to type {' or '.join(owners)}" + (f", not {kind}" if kind else "; say the type")


def _nullable(schema: JsonSchema) -> JsonSchema:
    if "anyOf" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "enum" in schema and isinstance(schema["enum"], list):
        schema = schema | {"enum": [*schema["enum"], None]}
    return schema | {"type": [schema["type"], "null"]} if "type" in schema else schema


def _order(schema: JsonSchema, at: str) -> None:
    """Lay the properties in the order wanted; each that is named anywhere must be there."""
    ordering = schema.pop("propertyOrdering", None)
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        if ordering:
            raise InvalidArgument.of(f"{at}.propertyOrdering", "there are no properties to order")
        return
    named = ordering if isinstance(ordering, list) else []
    for name in named:
        if name not in properties:
            raise InvalidArgument.of(f"{at}.propertyOrdering", f"{name!r} is not one of the properties")
    required = schema.get("required")
    if isinstance(required, list) and schema.get("additionalProperties") is False:
        for name in required:
            if name not in properties:
                raise InvalidArgument.of(f"{at}.required", f"{name!r} is not one of the properties")
    order = [*named, *(name for name in properties if name not in named)]
    schema["properties"] = {str(name): properties[str(name)] for name in order}

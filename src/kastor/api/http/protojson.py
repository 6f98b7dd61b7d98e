"""How JSON is read into wire values and written from them: the base of every dialect's messages.

Proto3 JSON as Google's front end does it (gemini-api.md §3.1): names in camelCase and snake_case, mixed; whole numbers
as 5, 5.0 or "5"; enums by name or number; null is unset; a lone value where a list is expected is a list of one; an
unknown field is an error. What a field means is the
dialects' business.
"""

import math
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import ErrorDetails, InitErrorDetails

from kastor.api.http.json_bounds import JsonBounds, check_num_names, is_large, is_too_deep
from kastor.api.http.wire_names import InvalidMessage
from kastor.dataset.formats.tolerant_json import MAX_DEPTH, JsonValue, parse_json
from kastor.domain.errors import FieldViolation, InvalidArgument, MalformedJson
from kastor.domain.excerpt import shortened

INT32 = range(-(2**31), 2**31)
FLOAT_MAX = 3.4028234663852886e38
MAX_VIOLATIONS = 100  # nobody reads more
PART = 100  # items of a list: what is wrong in one part is all that is told, at each level
MAX_SHOWN_CHARS = 40  # of a wrong value that a message repeats
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as a text; Python's own readers take `1_0`, ` 5` and `٣` as well."""
LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029")
"""Legal in JSON as they are; yet many clients end a line of a stream there."""
BAD_JSON = "Invalid JSON payload received. "


class ProtoModel(BaseModel):
    """A message. In: either spelling, unknown names refused. Out: camelCase, `None` is left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        defer_build=True,  # the start of the server does not wait for what the first request needs
    )

    bounds: ClassVar[JsonBounds] = JsonBounds(max_objects=1_000_000, max_values=4_000_000)

    def json_value(self) -> dict[str, object]:
        """The message as JSON writes it."""
        return self.model_dump(by_alias=True, exclude_none=True)


Message = TypeVar("Message", bound=ProtoModel)


def _int32(value: object) -> int:
    if isinstance(value, str):
        number = parse_json_number(value)
        if number is None:
            raise ValueError(f"must be a whole number, not {describe_value(value)}")
        value = number
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {describe_value(value)}")
    if value not in INT32:
        raise ValueError(f"{describe_value(value)} does not fit into 32 bits")
    return value


def _float32(value: object) -> float:
    number = _as_float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    if number is None:
        raise ValueError(f"must be a number, not {describe_value(value)}")
    if not math.isfinite(number) or abs(number) > FLOAT_MAX:
        raise ValueError(f"{describe_value(value)} is not a finite 32-bit number")
    return number


def _as_float(value: str | float) -> float | None:
    if isinstance(value, str):
        return parse_json_number(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def parse_json_number(text: str) -> float | None:
    """The number that a text spells as JSON would, give or take a zero; `None` if it spells none.

    >>> (parse_json_number("5"), parse_json_number("-.5e1"), parse_json_number("1_0"),
    ...  parse_json_number(" 5"), parse_json_number("NaN"))
    (5.0, -5.0, None, None, None)
    """
    return float(text) if NUMBER.fullmatch(text) else None


def shortest_float32(value: float) -> float:
    """The shortest decimal that means the same 32-bit float, as Google writes floats.

    >>> shortest_float32(0.001), shortest_float32(1.402067184448242), shortest_float32(100 / 3)
    (0.001, 1.4020672, 33.333333)
    """
    try:
        wanted = struct.pack("f", value)
    except OverflowError:
        return value
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == wanted:
            return short
    return float(f"{value:.9g}")


Item = TypeVar("Item")


def _by_parts(value: object, read: ValidatorFunctionWrapHandler) -> object:
    if value is None:
        return read(value)
    if not isinstance(value, list):
        return _lone(value, read)
    items: list[object] = []
    for start in range(0, max(1, len(value)), PART):
        try:
            items += read(value[start : start + PART])
        except ValidationError as error:
            raise _at(error, start) from None
    return items


def _lone(value: object, read: ValidatorFunctionWrapHandler) -> object:
    """A list of one, written without its brackets; what is wrong with it is told without an index."""
    try:
        return read([value])
    except ValidationError as error:
        details = [_detail(one, one["loc"][1:]) for one in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(error.title, details) from None


def _at(error: ValidationError, start: int) -> ValidationError:
    """The error of a part that begins with item `start`."""
    details = [_detail(one, (_index(one["loc"]) + start, *one["loc"][1:])) for one in error.errors(include_url=False)]
    return ValidationError.from_exception_data(error.title, details)


def _detail(error: ErrorDetails, loc: tuple[int | str, ...]) -> InitErrorDetails:
    """The same error at another place."""
    told = InitErrorDetails(type=error["type"], loc=loc, input=error["input"])
    return told | {"ctx": error["ctx"]} if "ctx" in error else told


def _index(loc: tuple[int | str, ...]) -> int:
    return int(loc[0])


Items = Annotated[list[Item], WrapValidator(_by_parts)]
"""A repeated field. A lone value is a list of one, as in Google's own samples (`"parts": {"text": "…"}`). A long list
is read in parts, up to the first that has a wrong item: telling of a million stops the server for seconds."""
Int32 = Annotated[int, BeforeValidator(_int32)]
Float32 = Annotated[float, BeforeValidator(_float32), PlainSerializer(shortest_float32, return_type=float)]


def enum_field(kind: str, names: Sequence[str]) -> BeforeValidator:
    """A validator of an enum's name; a value is a name, or its number, which is its place in `names`."""

    def name(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return names[value]
        raise ValueError(f"{describe_value(value)} is not a {kind}; known are {', '.join(names)}")

    return BeforeValidator(name)


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with a Z.

    >>> timestamp(datetime(2025, 1, 15, 19, 31, 29, 123456, tzinfo=UTC))
    '2025-01-15T19:31:29.123456Z'
    """
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def dump_json(value: object, *, pretty: bool) -> bytes:
    """JSON text: two spaces of indent and a line end, or everything on one line."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE if pretty else 0)
    for raw, escape in LINE_ENDS:
        text = text.replace(raw, escape)
    return text


def parse_message(kind: type[Message], body: bytes, *, root: str = "", may_be_empty: bool = False) -> Message:
    """The message that a request's body spells; `root` is its name in Google's messages about unknown fields.

    Raises:
        MalformedJson: it is not JSON, or no object.
        InvalidArgument: a field is unknown or of a wrong type, which names each; or there is too much of it.

    """
    if not body.strip():
        if may_be_empty:
            return kind()
        raise MalformedJson(BAD_JSON + "The body is empty; a JSON object was expected.")
    kind.bounds.check(body)
    try:
        value = parse_json(body.removeprefix(b"\xef\xbb\xbf"))
    except MalformedJson as error:
        raise MalformedJson(BAD_JSON + error.message) from error
    if not isinstance(value, dict):
        raise MalformedJson(f"{BAD_JSON}The root must be an object, not {describe_value(value)}.")
    if is_too_deep(value):
        raise MalformedJson(f"{BAD_JSON}Nested too deeply: at most {MAX_DEPTH} levels are read.")
    told, left_out = check_num_names(kind, value) if is_large(body) else (value, 0)
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        raise _refusal(error, value, root, left_out) from error


def describe_value(value: object) -> str:
    """A wrong value in words: what it is, and how it begins."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {shortened(repr(value), MAX_SHOWN_CHARS)}"
    if isinstance(value, str):
        return f"the text {shortened(repr(value), MAX_SHOWN_CHARS)}"
    return "a list" if isinstance(value, list) else "an object"


def _refusal(error: ValidationError, value: JsonValue, root: str, left_out: int) -> InvalidArgument:
    details = error.errors(include_url=False)
    wrong = tuple(_violation(one, value, root) for one in details[:MAX_VIOLATIONS])
    said = [v.description if v.description.startswith(BAD_JSON) else f"{v.field}: {v.description}" for v in wrong[:3]]
    more = len(details) - len(said) + left_out
    unread = len(details) >= PART and any(isinstance(step, int) for step in details[-1]["loc"])  # a list's other parts
    others = "" if more <= 0 else "; and many more" if unread else f"; and {more:,} more"
    return InvalidMessage("; ".join(said) + others, violations=wrong)


def _violation(error: ErrorDetails, value: JsonValue, root: str) -> FieldViolation:
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        return _unknown(loc, value, root)
    return FieldViolation(_path(loc, camel=True) or "body", _said(error))


def _said(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"]))
    if kind == "missing":
        return "is missing"
    expected = {"string_type": "a text", "list_type": "a list", "model_type": "an object", "bool_type": "true or false"}
    return f"must be {expected[kind]}, not {describe_value(value)}" if kind in expected else error["msg"]


def _unknown(loc: tuple[int | str, ...], value: JsonValue, root: str) -> FieldViolation:
    name, parent = str(loc[-1]), value
    for step in loc[:-1]:
        parent = _child(parent, step)
    if isinstance(parent, dict) and len({to_camel(name), to_snake(name)} & parent.keys()) == 2:
        return FieldViolation(_path(loc, camel=True), f"is given twice, as {to_camel(name)} and {to_snake(name)}")
    inner = _path(loc[:-1], camel=False)
    at = ".".join(part for part in (root, inner) if part)
    where = f" at '{at}'" if at else ""
    return FieldViolation(
        at or name, f'{BAD_JSON}Unknown name "{shortened(name, MAX_SHOWN_CHARS)}"{where}: Cannot find field.'
    )


def _child(parent: JsonValue, step: int | str) -> JsonValue:
    if isinstance(parent, dict):
        return parent.get(str(step))
    return parent[step] if isinstance(parent, list) and isinstance(step, int) else None


def _path(loc: tuple[int | str, ...], *, camel: bool) -> str:
    """The field as a path.

    >>> _path(("contents", 0, "parts", 1, "inline_data"), camel=True)
    'contents[0].parts[1].inlineData'
    """
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += ("." if path else "") + (to_camel(to_snake(step)) if camel else to_snake(step))
    return path

"""How large a request may be once it is read: counted in the bytes, before anything is made of them.

A byte of JSON may become three hundred in memory (`{}` is a message with all its fields unset), and reading it holds up
all other answers. So values and objects are counted first, and of names that no message has only the first reach the
validation, which would tell of each.
"""

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel, to_snake

from kastor.dataset.formats.tolerant_json import MAX_DEPTH
from kastor.domain.errors import InvalidArgument

MAX_UNKNOWN = 100  # names that are told of
FEW = 10_000  # values, or fewer: nothing needs to be bounded
# a string (to the end where nothing closes it), or what begins or separates values; possessive, so that it is linear
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|(?P<open>[\[{])|(?P<comma>,)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """What one kind of request may hold."""

    max_objects: int  # objects and lists
    max_values: int  # of all kinds, those in free-form fields, too

    def check(self, body: bytes) -> None:
        """Nothing, if the body holds no more.

        Raises:
            InvalidArgument: it does; says which bound.

        """
        objects = body.count(b"{") + body.count(b"[")
        if objects <= self.max_objects and objects + body.count(b",") <= self.max_values:
            return
        objects = values = 0  # brackets and commas in texts are none
        for token in _TOKEN.finditer(body):
            kind = token.lastgroup
            objects += kind == "open"
            values += kind is not None
            if objects > self.max_objects or values > self.max_values:
                raise InvalidArgument(
                    f"The request holds more than {self.max_objects:,} objects and lists, or more than "
                    f"{self.max_values:,} values in all; send less at once. A large dataset is uploaded as a file."
                )


def is_too_deep(value: Any) -> bool:  # noqa: ANN401  # JSON
    """Whether objects and lists lie in one another deeper than `MAX_DEPTH`; what reads them calls itself for each."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def is_large(body: bytes) -> bool:
    """Whether the body may hold so many values that its unknown names have to be bounded."""
    return body.count(b",") > FEW


def check_num_names(kind: type[BaseModel], value: Any) -> tuple[Any, int]:  # noqa: ANN401  # JSON
    """The value with at most `MAX_UNKNOWN` names that its message does not know, and how many were left out."""
    names = _Names()
    return names.bounded(kind, value), names.left_out


@dataclass(slots=True)
class _Names:
    num_unknown: int = 0
    left_out: int = 0

    def bounded(self, kind: type[BaseModel], value: Any) -> Any:  # noqa: ANN401  # JSON
        if isinstance(value, list):
            return [self.bounded(kind, one) for one in value]
        if not isinstance(value, dict):
            return value
        known, kept = _known(kind), {}
        for name, one in value.items():
            if name in known:
                inner = known[name]
                kept[name] = one if inner is None or not one else self.bounded(inner, one)
            elif self.num_unknown < MAX_UNKNOWN:
                self.num_unknown += 1
                kept[name] = one
            else:
                self.left_out += 1
        return kept


@cache
def _known(kind: type[BaseModel]) -> Mapping[str, type[BaseModel] | None]:
    """The names that the message has, in both spellings, and the messages that their values are."""
    inner = {name: _message(field.annotation) for name, field in kind.model_fields.items()}
    return {spelling(name): found for name, found in inner.items() for spelling in (to_camel, to_snake, str)}


def _message(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401  # a type, or what typing makes of one
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_message(argument) for argument in typing.get_args(annotation))
    return next((one for one in found if one is not None), None)

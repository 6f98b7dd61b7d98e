"""Errors of the core in the words of a dialect: the core names fields and tuned models its own way.

Each dialect has one `WireNames`; `RouteFactory` translates with it whatever a handler raises.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar

from kastor.domain.errors import (
    FieldViolation,
    InvalidArgument,
    KastorError,
    list_violations,
    named,
    named_violations,
)

INDEX = re.compile(r"\[\d+\]")

P = ParamSpec("P")
T = TypeVar("T")


class InvalidMessage(InvalidArgument):
    """A message that does not fit its schema: its fields are named as the wire names them, and stay so."""


@dataclass(frozen=True, slots=True)
class WireNames:
    """How a dialect calls what the core names.

    `fields` maps the core's fields to paths; `[]` stands for any index, in both. A field without an entry keeps its
    name. `hints` adds to what is wrong with a field what only this dialect's callers need to know.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    tuned_model: Callable[[str], str] = str  # the name of a tuned model, by its id

    def path(self, name: str) -> str:
        """The path of the core's field.

        >>> WireNames({"examples[].input": "examples[].textInput"}).path("examples[3].input")
        'examples[3].textInput'
        """
        found = self.fields.get(INDEX.sub("[]", name))
        if found is None:
            return name
        indices = iter(INDEX.findall(name))
        return re.sub(r"\[\]", lambda _: next(indices), found)

    def translate(self, error: KastorError) -> None:
        """Put the error into the words of the dialect, where it is."""
        if isinstance(error, InvalidMessage):
            return
        template, model = error.template, None if error.model_id is None else self.tuned_model(error.model_id)
        if isinstance(error, InvalidArgument) and error.violations:
            violations = tuple(map(self._violation, error.violation_templates))
            if template == list_violations(error.violation_templates):
                template = list_violations(violations)
            error.violations = named_violations(violations, model)
        error.message = named(template, model)
        error.args = (error.message,)

    def translated(self, handler: Callable[P, T]) -> Callable[P, T]:
        """The handler, whose errors are put into the words of the dialect."""

        @wraps(handler)
        def answer(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return handler(*args, **kwargs)
            except KastorError as error:
                self.translate(error)
                raise

        return answer

    def translated_stream(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """The items, whose errors are put into the words of the dialect."""
        try:
            yield from items
        except KastorError as error:
            self.translate(error)
            raise

    def _violation(self, violation: FieldViolation) -> FieldViolation:
        return FieldViolation(self.path(violation.field), violation.description + self.hints.get(violation.field, ""))

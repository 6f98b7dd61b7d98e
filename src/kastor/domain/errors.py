"""The error tree. Each class carries its canonical google.rpc code.

    KastorError
    ├── InvalidArgument      3   what the caller sent is wrong; names the field
    │   └── MalformedJson    3   not JSON at all; names line and column
    ├── NotFound             5
    ├── AlreadyExists        6
    ├── PermissionDenied     7
    ├── ResourceExhausted    8   disk, memory, quota
    ├── FailedPrecondition   9   right request, wrong moment
    │   └── Superseded       9   somebody else changed the job first
    ├── Unimplemented       12
    ├── Internal            13
    ├── Unavailable         14   try again
    ├── DataLoss            15   a stored file is damaged or missing; names it
    └── Unauthenticated     16

A message names the thing, the value, and what would work. HTTP statuses are given in `kastor.api.http.errors` only.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

MAX_LISTED_VIOLATIONS = 3
MODEL = "\x00model\x00"  # no text of a user holds it
"""In a message, the place of a tuned model's name: its id, until a dialect puts the name on its wire there."""


class Code(IntEnum):
    """The canonical codes of google.rpc.Code that Kastor uses."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field and what is wrong with it. The core names fields as its own values do; dialects translate."""

    field: str
    description: str


def named(template: str, model_name: str | None) -> str:
    """The message with the model's name in its place, if it is about one."""
    return template if model_name is None else template.replace(MODEL, model_name)


class KastorError(Exception):
    """Base of every error a caller may see.

    `reason` is a stable upper-case word for programs (google.rpc.ErrorInfo.reason), empty where the code says enough.
    Messages about a tuned model write `MODEL` for its name and pass its id as `model_id`.
    """

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(self, message: str, *, reason: str = "", model_id: str | None = None) -> None:
        self.template = message
        self.message = named(message, model_id)
        self.reason = reason
        self.model_id = model_id
        super().__init__(self.message)


class InvalidArgument(KastorError):
    """The request is wrong whatever the state of the system; `violations` name the fields."""

    code = Code.INVALID_ARGUMENT

    def __init__(
        self,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        reason: str = "",
        model_id: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason, model_id=model_id)
        self.violation_templates = violations
        self.violations = named_violations(violations, model_id)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """One wrong field."""
        return cls.of_all((FieldViolation(field, description),))

    @classmethod
    def of_all(cls, violations: tuple[FieldViolation, ...], *, reason: str = "", model_id: str | None = None) -> Self:
        """Several wrong fields; the message spells out the first ones."""
        return cls(list_violations(violations), violations=violations, reason=reason, model_id=model_id)


def list_violations(violations: tuple[FieldViolation, ...]) -> str:
    """The message of an error that is nothing but its violations."""
    listed = "; ".join(f"{v.field}: {v.description}" for v in violations[:MAX_LISTED_VIOLATIONS])
    more = len(violations) - MAX_LISTED_VIOLATIONS
    return listed + (f"; and {more} more" if more > 0 else "")


def named_violations(violations: tuple[FieldViolation, ...], model_name: str | None) -> tuple[FieldViolation, ...]:
    """The violations with the model's name in its place, if they are about one."""
    if model_name is None:
        return violations
    return tuple(replace(v, description=v.description.replace(MODEL, model_name)) for v in violations)


class MalformedJson(InvalidArgument):
    """The body is not JSON."""


class NotFound(KastorError):
    """No such thing, or none the caller may know of."""

    code = Code.NOT_FOUND


class AlreadyExists(KastorError):
    """The name is taken."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(KastorError):
    """The caller is known and may not."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(KastorError):
    """Disk, memory or a quota is used up."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(KastorError):
    """The system is not in the state this request needs."""

    code = Code.FAILED_PRECONDITION


class Superseded(FailedPrecondition):
    """A compare-and-set write found the job changed by somebody else: read it again."""


class Unimplemented(KastorError):
    """Known to the wire, not offered by this server."""

    code = Code.UNIMPLEMENTED


class Internal(KastorError):
    """A bug of ours."""

    code = Code.INTERNAL


class Unavailable(KastorError):
    """Not now; the same request may work later."""

    code = Code.UNAVAILABLE


class DataLoss(KastorError):
    """A file that Kastor wrote is damaged or missing; asking again will not help."""

    code = Code.DATA_LOSS


class Unauthenticated(KastorError):
    """The credential is missing, wrong or expired."""

    code = Code.UNAUTHENTICATED

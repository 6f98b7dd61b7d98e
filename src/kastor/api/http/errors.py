"""Errors on the wire: the only table of codes and HTTP statuses, and Google's error body.

Mirrors google.rpc.Status as the Gemini API writes it (gemini-api.md §4): `{"error": {code, message, status, details}}`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kastor.domain.errors import Code, FieldViolation, InvalidArgument, KastorError
from kastor.runtime.logging import redact_secrets
from kastor.security.redaction import redact_paths

HTTP_STATUS: Mapping[Code, int] = MappingProxyType(
    {
        Code.CANCELLED: 499,
        Code.INVALID_ARGUMENT: 400,
        Code.NOT_FOUND: 404,
        Code.ALREADY_EXISTS: 409,
        Code.PERMISSION_DENIED: 403,
        Code.RESOURCE_EXHAUSTED: 429,
        Code.FAILED_PRECONDITION: 400,
        Code.UNIMPLEMENTED: 501,
        Code.INTERNAL: 500,
        Code.UNAVAILABLE: 503,
        Code.DATA_LOSS: 500,
        Code.UNAUTHENTICATED: 401,
    }
)
TYPE_URL = "type.googleapis.com/"
SERVICE = "generativelanguage.googleapis.com"
MAX_VIOLATIONS = 100
"""A body may be wrong in a hundred thousand places; the answer names the first ones."""

CALLERS_OWN = frozenset({Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.ALREADY_EXISTS})
"""Faults of what a caller sent: a path in the message is the caller's."""
Json = dict[str, object]


def public_message(code: Code, message: str) -> str:
    """The message of an error as callers get it: without keys, and without the server's folders."""
    return redact_secrets(message if code in CALLERS_OWN else redact_paths(message))


def error_body(error: KastorError) -> Json:
    """The body that says `error`."""
    body: Json = {
        "code": HTTP_STATUS[error.code],
        "message": public_message(error.code, error.message),
        "status": error.code.name,
    }
    details = _details(error)
    if details:
        body["details"] = details
    return {"error": body}


def _details(error: KastorError) -> list[Json]:
    details: list[Json] = []
    if error.reason:
        details.append(
            {
                "@type": TYPE_URL + "google.rpc.ErrorInfo",
                "reason": error.reason,
                "domain": "googleapis.com",
                "metadata": {"service": SERVICE},
            }
        )
    violations = error.violations if isinstance(error, InvalidArgument) else ()
    if violations:
        listed = [_violation(violation) for violation in violations[:MAX_VIOLATIONS]]
        details.append({"@type": TYPE_URL + "google.rpc.BadRequest", "fieldViolations": listed})
    return details


def _violation(violation: FieldViolation) -> Json:
    """The field and what is wrong with it; a parameter without a name (`?=5`) has none here, too."""
    named: Json = {"field": violation.field} if violation.field else {}
    return named | {"description": violation.description}

"""Who calls: an API key or a bearer token -> a principal. Knows no HTTP: the API hands over what it found."""

import hashlib
import hmac
from collections.abc import Mapping

from kastor.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from kastor.domain.permission import Principal

LOCAL = Principal("local@kastor", operator=True)
"""Everybody, on a server without keys."""


class Authenticator:
    """The keys of an installation: e-mail of a caller -> their secret. Without any, everybody is `LOCAL`."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._digests = tuple((_digest(secret), Principal(email)) for email, secret in secrets.items())

    @property
    def open(self) -> bool:
        """Whether everybody is let in."""
        return not self._digests

    def principal(self, *, api_key: str | None = None, bearer: str | None = None) -> Principal:
        """The caller; a bearer token, which is one of the same secrets, goes before a key.

        Raises:
            PermissionDenied: neither was given.
            InvalidArgument: the key is none of ours.
            Unauthenticated: the token is none of ours.

        """
        if self.open:
            return LOCAL
        if bearer:
            return self._owner(bearer) or _refuse_token()
        if api_key:
            return self._owner(api_key) or _refuse_key()
        raise PermissionDenied(
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API."
        )

    def _owner(self, secret: str) -> Principal | None:
        """Whose secret it is. Every known one is compared, in constant time, so the duration tells nothing."""
        given = _digest(secret)
        found = None
        for digest, principal in self._digests:
            if hmac.compare_digest(digest, given):
                found = principal
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _refuse_key() -> Principal:
    raise InvalidArgument("API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID")


def _refuse_token() -> Principal:
    raise Unauthenticated(
        "Request had invalid authentication credentials. Expected a key of this server as bearer token.",
        reason="ACCESS_TOKEN_INVALID",
    )

"""Who calls: an API key or a bearer token -> a principal. Knows no HTTP: an edge hands over what it found.

A caller is known by a key of the settings, a key of the database, or a token of the OpenID provider. What is not there
is not asked; with nothing at all, nobody is let in.
"""

import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from kastor.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from kastor.domain.permission import Principal, normal_email
from kastor.security.api_keys import KEY_PATTERN, ApiKey, digest

LOCAL = Principal("local@kastor", operator=True)
"""Everybody, on a server with `no_auth`; and whoever uses a private server of the command line."""
UNREGISTERED = "Method doesn't allow unregistered callers"
INVALID_KEY = "API_KEY_INVALID"
INVALID_TOKEN = "ACCESS_TOKEN_INVALID"  # noqa: S105  # a word, no secret
"""Words that tell programs what was wrong with a credential."""


class ApiKeyLookup(Protocol):
    """The keys of the database."""

    def find(self, digest: str) -> ApiKey | None:
        """The key with this digest, whatever became of it."""
        ...


class TokenVerifier(Protocol):
    """The tokens of an OpenID provider."""

    def principal(self, token: str) -> Principal:
        """Whose token it is.

        Raises:
            Unauthenticated: it is not a valid one of this provider for this server; says why.
            Unavailable: the provider, whose keys are needed, cannot be reached.

        """
        ...


class Authenticator:
    """The doors of an installation."""

    def __init__(
        self,
        secrets: Mapping[str, str] | None = None,
        *,
        keys: ApiKeyLookup | None = None,
        tokens: TokenVerifier | None = None,
        operators: Collection[str] = (),
        no_auth: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`secrets`: e-mail of a caller -> their key; `operators`: e-mails whose callers may do everything."""
        self._digests = tuple((digest(secret), Principal(email)) for email, secret in (secrets or {}).items())
        self._keys = keys
        self._tokens = tokens
        self._operators = frozenset(normal_email(email) for email in operators)
        self._no_auth = no_auth
        self._clock = clock

    @property
    def open(self) -> bool:
        """Whether everybody is let in, as `LOCAL`."""
        return self._no_auth

    def principal(self, *, api_key: str | None = None, bearer: str | None = None) -> Principal:
        """The caller; a bearer token, which is a key or the provider's, goes before a key. Blocks: it may ask others.

        Raises:
            PermissionDenied: neither was given.
            InvalidArgument: the key is none of ours, or its time is over.
            Unauthenticated: the token is none of ours.
            Unavailable: the database or the provider cannot be asked.

        """
        if self.open:
            return LOCAL
        if bearer:
            return self._ranked(self._of_bearer(bearer))
        if api_key:
            return self._ranked(self._of_key(api_key))
        raise PermissionDenied(
            f"{UNREGISTERED} (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API."
        )

    def _ranked(self, principal: Principal) -> Principal:
        return replace(principal, operator=True) if principal.email in self._operators else principal

    def _of_key(self, api_key: str) -> Principal:
        try:
            return self._owner(api_key) or _refuse_key()
        except _Expired:
            raise InvalidArgument("API key expired. Please renew the API key.", reason=INVALID_KEY) from None

    def _of_bearer(self, bearer: str) -> Principal:
        try:
            owner = self._owner(bearer)
        except _Expired:
            raise wrong_token("The token is a key of this server that has expired.") from None
        if owner is not None:
            return owner
        if self._tokens is None:
            raise wrong_token("Expected a key of this server as the token.")
        return self._tokens.principal(bearer)

    def _owner(self, secret: str) -> Principal | None:
        """Whose key it is, or None.

        Every one of the settings is compared, in constant time, so the duration tells nothing. The database finds a
        row by the digest: what that might tell is about SHA-256 of the caller's own guess, which leads to no key.

        Raises:
            _Expired: it was one of ours.

        """
        given, found = digest(secret), None
        for known, principal in self._digests:
            if hmac.compare_digest(known, given):
                found = principal
        if found is None and self._keys is not None and KEY_PATTERN.fullmatch(secret):
            key = self._keys.find(given)
            if key is None or not hmac.compare_digest(key.digest, given) or key.revoked_at is not None:
                return None
            if key.expired(self._clock()):
                raise _Expired
            found = Principal(key.email, operator=key.operator)
        return found


class _Expired(Exception):
    """A key of ours whose time is over."""


def _refuse_key() -> Principal:
    raise InvalidArgument("API key not valid. Please pass a valid API key.", reason=INVALID_KEY)


def wrong_token(why: str) -> Unauthenticated:
    """The refusal of a bearer token."""
    return Unauthenticated(f"Request had invalid authentication credentials. {why}", reason=INVALID_TOKEN)

"""Bearer tokens of an OpenID provider: checked against its published keys -> a principal.

Only a server that has a provider imports this: PyJWT and cryptography cost 0.1 s. The provider is asked when the first
token comes, not at the start; its keys are kept for `KEYS_FRESH_S`, and asked for again when a token names one that is
not among them, at most every `REFETCH_S`. One caller asks, the others wait for the answer.
"""

import threading
import time
from collections.abc import Callable, Mapping
from json import JSONDecodeError
from typing import Any

import httpx
import jwt
from jwt import PyJWKClient
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    MissingRequiredClaimError,
    PyJWKClientConnectionError,
    PyJWKClientError,
    PyJWKSetError,
    PyJWTError,
)

from kastor.domain.errors import InvalidArgument, Unavailable
from kastor.domain.permission import Principal, validated_email
from kastor.security.auth import wrong_token
from kastor.security.origin import is_secure_url

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key. Never HS…, where the public key would do as the secret, and never none."""
LEEWAY_S = 30  # how far the provider's clock may be off
KEYS_FRESH_S = 300
REFETCH_S = 30
RETRY_S = 5.0  # after a failure, so that callers do not wait one after another for a provider that is down
TIMEOUT_S = 5.0


class OidcVerifier:
    """The tokens that one provider, `issuer`, gives out for one `audience`. Safe to use from several threads."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        email_claim: str = "email",
        groups_claim: str = "groups",
        refetch_s: float = REFETCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds, from anywhere."""
        self._issuer = issuer
        self._audience = audience
        self._email_claim = email_claim
        self._groups_claim = groups_claim
        self._refetch_s = refetch_s
        self._clock = clock
        self._lock = threading.Lock()
        self._client: PyJWKClient | None = None
        self._known: tuple[float, Mapping[str, jwt.PyJWK]] = (clock(), {})  # read without the lock
        self._failed: tuple[float, str] | None = None

    def principal(self, token: str) -> Principal:
        """Whose token it is.

        Raises:
            Unauthenticated: it is not a valid one of this provider for this server; says why, never repeats it.
            Unavailable: the provider cannot be asked for its keys.

        """
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, UnicodeError, RecursionError):  # the latter by a header of many brackets
            raise wrong_token(f"Expected a key of this server, or a token of {self._issuer}.") from None
        if header.get("alg") not in ALGORITHMS:
            raise wrong_token(f"The token's signature has to be one of {', '.join(ALGORITHMS)}.")
        if not isinstance(header.get("kid"), str):
            raise wrong_token("The token does not name the key it was signed with (kid).")
        return self._caller(self._claims(token, self._key(header["kid"])))

    def _claims(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},  # nbf and iat, which many leave out, hold where they stand
            )
        except PyJWTError as error:
            raise wrong_token(self._why(error)) from None

    def _why(self, error: PyJWTError) -> str:
        match error:
            case ExpiredSignatureError():
                return "The token has expired."
            case ImmatureSignatureError():
                return "The token is not valid yet."
            case InvalidAudienceError():
                return f"The token is not for the audience {self._audience!r}."
            case InvalidIssuerError():
                return f"The token is not from {self._issuer}."
            case MissingRequiredClaimError():
                return f"The token has no claim {error.claim!r}."
            case _:
                return "The token's signature or form is wrong."

    def _caller(self, claims: Mapping[str, Any]) -> Principal:
        try:  # Principals are compared in lower case, so anything but an address might be somebody else's
            email = validated_email(str(claims.get(self._email_claim, "")), self._email_claim)
        except InvalidArgument:
            raise wrong_token(f"The token's claim {self._email_claim!r} has to be an e-mail address.") from None
        if claims.get("email_verified", True) not in (True, "true"):
            raise wrong_token("The token's e-mail address is not verified.")
        named = claims.get(self._groups_claim, ())
        groups = [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else ()
        return Principal(email, frozenset(group for group in groups if isinstance(group, str)))

    def _key(self, kid: str) -> jwt.PyJWK:
        """The provider's key of that id; one that was seen lately waits for nobody who asks for another."""
        seen, keys = self._known
        if kid in keys and self._clock() - seen < KEYS_FRESH_S:
            return keys[kid]
        with self._lock:
            if self._failed is not None and self._clock() - self._failed[0] < RETRY_S:
                raise Unavailable(self._failed[1])
            try:
                self._client = self._client or self._discovered()
                found = self._client.get_signing_key(kid)
            except (
                PyJWKClientConnectionError,
                httpx.HTTPError,
                PyJWKSetError,
                OSError,
                JSONDecodeError,
                _Malformed,
            ) as error:
                said = f"The OpenID provider {self._issuer} cannot be asked for its keys: {error}. Try again."
                self._failed = (self._clock(), said)
                raise Unavailable(said) from error
            except PyJWKClientError:
                raise wrong_token(f"The token was signed with a key that {self._issuer} does not publish.") from None
            self._failed = None
            self._known = (self._clock(), {str(key.key_id): key for key in self._client.get_signing_keys()})
            return found

    def _discovered(self) -> PyJWKClient:
        """A client for the keys at the address that the provider's discovery document tells."""
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        document = httpx.get(url, timeout=TIMEOUT_S).raise_for_status().json()
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise _Malformed(f"{url} does not speak for it")
        keys_url = document.get("jwks_uri")
        if not isinstance(keys_url, str) or not is_secure_url(keys_url):
            raise _Malformed(f"{url} names no https address of keys")
        return PyJWKClient(keys_url, lifespan=KEYS_FRESH_S, timeout=TIMEOUT_S, cooldown_duration=self._refetch_s)


class _Malformed(Exception):
    """What the provider says of itself makes no sense."""

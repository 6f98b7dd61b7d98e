"""Tokens of an OpenID provider, checked against a real little one on loopback."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from kastor.domain.errors import Unauthenticated, Unavailable
from kastor.domain.permission import Principal
from kastor.security.oidc import RETRY_S, OidcVerifier
from support.oidc_issuer import EC, ED, OTHER, RSA, Issuer, public_jwk, serving


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Issuer()
    with serving(found):
        found.publish(("one", RSA), ("ec", EC), ("ed", ED))
        yield found


@pytest.fixture
def tokens(issuer: Issuer) -> OidcVerifier:
    return OidcVerifier(issuer.url, "kastor")


def refused(tokens: OidcVerifier, token: str, why: str) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        tokens.principal(token)
    assert token not in caught.value.message
    assert caught.value.reason == "ACCESS_TOKEN_INVALID"


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "one"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_a_good_token_is_its_holder(issuer: Issuer, tokens: OidcVerifier, key: Any, algorithm: str, kid: str) -> None:
    token = issuer.token(key, algorithm, kid, groups=["Staff@example.org", "admins@example.org"])
    groups = frozenset({"staff@example.org", "admins@example.org"})
    assert tokens.principal(token) == Principal("ada@example.org", groups)


def test_claims_may_have_other_names(issuer: Issuer) -> None:
    tokens = OidcVerifier(issuer.url, "kastor", email_claim="upn", groups_claim="roles")
    token = issuer.token(email=None, upn="bo@example.org", roles="one@example.org")
    assert tokens.principal(token) == Principal("bo@example.org", frozenset({"one@example.org"}))


def test_an_audience_among_several_and_no_word_on_verification_will_do(issuer: Issuer, tokens: OidcVerifier) -> None:
    token = issuer.token(aud=["other", "kastor"], email_verified=None, nbf=None, iat=None)
    assert tokens.principal(token).email == "ada@example.org"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": time.time() - 60}, "has expired"),
        ({"nbf": time.time() + 3600}, "not valid yet"),
        ({"aud": "another"}, "not for the audience 'kastor'"),
        ({"iss": "https://evil.example"}, "not from http"),
        ({"exp": None}, "no claim 'exp'"),
        ({"aud": None}, "no claim 'aud'"),
        ({"iss": None}, "no claim 'iss'"),
        ({"email": None}, "claim 'email' has to be an e-mail address"),
        ({"email": ["ada@example.org"]}, "claim 'email' has to be an e-mail address"),
        ({"email": "somebody"}, "claim 'email' has to be an e-mail address"),
        ({"email_verified": False}, "not verified"),
        ({"email_verified": "false"}, "not verified"),
        ({"email_verified": 0}, "not verified"),
    ],
)
def test_a_token_that_says_the_wrong_thing_is_refused_with_the_reason(
    issuer: Issuer, tokens: OidcVerifier, changes: dict[str, Any], why: str
) -> None:
    refused(tokens, issuer.token(**changes), why)


def test_clocks_may_differ_by_half_a_minute(issuer: Issuer, tokens: OidcVerifier) -> None:
    now = time.time()
    assert tokens.principal(issuer.token(exp=now - 15)) and tokens.principal(issuer.token(nbf=now + 15))
    refused(tokens, issuer.token(exp=now - 45), "expired")


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def by_hand(issuer: Issuer, header: dict[str, Any], secret: bytes | None) -> str:
    """A token as no honest library makes it."""
    signed = f"{encoded(header)}.{encoded(issuer.claims())}"
    signature = b"" if secret is None else hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(signature)}"


def test_an_unsigned_token_is_refused(issuer: Issuer, tokens: OidcVerifier) -> None:
    for algorithm in ("none", "None", "NONE"):
        refused(tokens, by_hand(issuer, {"alg": algorithm, "kid": "one"}, None), "signature has to be one of RS256")


def test_the_public_key_is_no_secret_to_sign_with(issuer: Issuer, tokens: OidcVerifier) -> None:
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (public, public.strip(), json.dumps(issuer.keys[0]).encode()):
        refused(tokens, by_hand(issuer, {"alg": "HS256", "kid": "one"}, secret), "signature has to be one of RS256")
    assert issuer.asked == 0


def test_a_published_symmetric_key_is_of_no_use_either(issuer: Issuer, tokens: OidcVerifier) -> None:
    issuer.keys.append({"kty": "oct", "k": encoded(b"x" * 32), "kid": "oct", "use": "sig"})
    refused(tokens, by_hand(issuer, {"alg": "RS256", "kid": "oct"}, b"x" * 32), "signature or form is wrong")


@pytest.mark.parametrize("header", [{"alg": "ES256", "kid": "one"}, {"alg": "RS256", "kid": "ec"}])
def test_a_key_is_used_for_its_own_algorithm_only(issuer: Issuer, tokens: OidcVerifier, header: dict[str, str]) -> None:
    refused(tokens, by_hand(issuer, header, b"x"), "signature or form is wrong")


def test_another_ones_signature_is_refused(issuer: Issuer, tokens: OidcVerifier) -> None:
    refused(tokens, issuer.token(OTHER), "signature or form is wrong")
    good = issuer.token()
    refused(tokens, good[:-8] + ("A" * 8), "signature or form is wrong")


def test_a_key_that_the_token_brings_along_is_not_believed(issuer: Issuer, tokens: OidcVerifier) -> None:
    headers = {"kid": "one", "jwk": public_jwk(OTHER), "jku": "http://evil.example/keys"}
    token = jwt.encode(issuer.claims(), OTHER, algorithm="RS256", headers=headers)
    refused(tokens, token, "signature or form is wrong")


@pytest.mark.parametrize(
    "text",
    ["x", "a.b.c", "....", "\udcff", "é.é.é", "eyJhbGciOiJSUzI1NiJ9.e30.x" * 2000, encoded(b"[" * 30_000) + ".e30.x"],
)
def test_what_is_no_token_is_refused_without_asking_anybody(issuer: Issuer, tokens: OidcVerifier, text: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.principal(text)
    assert issuer.asked == 0


def test_a_token_names_its_key(issuer: Issuer, tokens: OidcVerifier) -> None:
    refused(tokens, issuer.token(kid=None), "does not name the key")


def test_keys_are_asked_for_once(issuer: Issuer, tokens: OidcVerifier) -> None:
    for _ in range(5):
        tokens.principal(issuer.token())
    assert issuer.asked == 1


def test_a_crowd_makes_one_question(issuer: Issuer, tokens: OidcVerifier) -> None:
    issuer.slow_s = 0.2
    token = issuer.token()
    with ThreadPoolExecutor(16) as pool:
        assert {p.email for p in pool.map(tokens.principal, [token] * 16)} == {"ada@example.org"}
    assert issuer.asked == 1


def test_a_known_key_waits_for_nobody_who_asks_for_another(issuer: Issuer) -> None:
    tokens = OidcVerifier(issuer.url, "kastor", refetch_s=0)
    good, unknown = issuer.token(), issuer.token(OTHER, kid="unknown")
    tokens.principal(good)
    issuer.slow_s = 1.0
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(refused, tokens, unknown, "does not publish")
        while issuer.asked < 2:
            time.sleep(0.005)
        assert tokens.principal(good).email == "ada@example.org"
        assert not asking.done()
        asking.result()


def test_an_unknown_key_is_asked_for_but_not_again_and_again(issuer: Issuer, tokens: OidcVerifier) -> None:
    tokens.principal(issuer.token())
    for number in range(5):
        refused(tokens, issuer.token(OTHER, kid=f"unknown{number}"), "does not publish")
    assert issuer.asked == 1  # within 30 s of the first
    assert tokens.principal(issuer.token()).email == "ada@example.org"


def test_a_rotated_key_is_found_and_the_old_one_forgotten(issuer: Issuer) -> None:
    tokens = OidcVerifier(issuer.url, "kastor", refetch_s=0)
    tokens.principal(issuer.token())
    issuer.publish(("two", OTHER))
    assert tokens.principal(issuer.token(OTHER, kid="two")).email == "ada@example.org"
    refused(tokens, issuer.token(), "does not publish")
    assert issuer.asked == 3


def test_a_provider_that_is_down_is_unavailable_and_asked_again_later() -> None:
    now = 0.0
    issuer = Issuer()
    with serving(issuer):
        pass
    tokens = OidcVerifier(issuer.url, "kastor", clock=lambda: now)
    for _ in range(3):
        with pytest.raises(Unavailable, match=f"OpenID provider {issuer.url} cannot be asked"):
            tokens.principal(issuer.token())
    issuer = Issuer()
    with serving(issuer):
        issuer.publish(("one", RSA))
        tokens = OidcVerifier(issuer.url, "kastor", clock=lambda: now)
        issuer.status = 500
        with pytest.raises(Unavailable):
            tokens.principal(issuer.token())
        issuer.status = 200
        with pytest.raises(Unavailable):
            tokens.principal(issuer.token())
        assert issuer.asked == 0
        now = RETRY_S
        assert tokens.principal(issuer.token()).email == "ada@example.org"


@pytest.mark.parametrize(
    "discovery", [{"issuer": "https://other.example"}, {"jwks_uri": "http://evil.example/keys"}, {"jwks_uri": 5}]
)
def test_a_provider_that_speaks_for_another_is_not_believed(
    issuer: Issuer, tokens: OidcVerifier, discovery: dict[str, Any]
) -> None:
    issuer.discovery = discovery
    with pytest.raises(Unavailable, match="cannot be asked"):
        tokens.principal(issuer.token())


def test_keys_that_are_none_are_unavailable(issuer: Issuer, tokens: OidcVerifier) -> None:
    issuer.keys = []
    with pytest.raises(Unavailable):
        tokens.principal(issuer.token())

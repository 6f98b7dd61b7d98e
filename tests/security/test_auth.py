"""Keys and tokens lead to principals, and to Google's refusals."""

from datetime import UTC, datetime, timedelta

import pytest

from kastor.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from kastor.domain.permission import Principal
from kastor.runtime.logging import redact_secrets
from kastor.security.api_keys import ApiKey, new_key
from kastor.security.auth import LOCAL, Authenticator

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AUTHENTICATOR = Authenticator({"ada@example.org": "key-of-ada", "bo@example.org": "schlüssel"})


class FakeKeys:
    """A database of keys in memory that knows how often it was asked."""

    def __init__(self, *keys: ApiKey) -> None:
        self.by_digest = {key.digest: key for key in keys}
        self.asked = 0

    def find(self, digest: str) -> ApiKey | None:
        self.asked += 1
        return self.by_digest.get(digest)


class FakeTokens:
    """A provider whose one token is `good`."""

    def principal(self, token: str) -> Principal:
        if token != "good":
            raise Unauthenticated("not mine")
        return Principal("cleo@example.org", frozenset({"staff@example.org"}))


def with_key(
    *, later: timedelta = timedelta(), revoked: datetime | None = None, operator: bool = False, lifetime_s: float = 60
) -> tuple[str, Authenticator]:
    key, kept = new_key("dora@example.org", at=NOW, operator=operator, lifetime=timedelta(seconds=lifetime_s))
    stored = ApiKey(**{name: getattr(kept, name) for name in ApiKey.__slots__} | {"revoked_at": revoked})
    return key, Authenticator(keys=FakeKeys(stored), clock=lambda: NOW + later)


def test_with_no_auth_everybody_is_local_whatever_they_send() -> None:
    door = Authenticator(no_auth=True)
    assert door.principal() == door.principal(api_key="x") == door.principal(bearer="y") == LOCAL


@pytest.mark.parametrize("sent", [{}, {"api_key": "x"}, {"bearer": "x"}])
def test_without_any_key_nobody_is_let_in(sent: dict[str, str]) -> None:
    with pytest.raises((PermissionDenied, InvalidArgument, Unauthenticated)):
        Authenticator().principal(**sent)


@pytest.mark.parametrize(("secret", "email"), [("key-of-ada", "ada@example.org"), ("schlüssel", "bo@example.org")])
def test_a_secret_is_its_owner_as_key_and_as_token(secret: str, email: str) -> None:
    assert AUTHENTICATOR.principal(api_key=secret) == AUTHENTICATOR.principal(bearer=secret) == Principal(email)


def test_a_wrong_key_is_an_invalid_argument_with_googles_reason() -> None:
    with pytest.raises(InvalidArgument, match=r"API key not valid. Please pass a valid API key.") as caught:
        AUTHENTICATOR.principal(api_key="key-of-eve")
    assert caught.value.reason == "API_KEY_INVALID"


def test_a_wrong_token_is_unauthenticated_even_with_a_right_key() -> None:
    with pytest.raises(Unauthenticated):
        AUTHENTICATOR.principal(bearer="expired", api_key="key-of-ada")


def test_a_token_goes_before_a_key() -> None:
    assert AUTHENTICATOR.principal(bearer="key-of-ada", api_key="schlüssel").email == "ada@example.org"


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_credential_is_permission_denied(nothing: str | None) -> None:
    with pytest.raises(PermissionDenied, match="unregistered callers"):
        AUTHENTICATOR.principal(api_key=nothing, bearer=nothing)


def test_odd_characters_in_a_key_are_just_wrong() -> None:
    with pytest.raises(InvalidArgument):
        AUTHENTICATOR.principal(api_key="\udcff\x00")


@pytest.mark.parametrize("operator", [True, False])
def test_a_stored_key_is_its_owner_as_key_and_as_token(operator: bool) -> None:
    key, door = with_key(operator=operator)
    assert door.principal(api_key=key) == door.principal(bearer=key) == Principal("dora@example.org", operator=operator)


def test_a_revoked_key_is_like_one_that_never_was() -> None:
    key, door = with_key(revoked=NOW)
    with pytest.raises(InvalidArgument, match="API key not valid"):
        door.principal(api_key=key)
    with pytest.raises(Unauthenticated):
        door.principal(bearer=key)


def test_an_expired_key_says_so_in_googles_words() -> None:
    key, door = with_key(later=timedelta(seconds=60))
    with pytest.raises(InvalidArgument, match=r"API key expired\. Please renew the API key\.") as caught:
        door.principal(api_key=key)
    assert caught.value.reason == "API_KEY_INVALID"
    with pytest.raises(Unauthenticated, match="has expired"):
        door.principal(bearer=key)


@pytest.mark.parametrize("key", [None, "expired"])
def test_a_refusal_is_whole_after_what_looks_like_a_credential_is_taken_out(key: str | None) -> None:
    expired, door = with_key(later=timedelta(seconds=60))
    with pytest.raises(Unauthenticated) as caught:
        door.principal(bearer=expired if key else "wrong")
    assert redact_secrets(caught.value.message) == caught.value.message


def test_a_key_works_until_its_last_moment() -> None:
    key, door = with_key(later=timedelta(seconds=59))
    assert door.principal(api_key=key).email == "dora@example.org"


def test_the_database_is_asked_only_about_what_looks_like_a_key() -> None:
    keys = FakeKeys()
    door = Authenticator({"ada@example.org": "key-of-ada"}, keys=keys)
    door.principal(api_key="key-of-ada")
    for wrong in ("x", "kastor_", "kastor_" + "a" * 10_000, "eyJ.eyJ.sig"):
        with pytest.raises(InvalidArgument):
            door.principal(api_key=wrong)
    assert keys.asked == 0
    with pytest.raises(InvalidArgument):
        door.principal(api_key=f"kastor_{'a' * 10}_{'b' * 43}")
    assert keys.asked == 1


def test_an_operator_is_one_by_any_way_in() -> None:
    key, kept = new_key("dora@example.org", at=NOW)
    operators = ("Ada@example.org", "cleo@example.org", "dora@example.org")
    secrets = {"ada@example.org": "key-of-ada", "bo@example.org": "key-of-bo"}
    door = Authenticator(secrets, keys=FakeKeys(kept), tokens=FakeTokens(), operators=operators)
    assert door.principal(api_key="key-of-ada").operator
    assert door.principal(api_key=key).operator
    assert door.principal(bearer="good") == Principal("cleo@example.org", frozenset({"staff@example.org"}), True)
    assert not door.principal(api_key="key-of-bo").operator


def test_a_provider_is_asked_for_bearers_only() -> None:
    door = Authenticator({"ada@example.org": "key-of-ada"}, tokens=FakeTokens())
    assert door.principal(bearer="good").email == "cleo@example.org"
    assert door.principal(bearer="key-of-ada").email == "ada@example.org"
    with pytest.raises(InvalidArgument):
        door.principal(api_key="good")

"""Keys and tokens lead to principals, and to Google's refusals."""

import pytest

from kastor.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from kastor.domain.permission import Principal
from kastor.security.auth import LOCAL, Authenticator

AUTHENTICATOR = Authenticator({"ada@example.org": "key-of-ada", "bo@example.org": "schlüssel"})


def test_without_configured_keys_everybody_is_local_whatever_they_send() -> None:
    open_door = Authenticator({})
    assert open_door.principal() == open_door.principal(api_key="x") == open_door.principal(bearer="y") == LOCAL


@pytest.mark.parametrize(("secret", "email"), [("key-of-ada", "ada@example.org"), ("schlüssel", "bo@example.org")])
def test_a_secret_is_its_owner_as_key_and_as_token(secret: str, email: str) -> None:
    assert AUTHENTICATOR.principal(api_key=secret) == AUTHENTICATOR.principal(bearer=secret) == Principal(email)


def test_a_wrong_key_is_an_invalid_argument_with_googles_reason() -> None:
    with pytest.raises(InvalidArgument, match="API key not valid. Please pass a valid API key.") as caught:
        AUTHENTICATOR.principal(api_key="key-of-eve")
    assert caught.value.reason == "API_KEY_INVALID"


def test_a_wrong_token_is_unauthenticated_even_with_a_right_key() -> None:
    with pytest.raises(Unauthenticated):
        AUTHENTICATOR.principal(bearer="expired", api_key="key-of-ada")


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_credential_is_permission_denied(nothing: str | None) -> None:
    with pytest.raises(PermissionDenied, match="unregistered callers"):
        AUTHENTICATOR.principal(api_key=nothing, bearer=nothing)


def test_odd_characters_in_a_key_are_just_wrong() -> None:
    with pytest.raises(InvalidArgument):
        AUTHENTICATOR.principal(api_key="\udcff\x00")

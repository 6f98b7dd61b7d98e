"""Which ways in may stand together, and when a server does not start."""

import pytest

from kastor.domain.errors import FailedPrecondition, InvalidArgument
from kastor.security.access_settings import AccessSettings

EVERYWHERE = "0.0.0.0"  # noqa: S104  # said, or listened on for a moment


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_no_auth_is_for_this_machine(host: str) -> None:
    AccessSettings(host, no_auth=True).check()


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.4", "kastor.example", ""])
def test_no_auth_is_refused_where_others_could_reach_it(host: str) -> None:
    with pytest.raises(InvalidArgument, match=r"works with --host 127\.0\.0\.1 only.*kastor keys create --email"):
        AccessSettings(host, no_auth=True).check()


@pytest.mark.parametrize(
    ("doors", "why"),
    [
        (AccessSettings("::1", no_auth=True, secrets=["s"]), "api_keys would have no effect"),
        (
            AccessSettings("::1", no_auth=True, issuer="https://a.example", audience="k"),
            "oidc_issuer would have no effect",
        ),
        (AccessSettings("::1", no_auth=True, cors_origins=["*"]), "only where callers need keys"),
        (AccessSettings("::1", secrets=["s", ""]), "empty key"),
        (AccessSettings("::1", issuer="https://accounts.example"), "need one another"),
        (AccessSettings("::1", audience="kastor"), "need one another"),
        (AccessSettings("::1", issuer="http://accounts.example", audience="kastor"), "has to be an https address"),
        (AccessSettings("::1", issuer="accounts.example", audience="kastor"), "has to be an https address"),
        (AccessSettings("::1", cors_origins=["app.example"]), "an origin looks like"),
        (AccessSettings("::1", cors_origins=["https://app.example/"]), "an origin looks like"),
    ],
)
def test_what_contradicts_itself_is_refused(doors: AccessSettings, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        doors.check()


def test_a_server_that_nobody_could_use_does_not_start_and_says_both_ways_out() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        AccessSettings("127.0.0.1").check_entry(stored_key=False, options=" --data-dir here")
    assert "kastor keys create --data-dir here --email you@example.com" in caught.value.message
    assert "kastor serve --no-auth" in caught.value.message


@pytest.mark.parametrize(
    ("doors", "stored_key"),
    [
        (AccessSettings("127.0.0.1"), True),
        (AccessSettings(EVERYWHERE, secrets=["s"], cors_origins=["*"]), False),
        (AccessSettings(EVERYWHERE, issuer="https://accounts.example", audience="kastor"), False),
        (AccessSettings("127.0.0.1", no_auth=True, cors_origins=["http://localhost:3000"]), False),
    ],
)
def test_one_way_in_is_enough(doors: AccessSettings, stored_key: bool) -> None:
    doors.check()
    doors.check_entry(stored_key=stored_key)


def test_an_operator_is_warned_of_what_others_could_do() -> None:
    assert AccessSettings("127.0.0.1", secrets=["s"]).warnings() == []
    (said,) = AccessSettings("localhost", no_auth=True).warnings()
    assert "every program on this machine may do everything" in said
    (said,) = AccessSettings(EVERYWHERE, secrets=["s"]).warnings()
    assert "plain HTTP" in said

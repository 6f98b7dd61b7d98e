"""Messages for callers without the server's folders; the API's own paths and addresses stay."""

from pathlib import Path

import pytest

from kastor.api.http.errors import error_body
from kastor.domain.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    KastorError,
    ResourceExhausted,
    Unavailable,
)
from kastor.security.redaction import exists_here, redact_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Cannot write to /usr/share/kastor/jobs/a1: no", "Cannot write to …/a1: no"),
        ("its log is /var/lib/kastor/logs/engine-x.log.", "its log is …/engine-x.log."),
        ("No such file: '/tmp/pytest-of/x y'", "No such file: '…/x y'"),
        ("sqlite:////var/lib/kastor.db cannot be used", "sqlite:///…/kastor.db cannot be used"),
        (
            "See /v1beta/models and https://host/usr/share for it",
            "See /v1beta/models and https://host/usr/share for it",
        ),
        ("models/x and tunedModels/y/z, 1/2", "models/x and tunedModels/y/z, 1/2"),
    ],
)
def test_paths_of_this_machine_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert redact_paths(text) == shown


def test_what_callers_send_is_remembered_within_bounds() -> None:
    for number in range(1000):
        assert redact_paths(f"no /nowhere-{number}/x here") == f"no /nowhere-{number}/x here"
    assert exists_here.cache_info().currsize <= 256


@pytest.mark.parametrize("kind", [FailedPrecondition, Internal, ResourceExhausted, Unavailable])
def test_no_refusal_for_the_servers_own_sake_names_its_folders(kind: type[KastorError], tmp_path: Path) -> None:
    said = str(error_body(kind(f"Cannot write to {tmp_path}/jobs/a1: Permission denied. Free some and try again.")))
    assert str(tmp_path) not in said and str(tmp_path.parent) not in said
    assert "…/a1: Permission denied. Free some and try again." in said


def test_a_path_that_the_caller_wrote_is_named_to_the_caller() -> None:
    assert "/usr/share/media/a.png" in str(error_body(InvalidArgument("'/usr/share/media/a.png' does not exist.")))

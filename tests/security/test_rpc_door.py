"""The settings of gRPC contradict one another in a sentence, not in silence."""

from pathlib import Path

import pytest

from kastor.domain.errors import InvalidArgument
from kastor.security.grpc_settings import GrpcSettings

FILE = Path("x.pem")
ANYWHERE = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(
    ("door", "said"),
    [
        (GrpcSettings("127.0.0.1", None, certificate=FILE, key=FILE), "grpc_cert_file has no effect without grpc_port"),
        (GrpcSettings("127.0.0.1", None, insecure=True), "grpc_insecure has no effect without grpc_port"),
        (GrpcSettings("127.0.0.1", 1, certificate=FILE), "need one another"),
        (GrpcSettings("127.0.0.1", 1, key=FILE), "need one another"),
        (GrpcSettings("127.0.0.1", 1, certificate=FILE, key=FILE, hosts=["a"]), "grpc_hosts is for the certificate"),
        (GrpcSettings("127.0.0.1", 1, insecure=True, hosts=["a"]), "grpc_hosts has no effect"),
        (GrpcSettings(ANYWHERE, 1, insecure=True), "plain text. It works with --host 127.0.0.1 only"),
    ],
)
def test_what_contradicts_itself_is_refused(door: GrpcSettings, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        door.check()


@pytest.mark.parametrize(
    "door",
    [
        GrpcSettings(ANYWHERE),
        GrpcSettings(ANYWHERE, 0, hosts=["a.example"]),
        GrpcSettings("localhost", 0, insecure=True),
        GrpcSettings(ANYWHERE, 0, certificate=FILE, key=FILE),
    ],
)
def test_what_fits_is_let_through(door: GrpcSettings) -> None:
    door.check()


def test_a_certificate_names_the_address_but_not_that_of_every_interface() -> None:
    assert "192.168.1.2" in GrpcSettings("192.168.1.2", 0).names
    assert not {ANYWHERE, "::"} & {*GrpcSettings(ANYWHERE, 0).names, *GrpcSettings("::", 0).names}

"""The gRPC listener's certificate follows the files under a running server."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from kastor.api.grpc.server import LOOKED_AT_EACH_S, TlsIdentitySource
from kastor.domain.errors import FailedPrecondition
from kastor.security.tls import TlsIdentity

OLD, NEW = TlsIdentity(b"old key", b"old chain"), TlsIdentity(b"new key", b"new chain")


class Place:
    """Where an identity is looked for, and what time it is there."""

    def __init__(self) -> None:
        self.holds: TlsIdentity | FailedPrecondition = OLD
        self.looks = 0
        self.now = 0.0

    def load(self) -> TlsIdentity:
        self.looks += 1
        if isinstance(self.holds, FailedPrecondition):
            raise self.holds
        return self.holds

    def clock(self) -> float:
        return self.now


def test_a_renewed_certificate_is_shown_within_the_hour() -> None:
    place = Place()
    identities = TlsIdentitySource(place.load, clock=place.clock)
    place.holds = NEW
    assert (identities.renewed(), place.looks) == (None, 1)  # not at every handshake
    place.now = LOOKED_AT_EACH_S
    assert (identities.renewed(), identities.current) == (NEW, NEW)
    place.now *= 2
    assert identities.renewed() is None


def test_one_that_cannot_be_read_leaves_the_one_before(logged: list[MutableMapping[str, Any]]) -> None:
    place = Place()
    identities = TlsIdentitySource(place.load, clock=place.clock)
    place.holds = FailedPrecondition("Cannot read it.")
    place.now = LOOKED_AT_EACH_S
    assert (identities.renewed(), identities.current) == (None, OLD)
    assert [entry["event"] for entry in logged] == ["certificate_not_renewed"]
    with pytest.raises(FailedPrecondition):
        TlsIdentitySource(place.load, clock=place.clock)

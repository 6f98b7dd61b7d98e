"""How gRPC lets callers in: its address, and whose certificate it shows. Needs no extra, so it can be checked first."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kastor.domain.errors import InvalidArgument
from kastor.security.origin import is_loopback

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # names of no certificate


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What the operator set."""

    host: str
    port: int | None = None  # None: there is no gRPC; 0: a free one
    certificate: Path | None = None
    key: Path | None = None
    hosts: Sequence[str] = ()  # more names for the certificate that is made here
    insecure: bool = False

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidArgument: two settings exclude one another, or one needs another.

        """
        made = {
            "grpc_cert_file": self.certificate,
            "grpc_key_file": self.key,
            "grpc_hosts": self.hosts,
            "grpc_insecure": self.insecure,
        }
        given = [name for name, value in made.items() if value]
        if self.port is None and given:
            raise InvalidArgument(f"{given[0]} has no effect without grpc_port; set --grpc-port, or leave it out.")
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("grpc_cert_file and grpc_key_file need one another: set both, or neither.")
        if self.certificate is not None and self.hosts:
            raise InvalidArgument("grpc_hosts is for the certificate that is made here; yours has its own names.")
        if self.insecure and given != ["grpc_insecure"]:
            raise InvalidArgument(f"grpc_insecure speaks in plain text, so {given[0]} has no effect; set one of them.")
        if self.insecure and not is_loopback(self.host):
            raise InvalidArgument(
                f"grpc_insecure on {self.host} would send keys and data over the network in plain text. It works with "
                "--host 127.0.0.1 only; without it, gRPC speaks TLS."
            )

    @property
    def address(self) -> str:
        """Where to listen, as gRPC writes it.

        >>> GrpcSettings("::1", 50051).address, GrpcSettings("localhost", 50051).address
        ('[::1]:50051', 'localhost:50051')
        """
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def names(self) -> tuple[str, ...]:
        """What callers may call this server, besides localhost."""
        own = () if self.host in ANY_ADDRESS else (self.host,)
        return (*own, socket.gethostname(), *self.hosts)

    def endpoint(self, port: int) -> str:
        """What callers of this machine write for the address, once it is known.

        >>> GrpcSettings("127.0.0.1", 0).endpoint(50051), GrpcSettings("192.168.1.2", 0).endpoint(50051)
        ('localhost:50051', '192.168.1.2:50051')
        """
        if self.host in ANY_ADDRESS or is_loopback(self.host):
            return f"localhost:{port}"
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

"""The gRPC listener: address, TLS, threads, and an end in order. What it answers is `rpc`'s business."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import grpc
import structlog
from starlette.routing import BaseRoute

from kastor.api.grpc.service import GrpcService
from kastor.api.http.endpoint import MAX_GENERATING_THREADS, RouteFactory
from kastor.api.http.observability import Metrics
from kastor.domain.errors import FailedPrecondition, KastorError
from kastor.security.grpc_settings import GrpcSettings
from kastor.security.tls import TlsIdentity, ensure_own_identity, load_identity

HANDSHAKE_TIMEOUT_MS = 10_000
IDLE_TIMEOUT_MS = 300_000  # clients connect again by themselves
QUICK_THREADS = 32  # beside those that answer for long
LOOKED_AT_EACH_S = 3600.0
SAID_BYTES = 1024 * 1024
"""A request larger than the limit by less than this is told so in our words; a still larger one, in gRPC's."""


class TlsIdentitySource:
    """Who the server is, looked at again from time to time: certificates are renewed under a running server."""

    def __init__(self, load: Callable[[], TlsIdentity], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`load` raises what `given_identity` does: here, but later the identity before stays in use."""
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock() + LOOKED_AT_EACH_S
        self.current = load()

    def renewed(self) -> TlsIdentity | None:
        """The identity that has taken the place of the one before; `None` while there is none."""
        with self._lock:
            if self._clock() < self._due:
                return None
            self._due = self._clock() + LOOKED_AT_EACH_S
        try:
            found = self._load()
        except KastorError as error:
            structlog.get_logger().warning("certificate_not_renewed", error=error.message)
            return None
        if found == self.current:
            return None
        self.current = found
        return found


class GrpcServer:
    """A gRPC server, bound to its port and not yet answering."""

    def __init__(
        self,
        routes: Iterable[BaseRoute],
        endpoints: RouteFactory,
        metrics: Metrics,
        door: GrpcSettings,
        identities: TlsIdentitySource | None,
        *,
        max_generating: int = MAX_GENERATING_THREADS,
        http_url: str = "",
    ) -> None:
        """Bind; without identities it speaks in plain text.

        Raises:
            FailedPrecondition: the address is taken or none of this machine's.

        """
        self._pool = ThreadPoolExecutor(max_generating + QUICK_THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            handlers=(GrpcService(routes, endpoints, metrics, max_generating=max_generating, http_url=http_url),),
            options=(
                ("grpc.so_reuseport", 0),  # else a second server takes the same port without a word
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),  # silent connections
                ("grpc.max_connection_idle_ms", IDLE_TIMEOUT_MS),
                ("grpc.max_receive_message_length", endpoints.max_body_bytes + SAID_BYTES),
            ),
        )
        self._ended: threading.Event | None = None
        try:
            port = self._bind(door.address, identities)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"Cannot listen for gRPC on {door.address}: taken by another program, or not an address of this "
                "machine. Choose another --grpc-port; 0 takes a free one."
            ) from error
        self.endpoint = door.endpoint(port)
        """What callers of this machine write for the address."""
        self.authority = identities.current.authority if identities is not None else None
        """The file that callers are to trust, where the certificate was made here."""

    def _bind(self, address: str, identities: TlsIdentitySource | None) -> int:
        if identities is None:
            port: int = self._server.add_insecure_port(address)
        else:
            credentials = grpc.dynamic_ssl_server_credentials(
                _configuration(identities.current), lambda: _configuration(identities.renewed())
            )
            port = self._server.add_secure_port(address, credentials)
        return port

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Take no more calls; what is under way and has not ended after `grace_s` is cut off then. Does not wait."""
        self._ended = self._server.stop(grace_s)

    def close(self) -> None:
        """Wait for the end, which comes at once if nobody asked for it before."""
        ended = self._ended or self._server.stop(None)
        ended.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _configuration(identity: TlsIdentity | None) -> grpc.ServerCertificateConfiguration | None:
    if identity is None:  # no change
        return None
    return grpc.ssl_server_certificate_configuration(((identity.key, identity.chain),))


def create_grpc_server(
    routes: Iterable[BaseRoute],
    endpoints: RouteFactory,
    metrics: Metrics,
    door: GrpcSettings,
    folder: Path,
    *,
    http_url: str,
    clock: Callable[[], datetime],
) -> GrpcServer:
    """The server behind this door, which shows the given certificate or one of `folder`; HTTP is at `http_url`.

    Raises:
        FailedPrecondition: the address is taken, or a file cannot be read or written.

    """

    def identity() -> TlsIdentity:
        if door.certificate is not None and door.key is not None:
            return load_identity(door.certificate, door.key)
        return ensure_own_identity(folder, door.names, now=clock())

    identities = None if door.insecure else TlsIdentitySource(identity)
    return GrpcServer(routes, endpoints, metrics, door, identities, http_url=http_url)

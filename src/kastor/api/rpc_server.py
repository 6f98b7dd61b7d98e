"""The gRPC listener: address, TLS, threads, and an end in order. What it answers is `rpc`'s business."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import grpc
from starlette.routing import BaseRoute

from kastor.api.app import Application
from kastor.api.http import MAX_GENERATING_THREADS, Endpoints
from kastor.api.observe import Metrics
from kastor.api.rpc import RpcEdge
from kastor.domain.errors import FailedPrecondition
from kastor.security.certificate import Identity, given_identity, own_identity
from kastor.security.rpc_door import RpcDoor

QUICK_THREADS = 32  # beside those that answer for long
SAID_BYTES = 1024 * 1024
"""A request larger than the limit by less than this is told so in our words; a still larger one, in gRPC's."""


class RpcServer:
    """A gRPC server, bound to its port and not yet answering."""

    def __init__(
        self,
        routes: Iterable[BaseRoute],
        endpoints: Endpoints,
        metrics: Metrics,
        door: RpcDoor,
        identity: Identity | None,
    ) -> None:
        """Bind; without an identity it speaks in plain text.

        Raises:
            FailedPrecondition: the address is taken or none of this machine's.

        """
        self._pool = ThreadPoolExecutor(MAX_GENERATING_THREADS + QUICK_THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            handlers=(RpcEdge(routes, endpoints, metrics),),
            options=(
                ("grpc.so_reuseport", 0),  # else a second server takes the same port without a word
                ("grpc.max_receive_message_length", endpoints.max_body_bytes + SAID_BYTES),
            ),
        )
        self._ended: threading.Event | None = None
        try:
            port = self._bind(door.address, identity)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"Cannot listen for gRPC on {door.address}: taken by another program, or not an address of this "
                "machine. Choose another --grpc-port; 0 takes a free one."
            ) from error
        self.endpoint = door.endpoint(port)
        """What callers of this machine write for the address."""
        self.authority = identity.authority if identity is not None else None
        """The file that callers are to trust, where the certificate was made here."""

    def _bind(self, address: str, identity: Identity | None) -> int:
        if identity is None:
            port: int = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(((identity.key, identity.chain),))
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


def open_rpc(application: Application, metrics: Metrics, door: RpcDoor, folder: Path, *, now: datetime) -> RpcServer:
    """The server behind this door, which shows the given certificate or one of `folder`.

    Raises:
        FailedPrecondition: the address is taken, or a file cannot be read or written.

    """
    identity = None
    if door.certificate is not None and door.key is not None:
        identity = given_identity(door.certificate, door.key)
    elif not door.insecure:
        identity = own_identity(folder, door.names, now=now)
    return RpcServer(application.routes, application.endpoints, metrics, door, identity)

"""The socket that the HTTP edge listens on, and where callers reach it."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kastor.domain.errors import FailedPrecondition
from kastor.runtime.server_record import running_server

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where clients of this machine reach it

MAX_SHOWN_CHARS = 80


@contextmanager
def bind_socket(host: str, port: int, data_dir: Path) -> Iterator[socket.socket]:
    """A socket that listens on this address; the server of `data_dir` is named if it has the port.

    Raises:
        FailedPrecondition: the port is taken, or the address is none of this machine's.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:  # the latter where it could be no name at all
        why = f": {error.strerror}" if isinstance(error, socket.gaierror) else ""
        raise FailedPrecondition(f"{host[:MAX_SHOWN_CHARS]!r} is not an address{why}. Choose --host.") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()  # only now is it known that nobody else does
        except OSError as error:
            raise FailedPrecondition(_why_not_bound(host, port, data_dir, error)) from error
        yield listener


def _why_not_bound(host: str, port: int, data_dir: Path, error: OSError) -> str:
    where = f"{host}:{port}"
    if error.errno != errno.EADDRINUSE:
        return f"Cannot listen on {where}: {error.strerror}. Choose another --host or --port."
    other = running_server(data_dir)
    if other is not None and other.url.endswith(f":{port}"):
        return f"{where} is taken by the Kastor server of process {other.pid} ({other.url}). Use it, or choose --port."
    return f"{where} is taken by another program. Choose another --port; 0 takes a free one."


def socket_url(listener: socket.socket) -> str:
    """Where clients on this machine reach the listener."""
    host, port = listener.getsockname()[:2]
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

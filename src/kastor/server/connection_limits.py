"""How many connections a server holds, and how long it waits for whom: no silent or slow client keeps others out.

| a connection that | has |
|---|---|
| has sent no whole request yet | `head_s` for the request line and headers, however slowly they come |
| is sending a body | `body_s` for each next piece; after as much, 500 bytes a second on average |
| does not take its answer | `write_s` to read on |
| waits between two requests | uvicorn's `timeout_keep_alive` |

Beyond `max_connections` the one that has waited longest for a request is closed for a new one; where all are being
answered, the new one is told 503.
"""

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from kastor.api.http.errors import error_body
from kastor.api.http.protojson import dump_json
from kastor.domain.errors import Unavailable
from kastor.runtime.logging import RepeatLimit

RESERVED_FILES = 512
"""Of the files that a process may open, those that are not for callers: engines, workers, the database, media."""
TICKS = 4  # looks at a connection in its shortest time
ACCEPT_ERROR = "socket.accept() out of system resource"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The bounds of one server."""

    max_connections: int = 2048
    head_s: float = 10.0
    body_s: float = 60.0
    write_s: float = 60.0

    @property
    def tick_s(self) -> float:
        """How often a connection is looked at."""
        return min(self.head_s, self.body_s, self.write_s) / TICKS

    @property
    def backlog(self) -> int:
        """How many connections may wait to be accepted; as many are opened at a time."""
        return max(1, min(128, self.max_connections // 4))


@dataclass(slots=True)
class ConnectionTable:
    """The connections of one server that wait for a request, the one that has waited longest first."""

    bounds: ConnectionLimits = field(default_factory=ConnectionLimits)
    waiting: dict[Any, None] = field(default_factory=dict)  # in the order in which they began to wait

    def oldest(self) -> Any | None:  # noqa: ANN401  # a protocol of either parser
        """The connection whose end costs the least."""
        return next(iter(self.waiting), None)


def connection_limits(max_connections: int) -> int:
    """As many of `max_connections` as the process may open files for; raises its soft limit to the need, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if raised > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, soft - min(RESERVED_FILES, soft // 2)))


def full_answer() -> bytes:
    """What a connection is told that nobody can be sent away for."""
    body = dump_json(
        error_body(Unavailable("The server has as many connections as it can hold. Try again.")), pretty=True
    )
    head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    return f"{head}content-type: application/json; charset=UTF-8\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def throttle_accept_errors(loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
    """Where files run out all the same, say so once a minute: the loop would write a traceback for each try."""
    repeats = RepeatLimit(clock=clock)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != ACCEPT_ERROR:
            loop.default_exception_handler(context)
        elif (more := repeats.passes(ACCEPT_ERROR)) is not None:
            structlog.get_logger().error("no_connection_accepted", error=str(context.get("exception")), **more)

    loop.set_exception_handler(handle)

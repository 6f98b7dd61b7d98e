"""HTTP on a connection: uvicorn's protocol over httptools, with what that parser lacks.

It has no bound on how much may come before a request is read (h11 has), so a client could fill the memory with one
endless header. It reads no body behind a header Upgrade, which curl --http2 and Java's client send along, and which
a server may pass over (RFC 9110, 7.8). And nothing ends a connection that is silent or slow (`api.connections`).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kastor.server.connection_limits import ConnectionLimits, ConnectionTable, full_answer

MAX_HEAD_BYTES = 64 * 1024
CLOSED = b"connection: close\r\ncontent-length: 0\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + CLOSED
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n" + CLOSED
MIN_BODY_BYTES_PER_S = 500  # on average, once a body takes longer than its pieces may
GRPC = "gRPC has a port of its own, that of `kastor serve --grpc-port`."
OTHER_PROTOCOLS = {
    b"\x16\x03": f"This port speaks HTTP without TLS: write http:// for https://. {GRPC}",
    b"PRI * HTTP/2": f"This port speaks HTTP/1.1, not HTTP/2. {GRPC}",
}
"""What to say to clients of another protocol, by how they begin."""
UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})


def limited_http_protocol(bounds: ConnectionLimits) -> Callable[..., "LimitedHttpProtocol"]:
    """What makes the protocols of one server, for uvicorn's `http`."""
    return partial(LimitedHttpProtocol, table=ConnectionTable(bounds))


class RequestDeadlines(asyncio.Protocol):
    """The deadlines of one connection and its place among those that wait, as a mixin of uvicorn's protocols."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    cycle: Any
    _table: ConnectionTable

    def watch(self, bounds: ConnectionLimits) -> None:
        """Look after the connection from now on, which has sent no request yet."""
        self._bounds = bounds
        self.head_since: float | None = self.loop.time()
        self.read_at = self.body_since = self.loop.time()
        self.body_bytes = 0
        self.blocked_since: float | None = None
        self._look_again()

    def unwatch(self) -> None:
        """The connection is gone."""
        self._timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.unwatch()
        self._table.waiting.pop(self, None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        super().pause_writing()
        self.blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self.blocked_since = None

    def request_begun(self) -> None:
        """The head is whole; what follows is the body, which has deadlines of its own."""
        self.head_since, self.body_since, self.body_bytes = None, self.loop.time(), 0
        self._table.waiting.pop(self, None)

    def note_unfinished_head(self) -> None:
        """Start the deadline of a head of which a part has come; what follows of it does not prolong that."""
        if self.head_since is None and self.is_answered and not self.awaits_body:
            self.head_since = self.read_at  # or line ends, say, before a request that may never come

    def await_next_request(self) -> None:
        """Let the connection wait, if the answer is sent and nothing else is to be answered."""
        if self.is_answered and not self.transport.is_closing():
            self._table.waiting[self] = None

    @property
    def is_answered(self) -> bool:
        """Whether nothing is to be sent on this connection now."""
        return self.cycle is None or self.cycle.response_complete

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self._bounds.tick_s, self._look)

    def _look(self) -> None:
        now, bounds = self.loop.time(), self._bounds
        if self.flow.read_paused:  # no client is late while this server does not read on
            self.read_at, self.body_since, self.body_bytes = now, now, 0
        if self.blocked_since is not None and now - self.blocked_since > bounds.write_s:
            self.transport.abort()
        elif self._head_is_late(now) or self._body_is_late(now):
            self._end_slow()
        else:
            self._look_again()

    def _head_is_late(self, now: float) -> bool:
        return self.head_since is not None and self.is_answered and now - self.head_since > self._bounds.head_s

    def _body_is_late(self, now: float) -> bool:
        if not self.awaits_body:
            return False
        took = now - self.body_since
        return now - self.read_at > self._bounds.body_s or (
            took > self._bounds.body_s and self.body_bytes < took * MIN_BODY_BYTES_PER_S
        )

    @property
    def awaits_body(self) -> bool:
        """Whether a request's body has not come to its end, and not because we do not read on."""
        return self.cycle is not None and self.cycle.more_body and not self.flow.read_paused

    def _end_slow(self) -> None:
        if self.is_answered:
            self.transport.write(TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()  # in the middle of an answer, or of a body that its handler waits for


class LimitedHttpProtocol(RequestDeadlines, HttpToolsProtocol):
    """Closes a connection whose request line and headers, or trailers, take more than `MAX_HEAD_BYTES`."""

    _unread = 0  # bytes since the parser last came to the end of a head, of a piece of a body, or of a request

    def __init__(self, *arguments: Any, table: ConnectionTable | None = None, **named: Any) -> None:  # noqa: ANN401  # uvicorn's
        super().__init__(*arguments, **named)
        self._table = ConnectionTable() if table is None else table

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Take the connection in; where there are too many, at the cost of one that asks nothing."""
        super().connection_made(transport)
        self.watch(self._table.bounds)
        if len(self.connections) > self._table.bounds.max_connections:
            oldest = self._table.oldest()
            if oldest is None:
                transport.write(full_answer())
                transport.close()
                return
            self._table.waiting.pop(oldest)
            oldest.transport.abort()
        self._table.waiting[self] = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has grown too large."""
        self._unset_keepalive_if_required()
        self._unread += len(data)
        self.read_at = self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(data)
            return
        self.note_unfinished_head()
        if self._unread > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self.head_since is None:
            self.head_since = self.loop.time()

    def _refuse(self, data: bytes) -> None:
        """Close the connection with a sentence; of a client that meant another port, the log has one, too."""
        said = next((said for start, said in OTHER_PROTOCOLS.items() if data.startswith(start)), None)
        if said is not None:  # a client of TLS cannot read the answer
            structlog.get_logger().info("wrong_protocol", said=said)
        self.send_400_response(said or "Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """What follows is the body, which has bounds of its own."""
        self._unread = 0
        self.request_begun()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The answer is sent; the connection waits for the next request, if there is none."""
        super().on_response_complete()
        self.await_next_request()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unread = 0
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._unread = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Leave the connection to h11, which reads on; it gets the head without the wish to upgrade."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.send_400_response("A request with a header Upgrade must not be sent before the last one is answered.")
            return
        version = self.parser.get_http_version().encode("ascii")
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        head += [name + b": " + value for name, value in self.headers if name not in UPGRADE_HEADERS]
        given: dict[str, Any] = {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}
        self.connections.discard(self)
        self.unwatch()
        protocol = _LateH11(**given, table=self._table)
        protocol.connection_made(self.transport)
        protocol.watch(self._table.bounds)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join([*head, b"", rest]))


class _LateH11(RequestDeadlines, H11Protocol):
    """h11's protocol on a connection that it gets with a whole head."""

    def __init__(self, *arguments: Any, table: ConnectionTable, **named: Any) -> None:  # noqa: ANN401  # uvicorn's
        super().__init__(*arguments, **named)
        self._table = table

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self.read_at = self.loop.time()
        self.body_bytes += len(data)
        super().data_received(data)
        self.note_unfinished_head()

    def handle_events(self) -> None:
        """Read what came; a new cycle is a request whose head is whole."""
        earlier = self.cycle
        super().handle_events()
        if self.cycle is not earlier:
            self.request_begun()

    def on_response_complete(self) -> None:
        """The answer is sent; the connection waits for the next request, if there is none."""
        super().on_response_complete()
        self.await_next_request()

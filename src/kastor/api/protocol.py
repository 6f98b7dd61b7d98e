"""HTTP/1.1 off the socket: httptools' parser in uvicorn, with what it lacks.

It keeps the head of a request of any length, in quadratic time, before anybody is asked for a key; and it stops reading
at a header Upgrade, which curl --http2 and Java's client send along and which a server may ignore (RFC 9110, 7.8).
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers, or whatever else a client sends that is no part of a body."""
UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Http(HttpToolsProtocol):
    """One connection."""

    _unread = 0  # bytes since the parser last came to the end of a head, a piece of a body, or a message

    def data_received(self, data: bytes) -> None:
        """Take in what arrived."""
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._unread > MAX_HEAD_BYTES:
            self.send_400_response(f"The head of a request has at most {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        """The application is called, unless another parser takes over."""
        self._unread = 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._unread = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Leave the connection to h11, which reads on behind a header Upgrade; it gets the head without that."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.send_400_response("A request with a header Upgrade must not be sent before the last one is answered.")
            return
        version = self.parser.get_http_version().encode("ascii")
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        head += [name + b": " + value for name, value in self.headers if name not in UPGRADE_HEADERS]
        self.connections.discard(self)
        protocol: asyncio.Protocol = H11Protocol(**self._given())
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join([*head, b"", rest]))

    def _given(self) -> dict[str, Any]:
        return {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}

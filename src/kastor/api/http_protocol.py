"""HTTP on a connection: uvicorn's protocol over httptools, with what that parser lacks.

It has no bound on how much may come before a request is read (h11 has), so a client could fill the memory with one
endless header. And it reads no body behind a header Upgrade, which curl --http2 and Java's client send along, and which
a server may pass over (RFC 9110, 7.8).
"""

from typing import Any

import httptools
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request line and headers, or trailers, take more than `MAX_HEAD_BYTES`."""

    _unread = 0  # bytes since the parser last came to the end of a head, of a piece of a body, or of a request

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has grown too large."""
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
        if self._unread > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """What follows is the body, which has bounds of its own."""
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
        """Leave the connection to h11, which reads on; it gets the head without the wish to upgrade."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.send_400_response("A request with a header Upgrade must not be sent before the last one is answered.")
            return
        version = self.parser.get_http_version().encode("ascii")
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        head += [name + b": " + value for name, value in self.headers if name not in UPGRADE_HEADERS]
        given: dict[str, Any] = {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}
        self.connections.discard(self)
        protocol = H11Protocol(**given)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join([*head, b"", rest]))

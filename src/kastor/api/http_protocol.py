"""HTTP on a connection: uvicorn's protocol over httptools, with a bound on how much may come before a request is read.

The parser itself has none (h11 has), so a client could fill the memory with one endless header.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request line and headers take more than `MAX_HEAD_BYTES`."""

    _head_bytes: int | None = None  # of the request that is being read; absent between requests and in bodies

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """What follows is the body, which has bounds of its own."""
        self._head_bytes = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has grown too large."""
        super().data_received(data)
        if self._head_bytes is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

"""A request's body as it arrives: pieces from ASGI events, and what remains of it discarded."""

import anyio
from starlette.types import Receive

MAX_DRAINED_BYTES = 64 * 1024 * 1024
DRAIN_TIMEOUT_S = 5.0


class RequestBody:
    """Reads one body. A client that stops sending is cut off by its connection's deadlines, not here."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_open = True  # more of it may come
        self.disconnected = False  # the client went away before the end

    async def read(self) -> bytes:
        """The bytes of the next event; may be empty before the end."""
        event = await self._receive()
        if event["type"] == "http.disconnect":
            self.is_open, self.disconnected = False, True
            return b""
        self.is_open = event.get("more_body", False)
        return bytes(event.get("body", b""))

    async def drain(self) -> None:
        """Discard the rest, within bounds: an answer before the end of the body is lost when the connection resets."""
        size = 0
        with anyio.move_on_after(DRAIN_TIMEOUT_S):
            while self.is_open and size <= MAX_DRAINED_BYTES:
                size += len(await self.read())

"""uvicorn within a process that has more to clean up: signals are handled here, and its begin and end are told."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from types import FrameType, TracebackType
from typing import Self

import uvicorn

from kastor.server.connection_limits import throttle_accept_errors

Handler = Callable[[int, FrameType | None], object] | int | None


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which raise signals again before our clean-up; see `ShutdownSignals`."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None], on_ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_ending = on_ending

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Nothing is captured."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        throttle_accept_errors(asyncio.get_running_loop())
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for answers under way, which end now."""
        await asyncio.to_thread(self._on_ending)
        await super().shutdown(sockets)


class ShutdownSignals:
    """SIGINT and SIGTERM: while serving, the first ends the server in order; at another time, or again, at once."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._server: uvicorn.Server | None = None
        self._before: list[tuple[int, Handler]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals are the main thread's
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.append((number, signal.signal(number, self._end)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    @contextlib.contextmanager
    def serving(self, server: uvicorn.Server) -> Iterator[None]:
        """In this block the signals are this server's."""
        self._server = server
        try:
            yield
        finally:
            self._server = None  # it listens to none any more: one that comes while the workers end makes that quick

    def _end(self, number: int, frame: FrameType | None) -> None:
        server = self._server
        if server is None or (self.closing.is_set() and server.force_exit):
            raise KeyboardInterrupt
        server.force_exit = self.closing.is_set()
        server.should_exit = True
        self.closing.set()

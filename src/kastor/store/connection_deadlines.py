"""Deadlines for a PostgreSQL that does not answer: its driver waits for ever where a server hangs.

Each connection that is taken from the pool is watched until it is given back. One that is not back in time has its
socket shut down, which its driver takes for a lost connection. SQLite has a time-out of its own for locks.
"""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

LOOK_S = 0.5
TICKET = "kastor_deadline"


@dataclass(slots=True)
class ConnectionDeadlines:
    """Watches the connections of one engine, by a thread that begins with the first of them."""

    timeout_s: float
    enabled: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _due: dict[int, tuple[float, int]] = field(default_factory=dict)  # ticket -> moment, descriptor
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _thread: threading.Thread | None = None

    def listen(self, engine: Engine) -> None:
        """Watch the engine's connections."""
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._back)
        event.listen(engine, "close", self._back)
        event.listen(engine, "invalidate", lambda connection, entry, error: self._back(connection, entry))

    @contextmanager
    def without_deadline(self) -> Iterator[None]:
        """In this block connections that are taken are not watched: tables are changed, which takes what it takes."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def _taken(self, connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:  # noqa: ANN401  # psycopg's
        if not self.enabled:
            return
        ticket = next(self._tickets)
        descriptor = os.dup(connection.fileno())  # ours: the number may mean another file by then
        with self._lock:
            self._due[ticket] = (time.monotonic() + self.timeout_s, descriptor)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="database-deadlines", daemon=True)
                self._thread.start()
        entry.info[TICKET] = ticket
        self._ask(connection)

    def _ask(self, connection: Any) -> None:  # noqa: ANN401  # psycopg's
        """Whether the server is still there, as connections wait in the pool for long: another is made otherwise."""
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error

    def _back(self, connection: Any, entry: ConnectionPoolEntry) -> None:  # noqa: ANN401  # psycopg's
        with self._lock:
            _, descriptor = self._due.pop(entry.info.pop(TICKET, -1), (0.0, -1))
        if descriptor >= 0:
            os.close(descriptor)

    def _watch(self) -> None:
        while True:
            time.sleep(min(LOOK_S, self.timeout_s / 4))
            with self._lock:  # a connection that is given back meanwhile waits, so the descriptor is open
                for moment, descriptor in self._due.values():
                    if moment < time.monotonic():
                        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connected:
                            connected.shutdown(socket.SHUT_RDWR)

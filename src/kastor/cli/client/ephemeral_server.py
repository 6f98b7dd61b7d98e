"""A private server that is started for one command and ends with it; other commands do not find it.

It always ends: by SIGTERM when the command is done, by the parent-death pipe when the command itself is killed.
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.security.auth import LOCAL
from kastor.security.file_modes import private_file, private_folder
from kastor.settings import PREFIX, Settings, environment

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0  # workers write a checkpoint before they end
NO_SPARE = {f"{PREFIX}SPARE_WORKER_TIMEOUT_S": "0"}  # the server ends with its command, usually after one job
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURE_WAIT_S = 5.0  # time for a server that cannot start to log why


class EphemeralServer:
    """A running server process. Its log is deleted if all went well and kept otherwise.

    Only the command that started it has access: `key` is random and the only valid one besides those of the database.
    """

    def __init__(self, settings: Settings, *, scheduler: bool) -> None:
        self.key = secrets.token_urlsafe(32)
        self.log = settings.data_dir / "logs" / f"private-server-{os.getpid()}.log"
        self._failed = False
        self._parent_death_pipe = ParentDeathPipe()
        try:
            self._process = self._start(settings, scheduler=scheduler)
        except OSError as error:
            self._parent_death_pipe.close()
            raise ResourceExhausted(f"Cannot start a server with {settings.data_dir}: {error.strerror}.") from error

    def _start(self, settings: Settings, *, scheduler: bool) -> "subprocess.Popen[bytes]":
        private_folder(settings.data_dir)
        private_folder(self.log.parent)
        private_file(self.log)
        command = [sys.executable, "-m", "kastor.cli", "serve", "--json", "--host", "127.0.0.1", "--port", "0"]
        command += ["--private", "--parent-fd", str(self._parent_death_pipe.child_fd)]
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own program
                command if scheduler else [*command, "--no-scheduler"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | environment(settings) | self._access_settings(settings) | NO_SPARE,
                pass_fds=(self._parent_death_pipe.child_fd,),
                start_new_session=True,  # Ctrl-C reaches the command only, which then stops the server in order
            )

    def _access_settings(self, settings: Settings) -> dict[str, str]:
        """Settings that admit this command as an operator, however other callers authenticate."""
        return {
            f"{PREFIX}NO_AUTH": "false",
            f"{PREFIX}API_KEYS": json.dumps({LOCAL.email: self.key}),
            f"{PREFIX}OPERATORS": json.dumps([*settings.operators, LOCAL.email]),
            f"{PREFIX}CORS_ORIGINS": "[]",
        }

    def wait_until_listening(self) -> str:
        """The URL, once the server listens.

        Raises:
            Unavailable: it ended or did not start in time; names its log.

        """
        line = _first_line(self._process.stdout, START_TIMEOUT_S)
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(FAILURE_WAIT_S)
            raise self._failure(f"printed {line[:80]!r} instead of its address" if line else "did not start") from error

    def check(self) -> None:
        """Check that the server still runs.

        Raises:
            FailedPrecondition: it has ended; trying again is useless.

        """
        if self._process.poll() is not None:
            raise self._failure(f"ended unexpectedly (exit code {self._process.returncode})", FailedPrecondition)

    def _failure(self, what: str, kind: type[Unavailable] | type[FailedPrecondition] = Unavailable) -> Exception:
        self._failed = True
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        last = f" Its last line: {lines[-1][:300]}" if lines else ""
        return kind(f"The private server {what}; its log is {self.log}.{last}")

    def stop(self) -> None:
        """Stop the server and its children; returns once it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # second Ctrl-C: its children end by their own pipes
                self._failed = True
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._parent_death_pipe.close()
        if not self._failed:
            self.log.unlink(missing_ok=True)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the end of the block, so that a process it starts can be stopped."""
    received: list[int] = []
    held = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    for late in received:
        signal.raise_signal(late)


def _first_line(stream: IO[bytes] | None, timeout_s: float) -> str:
    """The first line of the stream, or what arrived before it ended or the time was up."""
    deadline, received = time.monotonic() + timeout_s, b""
    while stream is not None and not received.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
        if not select.select([stream], [], [], left)[0]:
            break
        piece = os.read(stream.fileno(), 4096)
        if not piece:
            break
        received += piece
    return received.decode("utf-8", "replace").strip()

"""A server of one's own: started for one command, ended with it, announced to nobody.

It ends in any case: by SIGTERM when the command is done, by the lifeline when the command itself is killed.
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
STOP_TIMEOUT_S = 20.0  # its workers write a checkpoint first
NO_SPARE = {f"{PREFIX}SPARE_WORKER_TIMEOUT_S": "0"}  # it ends with its command, mostly after one job
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_WORDS_S = 5.0  # for a server that could not start to say why


class EphemeralServer:
    """A running server process. Its log is deleted when all went well, kept otherwise.

    Nobody but the command that started it comes in: `key`, drawn for it, is the only one besides those of the database.
    """

    def __init__(self, settings: Settings, *, scheduler: bool) -> None:
        self.key = secrets.token_urlsafe(32)
        self.log = settings.data_dir / "logs" / f"private-server-{os.getpid()}.log"
        self._failed = False
        self._lifeline = ParentDeathPipe()
        try:
            self._process = self._spawned(settings, scheduler=scheduler)
        except OSError as error:
            self._lifeline.close()
            raise ResourceExhausted(f"Cannot start a server with {settings.data_dir}: {error.strerror}.") from error

    def _spawned(self, settings: Settings, *, scheduler: bool) -> "subprocess.Popen[bytes]":
        private_folder(settings.data_dir)
        private_folder(self.log.parent)
        private_file(self.log)
        command = [sys.executable, "-m", "kastor.cli", "serve", "--json", "--host", "127.0.0.1", "--port", "0"]
        command += ["--private", "--parent-fd", str(self._lifeline.child_fd)]
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own program
                command if scheduler else [*command, "--no-scheduler"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | environment(settings) | self._doors(settings) | NO_SPARE,
                pass_fds=(self._lifeline.child_fd,),
                start_new_session=True,  # Ctrl-C is for us to handle: the server is then ended in order
            )

    def _doors(self, settings: Settings) -> dict[str, str]:
        """The settings by which the server lets in us, as an operator, whatever its users' ways in are."""
        return {
            f"{PREFIX}NO_AUTH": "false",
            f"{PREFIX}API_KEYS": json.dumps({LOCAL.email: self.key}),
            f"{PREFIX}OPERATORS": json.dumps([*settings.operators, LOCAL.email]),
            f"{PREFIX}CORS_ORIGINS": "[]",
        }

    def wait_until_listening(self) -> str:
        """The URL, once it answers.

        Raises:
            Unavailable: it ended or did not come up in time; names its log.

        """
        line = _first_line(self._process.stdout, START_TIMEOUT_S)
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_WORDS_S)
            raise self._failure(f"said {line[:80]!r} instead of its address" if line else "did not start") from error

    def check(self) -> None:
        """Nothing, while it runs.

        Raises:
            FailedPrecondition: it has ended; no use trying again.

        """
        if self._process.poll() is not None:
            raise self._failure(f"ended unexpectedly (exit code {self._process.returncode})", FailedPrecondition)

    def _failure(self, what: str, kind: type[Unavailable] | type[FailedPrecondition] = Unavailable) -> Exception:
        self._failed = True
        said = self.log.read_text("utf-8", "replace").strip().splitlines()
        last = f" Its last words: {said[-1][:300]}" if said else ""
        return kind(f"The private server {what}; its log is {self.log}.{last}")

    def stop(self) -> None:
        """End it and everything below it; returns when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: its children end by their lifeline
                self._failed = True
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._lifeline.close()
        if not self._failed:
            self.log.unlink(missing_ok=True)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Ctrl-C and the like wait until the block has ended: what it starts is known to who must end it."""
    came: list[int] = []
    held = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)


def _first_line(stream: IO[bytes] | None, timeout_s: float) -> str:
    """What comes before the first line end, the stream's end, or the time is up."""
    deadline, said = time.monotonic() + timeout_s, b""
    while stream is not None and not said.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
        if not select.select([stream], [], [], left)[0]:
            break
        piece = os.read(stream.fileno(), 4096)
        if not piece:
            break
        said += piece
    return said.decode("utf-8", "replace").strip()

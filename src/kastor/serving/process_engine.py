"""The server's side of generation: starts a process for each base in use, sends requests, ends idle ones. No torch.

Thread-safe: every thread that serves a request calls `generate`, `score` or `count_tokens`. `engine_protocol` is the
wire to the processes.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx
import structlog

from kastor.domain.content import Prompt
from kastor.domain.errors import Unavailable
from kastor.domain.generation import Chunk, GenerateRequest, ResolvedMedia
from kastor.domain.job import Rendering
from kastor.runtime.ndjson import split_newlines
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.serving import engine_protocol
from kastor.serving.engine import ScoreRequest
from kastor.serving.socket_folder import SocketFolder

START_TIMEOUT_S = 900.0
"""The first start may have to fetch and convert the base."""
SILENCE_TIMEOUT_S = 60.0
"""A process that has not answered readiness checks for this long is killed: it hangs, or was stopped."""
READY_TIMEOUT_S = 2.0
POLL_S = 0.05
STOP_GRACE_S = 5.0
MAX_LOG_BYTES = 4 * 1024 * 1024
TAIL_BYTES = 16 * 1024
NO_MEDIA: ResolvedMedia = MappingProxyType({})

Command = Callable[[str, Path, int], list[str]]


def engine_command(base_model: str, socket: Path, parent_fd: int) -> list[str]:
    """The command that starts a generation process with this interpreter."""
    program = [sys.executable, "-m", "kastor.engine"]
    return [*program, "--base", base_model, "--socket", str(socket), "--parent-fd", str(parent_fd)]


@dataclass(slots=True, eq=False)
class _Process:
    """A started generation process. `in_use` and `used_at` are guarded by the engine's lock."""

    base_model: str
    popen: "subprocess.Popen[bytes]"
    socket: Path
    log: Path
    log_start: int  # bytes in the log before this process
    client: httpx.Client
    used_at: float
    in_use: int = 0
    ready: bool = False
    ending: bool = False
    silent_since: float | None = None  # written by the watch thread
    hung: bool = False  # killed because it did not answer
    starting: threading.Lock = field(default_factory=threading.Lock)  # held by the thread that waits until it is ready

    @property
    def dead(self) -> bool:
        return self.popen.poll() is not None


class _DiedBeforeAnswer(Unavailable):
    """The process died before it began to answer: the request may be sent to another."""


class ProcessEngine:
    """An engine in processes of its own, one for each base model, started at its first request.

    `environment` carries the settings to them (`kastor.settings.environment`); their stderr goes to
    `log_dir/engine-BASE.log`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        log_dir: Path,
        idle_timeout_s: float,
        start_timeout_s: float = START_TIMEOUT_S,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
        command: Command = engine_command,
    ) -> None:
        self._environment = environment
        self._log_dir = log_dir
        self._idle_timeout_s = idle_timeout_s
        self._start_timeout_s = start_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._command = command
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._processes: dict[str, _Process] = {}
        self._lifeline: ParentDeathPipe | None = None
        self._sockets: SocketFolder | None = None
        self._num_started = 0

    def generate(self, request: GenerateRequest) -> Generator[Chunk, None, None]:
        """The candidates, chunk by chunk; closing the generator cancels the rest.

        Raises:
            InvalidArgument: the prompt is too long, the request exceeds the base's limits, or the response format
                cannot be followed.
            FailedPrecondition: the adapter cannot be served.
            Unavailable: the generation process cannot start, died or is ending; quotes its last words.

        """
        body = engine_protocol.encode_request(request)
        num_open = request.num_candidates
        with contextlib.closing(self._lines(request.base_model, engine_protocol.GENERATE, body)) as lines:
            for line in lines:
                chunk = engine_protocol.decode_chunk(line)
                num_open -= chunk.finish_reason is not None
                yield chunk
                if not num_open:
                    return
        raise Unavailable(f"The generation process for models/{request.base_model} ended in mid-answer; try again.")

    def count_tokens(
        self,
        base_model: str,
        prompt: Prompt,
        shown: ResolvedMedia = NO_MEDIA,
        rendering: Rendering = Rendering.PUBLISHED,
    ) -> int:
        """How many tokens the prompt is for the base, with its system instruction and control tokens."""
        body = engine_protocol.encode_prompt(prompt, shown, rendering)
        with contextlib.closing(self._lines(base_model, engine_protocol.COUNT, body)) as lines:
            for line in lines:
                return engine_protocol.decode_count(line)
        raise Unavailable(f"The generation process for models/{base_model} gave no answer; try again.")

    def score(self, request: ScoreRequest) -> list[list[float]]:
        """Log-probabilities as `kastor.serving.engine.Scorer` has them.

        Raises:
            InvalidArgument: a sequence is too long, or a medium cannot be used.
            FailedPrecondition: the adapter cannot be served.
            Unavailable: the generation process cannot start, died or is ending; quotes its last words.

        """
        body = engine_protocol.encode_score_request(request)
        with contextlib.closing(self._lines(request.base_model, engine_protocol.SCORE, body)) as lines:
            for line in lines:
                return engine_protocol.decode_scores(line)
        raise Unavailable(f"The generation process for models/{request.base_model} gave no answer; try again.")

    def silent(self) -> list[str]:
        """The bases whose process does not answer readiness checks at the moment."""
        with self._lock:
            return sorted(p.base_model for p in self._processes.values() if p.silent_since is not None and not p.dead)

    def close(self) -> None:
        """End all processes; later calls raise `Unavailable`."""
        with self._lock:
            self._closed.set()
            processes, self._processes = list(self._processes.values()), {}
            lifeline, self._lifeline = self._lifeline, None
            sockets, self._sockets = self._sockets, None
        for process in processes:
            process.popen.terminate()
        for process in processes:
            self._end(process)
        if lifeline is not None:
            lifeline.close()
        if sockets is not None:
            sockets.close()

    # ---- requests

    def _lines(self, base_model: str, path: str, body: bytes) -> Generator[bytes]:
        try:
            yield from self._exchange(self._acquire(base_model), path, body)
        except _DiedBeforeAnswer:
            try:
                yield from self._exchange(self._acquire(base_model), path, body)
            except _DiedBeforeAnswer as again:
                raise Unavailable(again.message) from again

    def _exchange(self, process: _Process, path: str, body: bytes) -> Generator[bytes]:
        begun = False
        try:
            self._await_ready(process)
            with process.client.stream("POST", path, content=body) as response:
                begun = True
                if response.status_code != httpx.codes.OK:
                    name = f"The generation process for models/{process.base_model}"
                    raise Unavailable(f"{name} failed; its log is {process.log}.")
                yield from split_newlines(response.iter_bytes())
        except httpx.HTTPError as error:
            raise self._broken_connection(process, error, begun=begun) from error
        finally:
            with self._lock:
                process.in_use -= 1
                process.used_at = time.monotonic()
                self._close_client(process)

    def _broken_connection(self, process: _Process, error: httpx.HTTPError, *, begun: bool) -> Unavailable:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(1)  # a process whose connection broke is usually about to exit
        name = f"The generation process for models/{process.base_model}"
        if self._closed.is_set() or process.ending:
            return Unavailable(f"{name} is ending; try again later.")
        if process.hung:
            kind = Unavailable if begun else _DiedBeforeAnswer
            return kind(f"{name} did not answer for {self._silence_timeout_s:.0f} s and was ended. Try again.")
        if process.dead:
            kind = Unavailable if begun else _DiedBeforeAnswer
            return kind(f"{name} died ({_last_words(process)}). Try again.")
        return Unavailable(f"{name} did not answer ({error}); try again.")

    # ---- starting

    def _acquire(self, base_model: str) -> _Process:
        """The base's process, marked as in use; it is started if none is alive."""
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("The server is ending; try again later.")
            process = self._processes.get(base_model)
            if process is None or process.dead:
                if process is not None:
                    _reap(process)
                    self._close_client(process)
                process = self._processes[base_model] = self._start(base_model)
            process.in_use += 1
            return process

    def _start(self, base_model: str) -> _Process:
        if self._lifeline is None or self._sockets is None:
            self._lifeline, self._sockets = ParentDeathPipe(), SocketFolder()
            threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()
        self._num_started += 1
        socket = self._sockets.path / f"{self._num_started}.sock"
        log = self._log_dir / f"engine-{re.sub(r'[^A-Za-z0-9._-]', '-', base_model)}.log"
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            with log.open("wb" if log.exists() and log.stat().st_size > MAX_LOG_BYTES else "ab") as output:
                start = output.tell()
                popen = subprocess.Popen(  # noqa: S603 - our own module; the base is one of the catalog's
                    self._command(base_model, socket, self._lifeline.child_fd),
                    env={**os.environ, **self._environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(self._lifeline.child_fd,),
                    start_new_session=True,  # Ctrl-C in a terminal goes to the server, which ends its children in order
                )
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"The generation process for models/{base_model} cannot start: {reason}.") from error
        structlog.get_logger().info("engine_started", base=base_model, pid=popen.pid, log=str(log))
        client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None)),
            base_url="http://engine",
            timeout=httpx.Timeout(None, connect=10.0),  # a request may queue for as long as it has to
        )
        return _Process(base_model, popen, socket, log, start, client, used_at=time.monotonic())

    def _await_ready(self, process: _Process) -> None:
        """Wait until the process answers; one thread polls it, the others wait for that thread."""
        if process.ready:
            return
        name = f"The generation process for models/{process.base_model}"
        deadline = time.monotonic() + self._start_timeout_s
        with process.starting:
            while not process.ready:
                if self._closed.is_set() or process.ending:
                    raise Unavailable("The server is ending; try again later.")
                if process.dead:
                    raise Unavailable(f"{name} could not start: {_last_words(process)}")
                if time.monotonic() > deadline:
                    process.popen.kill()
                    raise Unavailable(
                        f"{name} was not ready after {self._start_timeout_s:.0f} s; its log is {process.log}."
                    )
                process.ready = _poll_ready(process)

    # ---- ending

    def _watch(self) -> None:
        """End processes that were idle for too long, and those that hang; runs until `close`."""
        while not self._closed.wait(min(1.0, self._idle_timeout_s / 4, self._silence_timeout_s / 4)):
            self._end_hung()
            self._end_idle()

    def _end_hung(self) -> None:
        """Check the processes that are in use or did not answer before; kill those that are silent for too long.

        Threads that wait for a killed process learn of it from their connection.
        """
        with self._lock:
            suspects = [p for p in self._processes.values() if p.in_use or p.silent_since is not None]
        for process in (p for p in suspects if p.ready and not p.dead):
            now = time.monotonic()
            if _is_alive(process):
                process.silent_since = None
            elif process.silent_since is None:
                process.silent_since = now
            elif now - process.silent_since > self._silence_timeout_s:
                structlog.get_logger().error("engine_hung", base=process.base_model, pid=process.popen.pid)
                process.hung = True
                process.popen.kill()

    def _end_idle(self) -> None:
        before = time.monotonic() - self._idle_timeout_s
        with self._lock:
            idle = [p for p in self._processes.values() if not p.in_use and p.used_at < before]
            for process in idle:
                process.ending = True
                del self._processes[process.base_model]
        for process in idle:
            structlog.get_logger().info("engine_idle", base=process.base_model, pid=process.popen.pid)
            process.popen.terminate()
            self._end(process)

    def _end(self, process: _Process) -> None:
        _reap(process)
        with self._lock:
            self._close_client(process)

    def _close_client(self, process: _Process) -> None:
        """Close a dead process's connections, unless a thread still reads from one and will close them itself."""
        if process.dead and not process.in_use:
            process.client.close()


def _poll_ready(process: _Process) -> bool:
    if not process.socket.exists():
        time.sleep(POLL_S)
        return False
    if _is_alive(process):
        return True
    time.sleep(POLL_S)  # bound, not listening yet
    return False


def _is_alive(process: _Process) -> bool:
    try:
        return process.client.get(engine_protocol.READY, timeout=READY_TIMEOUT_S).is_success
    except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
        return False


def _reap(process: _Process) -> None:
    """Wait for a process that was asked to end, then kill it and its children."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter for a group of zombies
        os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()
    process.socket.unlink(missing_ok=True)


def _last_words(process: _Process) -> str:
    """The last sentence that a dead process printed, else how it ended."""
    sentence = ""
    with contextlib.suppress(OSError), process.log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(process.log_start, end - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
        sentence = next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("{")), "")
    code = process.popen.poll()
    if code is not None and code < 0:
        hint = ", probably because memory ran out" if -code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    return sentence or f"exit code {code}"

"""Workers as child processes of this machine, one per job.

Translates return codes and signals into reasons; `services.scheduler` decides what a reason means for the job.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import structlog

from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.domain.job import TuningJob
from kastor.domain.worker_exit import ExitReason, ResourceRequest, WorkerExit
from kastor.executors import exit_codes
from kastor.executors.process_group import Process, kill_process_group, wait_for_exit
from kastor.executors.warm_worker import WarmWorker
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.runtime.storage_errors import NO_SPACE
from kastor.store.blobs.job_files import JobFiles

MAX_TAIL_LINES = 5
MAX_LINE_CHARS = 300
TAIL_BYTES = 64 * 1024
EXIT_REASONS = {
    0: ExitReason.FINISHED,
    exit_codes.STOPPED: ExitReason.STOPPED,
    exit_codes.SUPERSEDED: ExitReason.SUPERSEDED,
    exit_codes.DATABASE_UNREACHABLE: ExitReason.DATABASE_UNREACHABLE,
}


@dataclass(slots=True)
class _Worker:
    job_id: str
    attempt: int
    process: Process
    log: Path
    log_start: int  # bytes in the log before this attempt
    killed: bool = False  # by this executor


def exit_reason(returncode: int) -> tuple[ExitReason, str]:
    """Why a worker's process ended, and what completes "the worker …"; a negative code is the signal that ended it.

    SIGKILL counts as out of memory: the kernel sends it then. An operator's `kill -9` looks the same from here; the
    executor's own kills are told apart by their caller.

    >>> exit_reason(2)
    (<ExitReason.CRASHED: 'crashed'>, 'ended with exit code 2')
    """
    if returncode in EXIT_REASONS:
        return EXIT_REASONS[returncode], ""
    if returncode == -signal.SIGKILL:
        return ExitReason.OUT_OF_MEMORY, "was killed (SIGKILL), as happens when memory runs out"
    if returncode < 0:
        return ExitReason.CRASHED, f"was ended by {_signal_name(-returncode)}"
    return ExitReason.CRASHED, f"ended with exit code {returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def shortfalls(request: ResourceRequest) -> list[str]:
    """What this machine cannot give of a request, one phrase each: asked for and present."""
    present = {
        "cores": (request.num_cores, os.cpu_count() or 1),
        "GPUs": (request.num_gpus, len(list(Path("/dev").glob("nvidia[0-9]*")))),
        "bytes of memory": (request.memory_bytes, psutil.virtual_memory().total),
    }
    return [
        f"{asked:,} {unit} asked for, {found:,} present"
        for unit, (asked, found) in present.items()
        if asked is not None and asked > found
    ]


def worker_command(job: TuningJob, parent_fd: int) -> list[str]:
    """How a worker is started with this interpreter."""
    return [sys.executable, "-m", "kastor.worker", job.id, str(job.attempt), "--parent-fd", str(parent_fd)]


def warm_worker_command(parent_fd: int) -> list[str]:
    """How one is started that has no job yet."""
    return [sys.executable, "-m", "kastor.worker", "--spare", "--parent-fd", str(parent_fd)]


class LocalExecutor:
    """Starts, watches and ends workers; they end with this process, too (`ParentDeathPipe`).

    Not for several threads at once: it belongs to the scheduler's loop.
    """

    def __init__(
        self,
        settings_environment: Mapping[str, str],
        blobs: JobFiles,
        *,
        command: Callable[[TuningJob, int], list[str]] = worker_command,
        spare_idle_s: float = 0.0,
    ) -> None:
        """With `spare_idle_s` a worker waits that long for a next job, with everything loaded (`spare`)."""
        self._settings_environment = settings_environment
        self._blobs = blobs
        self._command = command
        self._lifeline = ParentDeathPipe()
        self._workers: list[_Worker] = []
        self._spare = WarmWorker(self._spawn_spare, idle_s=spare_idle_s)
        self._log = structlog.get_logger()

    @property
    def spare_waits(self) -> bool:
        """The next job will be served by a worker that has loaded everything."""
        return self._spare.is_ready

    def start(self, job: TuningJob, resources: ResourceRequest) -> None:
        """Start a worker for the job's present attempt; its output goes to the end of the job's log.

        The processes share this machine, so no resources are set aside: a request for more than the machine has is
        logged, and the worker starts with what there is.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: the log cannot be written.
            Unavailable: the machine cannot start a process.

        """
        if missing := shortfalls(resources):
            self._log.warning("resources_missing", job_id=job.id, attempt=job.attempt, missing=missing)
        log = self._blobs.log(job.id)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                start = output.tell()
                process = self._spare.assign(job, log) or self._spawn(job, output.fileno())
        except OSError as error:
            if error.errno in NO_SPACE:
                raise ResourceExhausted(f"No space left in {log.parent}; free some and tune again.") from error
            raise FailedPrecondition(f"Cannot write the log {log}: {error.strerror or error}.") from error
        self._workers.append(_Worker(job.id, job.attempt, process, log, start))
        self._spare.job_started()

    def exited(self) -> list[WorkerExit]:
        """The workers that ended since the last call; none of them left a child behind."""
        self._spare.poll(busy=bool(self._workers))
        ended = [worker for worker in self._workers if worker.process.poll() is not None]
        for worker in ended:
            self._workers.remove(worker)
            kill_process_group(worker.process)
        return [_worker_exit(worker) for worker in ended]

    def kill(self, job_id: str) -> None:
        """End the job's worker at once, if it is one of ours; `exited` tells of it later."""
        for worker in self._workers:
            if worker.job_id == job_id:
                _kill(worker)

    def shutdown(self, grace_s: float) -> None:
        """Ask all workers to end, and end those that have not after `grace_s`; `exited` tells of them."""
        self._spare.end()
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(w.process.poll() is None for w in self._workers):
            time.sleep(0.02)
        for worker in self._workers:
            _kill(worker)
        self._lifeline.close()

    def _spawn(self, job: TuningJob, output: int) -> Process:
        command = self._command(job, self._lifeline.child_fd)
        return self._process(command, subprocess.DEVNULL, output, subprocess.STDOUT)

    def _spawn_spare(self) -> Process:
        command = warm_worker_command(self._lifeline.child_fd)
        return self._process(command, subprocess.PIPE, subprocess.PIPE, None)  # its errors are the server's

    def _process(self, command: list[str], stdin: int, stdout: int, stderr: int | None) -> Process:
        try:
            return subprocess.Popen(  # noqa: S603  # our own module; the job's id is ours, too
                command,
                env={**os.environ, **self._settings_environment},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(self._lifeline.child_fd,),
                start_new_session=True,  # Ctrl-C in a terminal is the server's, which ends its workers in order
            )
        except OSError as error:
            raise Unavailable(f"This machine cannot start a worker: {error.strerror or error}.") from error


def _kill(worker: _Worker) -> None:
    worker.killed |= worker.process.poll() is None
    kill_process_group(worker.process)
    wait_for_exit(worker.process)


def _worker_exit(worker: _Worker) -> WorkerExit:
    reason, detail = exit_reason(worker.process.returncode)
    if worker.killed and reason is ExitReason.OUT_OF_MEMORY:
        reason, detail = ExitReason.KILLED, "was killed by its server"
    return WorkerExit(worker.job_id, worker.attempt, reason, detail, log_tail(worker.log, start=worker.log_start))


def log_tail(log: Path, *, start: int) -> tuple[str, ...]:
    """The last lines from byte `start` on that are not structured: a traceback's end, a C library's complaint."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = max(start, end - TAIL_BYTES)
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()  # the job's files were removed
    if begin > start:
        del lines[:1]  # cut in the middle
    raw = [line.strip()[:MAX_LINE_CHARS] for line in lines if line.strip() and not _is_structured(line)]
    return tuple(raw[-MAX_TAIL_LINES:])


def _is_structured(line: str) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False

"""A worker that waits for its job with everything loaded: importing torch and what stands on it takes seconds.

One waits at most. It is started some time after a job was, so that it does not take the cores from that job's first
step, serves one job as any worker does, and ends when none has run for a while.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from kastor.domain.errors import Unavailable
from kastor.domain.job import TuningJob
from kastor.executors.process_group import Process, kill_process_group, wait_for_exit

AFTER_S = 20.0
"""A job's own start is over by then, on two cores as well."""

READY = b"ready\n"  # what it writes when it has loaded everything


class WarmWorker:
    """The one that waits, or none. Belongs to its executor's thread."""

    def __init__(
        self, spawn: Callable[[], Process], *, idle_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`spawn` starts one whose input and output are pipes; with `idle_s` 0 none ever is."""
        self._spawn = spawn
        self._idle_s = idle_s
        self._clock = clock
        self._process: Process | None = None
        self._loaded = False
        self._due_at: float | None = None
        self._until = 0.0

    @property
    def is_ready(self) -> bool:
        """One is there that has loaded everything."""
        process = self._process
        if process is None or process.stdout is None or process.poll() is not None:
            return False
        self._loaded = self._loaded or process.stdout.read(len(READY)) == READY  # None: nothing has come
        return self._loaded

    def job_started(self) -> None:
        """Another may follow it: be there then."""
        if self._idle_s:
            self._due_at = self._clock() + AFTER_S

    def poll(self, *, busy: bool) -> None:
        """Start it when it is due; end it when nothing was `busy` for long enough. To be called often."""
        now = self._clock()
        if busy:
            self._until = now + self._idle_s
        if self._process is not None and (self._process.poll() is not None or now >= self._until):
            self._drop()
        if self._due_at is not None and now >= self._due_at:
            self._due_at = None
            if self._process is None:
                self._until = now + self._idle_s
                self._start()

    def assign(self, job: TuningJob, log: Path) -> Process | None:
        """Hand it the job; from here on its output goes to the end of `log`. `None` if none waits."""
        process = self._process
        if process is None or process.stdin is None or not self.is_ready:
            return None
        order = orjson.dumps({"job_id": job.id, "attempt": job.attempt, "log": str(log)})
        try:
            process.stdin.write(order + b"\n")
            process.stdin.close()
        except OSError:  # it ended just now
            self._drop()
            return None
        self._process = None
        _close(process)
        return process

    def end(self) -> None:
        """No more of it, and none is started until after another job."""
        self._due_at = None
        self._drop()

    def _start(self) -> None:
        with contextlib.suppress(Unavailable):  # the next job will tell of it
            self._process, self._loaded = self._spawn(), False
            if self._process.stdout is not None:
                os.set_blocking(self._process.stdout.fileno(), False)

    def _drop(self) -> None:
        if self._process is not None:
            kill_process_group(self._process)
            wait_for_exit(self._process)
            _close(self._process)
            self._process = None


def _close(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

"""A worker's hold on its job: heartbeats, requests to stop, and the writes that only an owner may make. No torch."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import TypeVar

import structlog

from kastor.domain.errors import Superseded, Unavailable
from kastor.domain.job import Event, JobError, Snapshot, State, TuningJob, TuningSpec
from kastor.store.jobs import JobStore

T = TypeVar("T")
SUPERSEDED = 76  # exit code: somebody else owns the job


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class DatabaseGone(BaseException):
    """The database could not be reached for so long that the worker gives up; the job is resumed when it is back."""


class Interrupted(BaseException):
    """Cancelled or told to stop while there is nothing to save; raised by the signal handler, and by `heed`."""


class Ownership:
    """The worker's hold on its job: heartbeats, requests to stop, and the writes that only an owner may make."""

    def __init__(self, jobs: JobStore, job: TuningJob, *, beat_every_s: float, patience_s: float = 60.0) -> None:
        self._jobs = jobs
        self._job = job
        self._beat_every_s = beat_every_s
        self._patience_s = patience_s
        self._cancelled = threading.Event()
        self._stopped = threading.Event()
        self._training = False
        self._log = structlog.get_logger()

    @property
    def cancelled(self) -> bool:
        """A cancel has been asked for."""
        return self._cancelled.is_set()

    @property
    def interrupted(self) -> bool:
        """Work should end at the next step, for either reason."""
        return self._cancelled.is_set() or self._stopped.is_set()

    def start(self) -> None:
        """Catch SIGTERM and begin to beat."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def begin_training(self) -> None:
        """From here on a request to stop waits for the end of the step."""
        self._training = True
        if self.interrupted:
            raise Interrupted
        self.move(State.RUNNING)

    def note(self, message: str) -> None:
        """Add a line to the job's events and its log."""
        self._log.info(message)
        self._patiently(lambda: self._jobs.add_event(self._job.id, Event(now(), "info", message)))

    def record(self, snapshot: Snapshot) -> None:
        """Keep what a step did, and learn of a cancel."""
        self._see(self._patiently(lambda: self._jobs.record_step(self._job.id, self._job.attempt, snapshot)))

    def settle(self, spec: TuningSpec) -> None:
        """Keep what the gate found out about the dataset file."""
        self._patiently(lambda: self._jobs.settle(self._job.id, self._job.attempt, spec))

    def heed(self) -> None:
        """Look for a request to end now; for work that has no steps.

        Raises:
            Interrupted: there is one.
            Superseded: another attempt owns the job, or it has ended.

        """
        self._see(self._patiently(lambda: self._jobs.beat(self._job.id, self._job.attempt, at=now())))
        if self.interrupted:
            raise Interrupted

    def rewind(self, step: int) -> None:
        """Forget the steps after `step`."""
        self._patiently(lambda: self._jobs.rewind(self._job.id, self._job.attempt, step))

    def move(self, to: State, error: JobError | None = None) -> None:
        """Move the job, whatever a cancel made of its state meanwhile.

        Raises:
            Superseded: another attempt owns it, or it has ended.

        """
        while True:
            job = self._patiently(lambda: self._jobs.get(self._job.id))
            if job.attempt != self._job.attempt or not job.state.active:
                raise Superseded(f"Job {job.id} is {job.state} in attempt {job.attempt}.")
            if job.state is State.CANCELLING and to in (State.RUNNING, State.QUEUED):
                self._cancelled.set()
                raise Interrupted
            try:
                self._patiently(partial(self._jobs.move, job, to, at=now(), error=error))
            except Superseded:
                continue
            return

    def deafen(self) -> None:
        """Heed no further request to stop: the end is being written."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _patiently(self, write: Callable[[], T]) -> T:
        """What `write` gives, tried again while the database cannot be reached: a restart of it ends no job."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return write()
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise DatabaseGone(error.message) from error
                self._log.warning("database_unavailable", reason=error.message)
                time.sleep(min(1.0, self._patience_s / 10))

    def _see(self, state: State) -> None:
        if state is State.CANCELLING:
            self._cancelled.set()

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._cancelled.is_set():
            self._stopped.set()
        if not self._training:
            raise Interrupted

    def _beat(self) -> None:
        while True:
            time.sleep(self._beat_every_s)
            try:
                self._see(self._jobs.beat(self._job.id, self._job.attempt, at=now()))
            except Superseded:
                self._log.warning("superseded")
                os._exit(SUPERSEDED)
            except Exception as error:  # noqa: BLE001  # a loop: a beat that failed must not be the last
                self._log.warning("heartbeat_failed", reason=str(error))
            if self._cancelled.is_set() and not self._training:
                os.kill(os.getpid(), signal.SIGTERM)  # wakes the main thread out of a download or a load

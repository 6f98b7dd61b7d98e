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

from kastor.domain.errors import ResourceExhausted, Superseded, Unavailable
from kastor.domain.job import JobError, JobEvent, State, StepMetrics, TuningJob, TuningSpec
from kastor.executors.exit_codes import SUPERSEDED
from kastor.runtime.logging import RepeatLimit
from kastor.store.jobs import JobStore
from kastor.worker.job_monitor import JobInterrupted
from kastor.worker.lease import DatabaseUnreachable

T = TypeVar("T")
PATIENCE_S = 600.0
"""So long a worker waits for a database that is locked, away or out of disk. It trains no further meanwhile and writes
no checkpoint: the job may have been given to another, and only the database can say."""
STOPPED_PATIENCE_S = 3.0  # the same once it was told to stop


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class SqlJobLease:
    """A `JobLease` by rows of the jobs table. Raises what the protocol says."""

    def __init__(self, jobs: JobStore, job: TuningJob, *, beat_every_s: float, patience_s: float = PATIENCE_S) -> None:
        self._jobs = jobs
        self._job = job
        self._beat_every_s = beat_every_s
        self._patience_s = patience_s
        self._cancelled = threading.Event()
        self._stopped = threading.Event()
        self._training = False
        self._counted_deaths = job.deaths > 0
        self._told_full: set[str] = set()
        self._log = structlog.get_logger()
        self._repeats = RepeatLimit()

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
            raise JobInterrupted
        self.transition(State.RUNNING)

    def log_event(self, message: str) -> None:
        """Add a line to the job's events and its log."""
        self._log.info(message)
        self._patiently(lambda: self._jobs.add_event(self._job.id, JobEvent(now(), "info", message)))

    def warn(self, message: str) -> None:
        """Add a line of which those who follow the job are told."""
        self._log.warning(message)
        self._patiently(lambda: self._jobs.add_event(self._job.id, JobEvent(now(), "warning", message)))

    def record(self, snapshot: StepMetrics) -> None:
        """Keep what a step did, and learn of a cancel."""
        self._see(self._patiently(lambda: self._jobs.record_step(self._job.id, self._job.attempt, snapshot)))

    def store_spec(self, spec: TuningSpec) -> None:
        """Keep what validation found out about the dataset file."""
        self._patiently(lambda: self._jobs.store_spec(self._job.id, self._job.attempt, spec))

    def record_progress(self) -> None:
        """A checkpoint lies further than the one that this attempt began at: deaths before it count no more."""
        if self._counted_deaths:
            self._patiently(lambda: self._jobs.forget_deaths(self._job.id, self._job.attempt))
            self._counted_deaths = False

    def rewind(self, step: int) -> None:
        """Forget the steps after `step`."""
        self._patiently(lambda: self._jobs.rewind(self._job.id, self._job.attempt, step))

    def confirm(self) -> None:
        """Make sure that the job is still this worker's, before it writes to the job's folder.

        Raises:
            Superseded: another attempt owns it, or it has ended.

        """
        self._see(self._patiently(lambda: self._jobs.heartbeat(self._job.id, self._job.attempt, at=now())))

    def raise_if_cancelled(self) -> None:
        """Look for a request to end now; for work that has no steps.

        Raises:
            JobInterrupted: there is one.
            Superseded: another attempt owns the job, or it has ended.

        """
        self.confirm()
        if self.interrupted:
            raise JobInterrupted

    def await_room(self, what: str, *, wait_s: float, room: Callable[[], bool] = lambda: False) -> None:
        """Wait on a full disk: until there is `room`, at most for `wait_s`; then it may be tried again.

        `what` says in the job's events what cannot be written; once, however often this is called.

        Raises:
            JobInterrupted: the job was cancelled or told to stop meanwhile.

        """
        if what not in self._told_full:
            self._told_full.add(what)
            self.warn(f"the disk is full: {what} waits until there is room; free some")
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not room():
            self.raise_if_cancelled()
            time.sleep(min(1.0, wait_s / 10))

    def transition(self, to: State, error: JobError | None = None, note: str = "") -> None:
        """Move the job, whatever a cancel made of its state meanwhile; `log_event` says why in its events.

        Raises:
            Superseded: another attempt owns it, or it has ended.

        """
        while True:
            job = self._patiently(lambda: self._jobs.get(self._job.id))
            if job.attempt != self._job.attempt or not job.state.active:
                raise Superseded(f"Job {job.id} is {job.state} in attempt {job.attempt}.")
            if job.state is State.CANCELLING and to in (State.RUNNING, State.QUEUED):
                self._cancelled.set()
                raise JobInterrupted
            try:
                self._patiently(partial(self._jobs.move, job, to, at=now(), error=error, note=note))
            except Superseded:
                continue
            return

    def ignore_signals(self) -> None:
        """Heed no further request to stop: the end is being written."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _patiently(self, write: Callable[[], T]) -> T:
        """What `write` gives, tried again while the database cannot be used: a restart of it ends no job."""
        began = time.monotonic()
        while True:
            try:
                return write()
            except (Unavailable, ResourceExhausted) as error:
                patience_s = min(self._patience_s, STOPPED_PATIENCE_S) if self.interrupted else self._patience_s
                if time.monotonic() - began > patience_s:
                    raise DatabaseUnreachable(error.message) from error
                self._warn("database_unavailable", error.message)
                time.sleep(min(1.0, self._patience_s / 10))

    def _warn(self, event: str, reason: str) -> None:
        more = self._repeats.passes(event)
        if more is not None:
            self._log.warning(event, reason=reason, **more)

    def _see(self, state: State) -> None:
        if state is State.CANCELLING:
            self._cancelled.set()

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._cancelled.is_set():
            self._stopped.set()
        if not self._training:
            raise JobInterrupted

    def _beat(self) -> None:
        while True:
            time.sleep(self._beat_every_s)
            try:
                self._see(self._jobs.heartbeat(self._job.id, self._job.attempt, at=now()))
            except Superseded:
                self._log.warning("superseded")
                os._exit(SUPERSEDED)
            except Exception as error:  # noqa: BLE001  # a loop: a beat that failed must not be the last
                self._warn("heartbeat_failed", str(error))
            if self._cancelled.is_set() and not self._training:
                os.kill(os.getpid(), signal.SIGTERM)  # wakes the main thread out of a download or a load

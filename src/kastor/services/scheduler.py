"""Decides which job runs when, and what becomes of a job whose worker is gone.

Keeps nothing of its own that matters: after any restart, the rows and their heartbeats say everything. How a worker
runs is the executor's business; a worker writes its job's end itself, so only unannounced ends are judged here.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from kastor.domain.errors import Code, KastorError, NotFound, Superseded
from kastor.domain.job import JobError, State, TuningJob
from kastor.domain.worker_exit import ExitReason, ResourceRequest, WorkerExit
from kastor.runtime.logging import RepeatLimit
from kastor.store.jobs import JobStore

POLL_S = 0.25  # how soon a worker's death is noticed
START_RETRY_S = 30.0  # a machine that could not start a worker is asked again after this
NOT_ITS_FAULT = frozenset({Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE})
"""What keeps a worker from being started: a full disk, too many processes. The job waits until that is over."""


LOST_BEFORE = "was lost with the server that started it"
_Suspect = tuple[str, int, datetime]  # a job, its attempt, and its worker's last sign of life


class Executor(Protocol):
    """Where workers run."""

    def start(self, job: TuningJob, resources: ResourceRequest) -> None:
        """Start a worker for the job's present attempt; a `KastorError` says why it could not."""

    def exited(self) -> Sequence[WorkerExit]:
        """Workers that ended since the last call, for whatever reason."""

    def kill(self, job_id: str) -> None:
        """End the job's worker at once, if it is one of ours."""

    def shutdown(self, grace_s: float) -> None:
        """Ask all workers to end, then end them; `exited` tells of them."""


@dataclass(frozen=True, slots=True)
class WorkerLoss:
    """How an attempt ended without saying so itself."""

    reason: str  # completes "the worker …"
    died: bool = True
    advice: str = ""  # what the user can do; the job's log is the place to look if empty
    code: Code = Code.INTERNAL


def classify_exit(worker: WorkerExit) -> WorkerLoss:
    """What a worker's end means for a job that it left unfinished."""
    quoted = f', saying "{worker.log_tail[-1]}"' if worker.log_tail else ""
    match worker.reason:
        case ExitReason.STOPPED:
            return WorkerLoss("was stopped and kept a checkpoint", died=False)
        case ExitReason.DATABASE_UNREACHABLE:
            return WorkerLoss("gave up on the database, which it could not use for too long", died=False)
        case ExitReason.OUT_OF_MEMORY:
            advice = "free memory, or choose a smaller base model or batch size, and tune again"
            return WorkerLoss(worker.detail, advice=advice)
        case ExitReason.KILLED | ExitReason.CRASHED:
            return WorkerLoss(worker.detail + quoted)
        case ExitReason.FINISHED | ExitReason.SUPERSEDED:
            return WorkerLoss(f"ended without finishing the job{quoted}")


class Scheduler:
    """First come, first served, `max_running` jobs at once over all servers of the database."""

    def __init__(
        self,
        jobs: JobStore,
        executor: Executor,
        *,
        max_running: int,
        max_deaths: int,
        heartbeat_timeout_s: float,
        clock: Callable[[], datetime],
        resources: ResourceRequest = ResourceRequest(),  # noqa: B008  # a frozen value
        cancel_timeout_s: float = 60.0,
        grace_s: float = 10.0,
    ) -> None:
        self._jobs = jobs
        self._executor = executor
        self._max_running = max_running
        self._max_deaths = max_deaths
        self._timeout = timedelta(seconds=heartbeat_timeout_s)
        self._cancel_timeout = timedelta(seconds=cancel_timeout_s)
        self._resources = resources
        self._clock = clock
        self._grace_s = grace_s
        self._unsettled: list[WorkerExit] = []  # survives a database that cannot be reached for a while
        self._began_at = clock()
        self._stepped_at: datetime | None = None
        self._patient_until: datetime | None = None
        self._start_again_at: datetime | None = None
        self._suspects: dict[_Suspect, datetime] = {}  # since when the database is known to take a sign of life
        self._log = structlog.get_logger()
        self._repeats = RepeatLimit()

    def run(self, stop: threading.Event, wake: threading.Event) -> None:
        """Step until `stop`; at once when `wake` is set (a job came in, a cancel), else every `POLL_S`."""
        while not stop.is_set():
            try:
                self.step()
            except Exception as error:  # noqa: BLE001  # the process loop: jobs must go on after whatever one step met
                self._patient_until = self._clock() + self._timeout  # workers could write as little as this process
                self._tell_failure(error)
            wake.wait(POLL_S)
            wake.clear()

    def step(self) -> None:
        """Settle what ended, fell silent or heeds no cancel, then start what there is room for."""
        self._settle_exits()
        now = self._clock()
        if self._may_judge(now):
            self._end_silent(now)
            self._end_overdue_cancels(now)
        if self._start_again_at is not None and now < self._start_again_at:
            return
        while (job := self._jobs.claim(at=self._clock(), max_active=self._max_running)) and self._started(job):
            pass

    def shutdown(self) -> None:
        """Stop the workers; their jobs go back to the queue, which does not count as a death."""
        self._executor.shutdown(self._grace_s)
        self._unsettled.extend(self._executor.exited())
        while self._unsettled:
            worker = self._unsettled[0]
            self._settle(worker.job_id, worker.attempt, WorkerLoss("was stopped with its server", died=False))
            self._unsettled.pop(0)

    def _started(self, job: TuningJob) -> bool:
        try:
            self._executor.start(job, self._resources)
        except KastorError as error:
            self._start_again_at = self._clock() + timedelta(seconds=START_RETRY_S)
            died = error.code not in NOT_ITS_FAULT
            self._settle(
                job.id, job.attempt, WorkerLoss("could not start", died, error.message.rstrip("."), error.code)
            )
            return False
        self._start_again_at = None
        self._log.info("worker_started", job_id=job.id, attempt=job.attempt)
        return True

    def _settle_exits(self) -> None:
        self._unsettled.extend(self._executor.exited())
        while self._unsettled:
            worker = self._unsettled[0]
            about = {"job_id": worker.job_id, "attempt": worker.attempt, "reason": str(worker.reason)}
            self._log.info("worker_ended", **about, detail=worker.detail)
            self._settle(worker.job_id, worker.attempt, classify_exit(worker))
            self._unsettled.pop(0)

    def _end_silent(self, now: datetime) -> None:
        """Take the jobs of workers that gave no sign of life from them, and end those workers.

        Their silence counts only once the database has been seen to take writes for half of the time: a worker cannot
        beat while the database is locked, away, or its disk full. The row is moved first, so that a worker lives on if
        that, too, cannot be written.
        """
        suspects: dict[_Suspect, datetime] = {}
        for job in self._jobs.stale(before=now - self._timeout / 2):
            assert job.heartbeat_at is not None  # noqa: S101  # the query's condition
            is_silent = now - job.heartbeat_at > self._timeout
            if job.heartbeat_at < self._began_at:  # and not heard of since: it ended with an earlier server
                if is_silent and self._settle(job.id, job.attempt, WorkerLoss(LOST_BEFORE, died=False)):
                    self._executor.kill(job.id)
                continue
            suspect = (job.id, job.attempt, job.heartbeat_at)
            if (since := self._suspects.get(suspect)) is None:
                self._jobs.check_writable(job.id)
                since = self._clock()
            suspects[suspect] = since
            lost = WorkerLoss(f"was silent for more than {self._timeout.total_seconds():g} s")
            if is_silent and now - since >= self._timeout / 2 and self._settle(job.id, job.attempt, lost):
                self._executor.kill(job.id)
        self._suspects = suspects

    def _end_overdue_cancels(self, now: datetime) -> None:
        for job in self._jobs.overdue_cancels(before=now - self._cancel_timeout):
            lost = WorkerLoss(
                f"did not stop within {self._cancel_timeout.total_seconds():g} s of the cancel, and was ended"
            )
            if self._settle(job.id, job.attempt, lost):
                self._executor.kill(job.id)

    def _tell_failure(self, error: Exception) -> None:
        """One line a minute: what failed will fail again in the next step, a quarter of a second later."""
        more = self._repeats.passes(type(error).__name__)
        if more is None:
            return
        if isinstance(error, KastorError):  # says itself what is the matter
            self._log.error("scheduler_step_failed", reason=error.message, **more)
        else:
            self._log.exception("scheduler_step_failed", **more)

    def _may_judge(self, now: datetime) -> bool:
        """Whether an old heartbeat says something about its worker.

        It does not just after this process itself stood still (a laptop that slept, a machine out of breath): the
        worker gets the time to catch up.
        """
        if self._stepped_at is not None and now - self._stepped_at > self._timeout / 2:
            self._patient_until = now + self._timeout
        self._stepped_at = now
        return self._patient_until is None or now >= self._patient_until

    def _settle(self, job_id: str, attempt: int, lost: WorkerLoss) -> bool:
        """Move the job on if that attempt still owns it, and say whether; whoever else was quicker is right."""
        while True:
            try:
                job = self._jobs.get(job_id)
                if job.attempt == attempt and job.state.active:
                    self._move_on(job, lost)
                    return True
            except Superseded:
                continue  # somebody moved it since we looked (a cancel): look again
            except NotFound:
                pass  # deleted
            return False

    def _move_on(self, job: TuningJob, lost: WorkerLoss) -> None:
        deaths = job.deaths + int(lost.died)
        error = None
        if job.state is State.CANCELLING:
            to = State.CANCELLED
        elif lost.died and deaths >= self._max_deaths:
            to, error = State.FAILED, JobError(lost.code, _epitaph(job.id, deaths, lost))
        else:
            to = State.QUEUED
        note = f"the worker {lost.reason}" + (f": {lost.advice}" if lost.advice else "")
        self._jobs.move(job, to, at=self._clock(), error=error, died=lost.died, note="" if error else note)
        self._log.warning(
            "worker_lost", job_id=job.id, attempt=job.attempt, state=str(to), deaths=deaths, reason=lost.reason
        )


def _epitaph(job_id: str, deaths: int, lost: WorkerLoss) -> str:
    how = f"The worker died {deaths} times without getting further; the last time it" if deaths > 1 else "The worker"
    return f"{how} {lost.reason}: {lost.advice or f'`kastor jobs logs {job_id}` shows what it printed'}."

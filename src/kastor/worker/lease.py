"""A worker's hold on its job, as the job's run needs it; `sql_lease` keeps it in the database."""

from collections.abc import Callable
from typing import Protocol

from kastor.domain.job import JobError, State, StepMetrics, TuningSpec
from kastor.worker.job_monitor import JobMonitor


class DatabaseUnreachable(BaseException):
    """The database could not be used for so long that the worker gives up; the job is resumed when it can be."""


class JobLease(JobMonitor, Protocol):
    """Requests to stop, and the writes that only the job's owner may make.

    Each write raises `Superseded` once another attempt owns the job or it has ended, and `DatabaseUnreachable` when the
    database could not be used for too long.
    """

    @property
    def cancelled(self) -> bool:
        """A cancel has been asked for."""

    def begin_training(self) -> None:
        """From here on a request to stop waits for the end of the step."""

    def warn(self, message: str) -> None:
        """Add a line of which those who follow the job are told."""

    def record(self, snapshot: StepMetrics) -> None:
        """Keep what a step did, and learn of a cancel."""

    def store_spec(self, spec: TuningSpec) -> None:
        """Keep what validation found out about the dataset file."""

    def record_progress(self) -> None:
        """A checkpoint lies further than the one that this attempt began at: deaths before it count no more."""

    def rewind(self, step: int) -> None:
        """Forget the steps after `step`."""

    def confirm(self) -> None:
        """Make sure that the job is still this worker's, before it writes to the job's folder."""

    def await_room(self, what: str, *, wait_s: float, room: Callable[[], bool] = lambda: False) -> None:
        """Wait on a full disk: until there is `room`, at most for `wait_s`; then it may be tried again."""

    def transition(self, to: State, error: JobError | None = None, note: str = "") -> None:
        """Move the job, whatever a cancel made of its state meanwhile."""

    def ignore_signals(self) -> None:
        """Heed no further request to stop: the end is being written."""

"""What a job's pipeline knows of the job beside its data: where to log events, and whether to stop."""

from typing import Protocol


class JobInterrupted(BaseException):
    """The job was cancelled or stopped with nothing to save; raised by the signal handler and `raise_if_cancelled`."""


class JobMonitor(Protocol):
    """Takes a job's events and knows of requests to stop it. For any thread."""

    @property
    def interrupted(self) -> bool:
        """Work should end at the next step, for whatever reason."""

    def log_event(self, message: str) -> None:
        """Add a line to the job's events and its log."""

    def raise_if_cancelled(self) -> None:
        """Look for a request to end now; for work that has no steps.

        Raises:
            JobInterrupted: there is one.

        """

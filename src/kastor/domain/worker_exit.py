"""What a scheduler and an executor say to each other about a worker: what it needs, and why it ended.

An executor may run workers as processes, as pods or as actors: return codes and signals stay inside of it.
"""

from dataclasses import dataclass
from enum import StrEnum


class ExitReason(StrEnum):
    """Why a worker ended."""

    FINISHED = "finished"  # in order; the job's row says how the job ended
    STOPPED = "stopped"  # on request, after a checkpoint
    SUPERSEDED = "superseded"  # another attempt owns the job
    DATABASE_UNREACHABLE = "database unreachable"
    OUT_OF_MEMORY = "out of memory"
    KILLED = "killed"  # by its executor, on request
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """A worker that ended."""

    job_id: str
    attempt: int
    reason: ExitReason
    detail: str = ""  # completes "the worker …", for the reasons that need one
    log_tail: tuple[str, ...] = ()  # the last lines it printed besides structured log lines


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a worker needs; `None` leaves it to the executor."""

    num_cores: int | None = None
    num_gpus: int | None = None
    memory_bytes: int | None = None

"""How a run becomes its job's end, whatever it met. No torch."""

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from kastor.domain.errors import Code, KastorError, Superseded
from kastor.domain.job import JobError, State
from kastor.executors.exit_codes import DATABASE_UNREACHABLE, STOPPED, SUPERSEDED
from kastor.runtime.out_of_memory import is_out_of_memory
from kastor.runtime.storage_errors import is_disk_full
from kastor.security.redaction import without_folder
from kastor.worker.job_monitor import JobInterrupted
from kastor.worker.lease import DatabaseUnreachable, JobLease

FULL_WAIT_S = 60.0
ROOM_BYTES = 32 * 1024**2


def run_job(run: Callable[[], bool], lease: JobLease, *folders: Path) -> int:
    """Run the job and write how it ended; the process's exit code.

    `run` is False when a request ended it early. A full disk ends no job: it waits for room in one of the `folders`,
    Kastor's own, whose paths no message to the owner holds.
    """
    log = structlog.get_logger()
    try:
        try:
            if run():
                lease.transition(State.SUCCEEDED)
                return 0
        except Superseded:
            raise
        except Exception as error:  # the worker's loop: the job must end with a reason, whatever it was
            if is_disk_full(error):
                log.exception("disk_full")
                if isinstance(error, KastorError):  # it may say how much room is needed
                    lease.warn(job_error(error, *folders).message)
                return _waits_for_room(lease, [folder for folder in folders if folder.exists()])
            lease.transition(State.FAILED, job_error(error, *folders))
            log.exception("job_failed")
            return 0
    except JobInterrupted:
        pass  # nothing is to be saved: before the first step, or after the last
    except Superseded as error:
        log.warning("superseded", reason=error.message)
        return SUPERSEDED
    except DatabaseUnreachable as error:
        log.error("database_gone", reason=str(error))
        return DATABASE_UNREACHABLE
    lease.ignore_signals()
    return _ended_early(lease)


def _waits_for_room(lease: JobLease, folders: list[Path]) -> int:
    """Back to the queue, once there is more room than now, or it may be tried again all the same."""
    enough = {folder: shutil.disk_usage(folder).free + ROOM_BYTES for folder in folders}
    lease.await_room(
        "the job",
        wait_s=FULL_WAIT_S,
        room=lambda: any(shutil.disk_usage(folder).free >= num_bytes for folder, num_bytes in enough.items()),
    )
    lease.transition(State.QUEUED, note="it is tried again on a disk that was full")
    return STOPPED


def _ended_early(lease: JobLease) -> int:
    try:
        if not lease.cancelled:
            lease.transition(State.QUEUED)
            return STOPPED
    except JobInterrupted:
        pass  # cancelled at the last moment
    lease.transition(State.CANCELLED)
    return 0


def job_error(error: Exception, *folders: Path) -> JobError:
    """The sentence a user reads about what ended the job; paths in `folders` are cut short."""
    if isinstance(error, KastorError):
        message = error.message
        for folder in folders:  # the owner is told it, too
            message = without_folder(message, folder)
        return JobError(error.code, message)
    if is_out_of_memory(error):
        message = "Memory ran out: close other programs, use shorter examples or a smaller base model."
        return JobError(Code.RESOURCE_EXHAUSTED, message)
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    return JobError(Code.INTERNAL, f"The worker failed with {first}; the traceback stands in the job's log.")

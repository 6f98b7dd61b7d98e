"""How a run becomes its job's end, whatever it met. No torch."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from kastor.domain.errors import Code, KastorError, Superseded
from kastor.domain.job import JobError, State
from kastor.domain.memory import ran_out
from kastor.security.redaction import HIDDEN
from kastor.store.blobs import disk_full
from kastor.worker.ownership import SUPERSEDED, DatabaseGone, Interrupted, Ownership

DATABASE_GONE = os.EX_UNAVAILABLE  # exit code
FULL_WAIT_S = 60.0
ROOM_BYTES = 32 * 1024**2


def work(run: Callable[[], bool], ownership: Ownership, data_dir: Path) -> int:
    """Run the job and write how it ended; the process's exit code.

    `run` is False when a request ended it early. A full disk ends no job: it waits for room in `data_dir`.
    """
    log = structlog.get_logger()
    try:
        try:
            if run():
                ownership.move(State.SUCCEEDED)
                return 0
        except Superseded:
            raise
        except Exception as error:  # the worker's loop: the job must end with a reason, whatever it was
            if disk_full(error):
                log.exception("disk_full")
                return _waits_for_room(ownership, data_dir)
            ownership.move(State.FAILED, failure(error, data_dir))
            log.exception("job_failed")
            return 0
    except Interrupted:
        pass  # nothing is to be saved: before the first step, or after the last
    except Superseded as error:
        log.warning("superseded", reason=error.message)
        return SUPERSEDED
    except DatabaseGone as error:
        log.error("database_gone", reason=str(error))
        return DATABASE_GONE
    ownership.deafen()
    return _ended_early(ownership)


def _waits_for_room(ownership: Ownership, data_dir: Path) -> int:
    """Back to the queue, once there is more room than now, or it may be tried again all the same."""
    free_bytes = shutil.disk_usage(data_dir).free
    enough = free_bytes + ROOM_BYTES
    ownership.await_room("the job", wait_s=FULL_WAIT_S, room=lambda: shutil.disk_usage(data_dir).free >= enough)
    ownership.move(State.QUEUED, note="it is tried again on a disk that was full")
    return os.EX_TEMPFAIL


def _ended_early(ownership: Ownership) -> int:
    try:
        if not ownership.cancelled:
            ownership.move(State.QUEUED)
            return os.EX_TEMPFAIL
    except Interrupted:
        pass  # cancelled at the last moment
    ownership.move(State.CANCELLED)
    return 0


def failure(error: Exception, data_dir: Path) -> JobError:
    """The sentence a user reads about what ended the job."""
    if isinstance(error, KastorError):
        return JobError(error.code, error.message.replace(f"{data_dir}/", HIDDEN))  # the owner is told it, too
    if ran_out(error):
        message = "Memory ran out: close other programs, use shorter examples or a smaller base model."
        return JobError(Code.RESOURCE_EXHAUSTED, message)
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    return JobError(Code.INTERNAL, f"The worker failed with {first}; the traceback stands in the job's log.")

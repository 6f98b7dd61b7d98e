"""How a run becomes its job's end, whatever it met. No torch."""

import os
from collections.abc import Callable
from pathlib import Path

import structlog

from kastor.domain.errors import Code, KastorError, Superseded
from kastor.domain.job import JobError, State
from kastor.domain.memory import ran_out
from kastor.security.redaction import HIDDEN
from kastor.store.blobs import NO_SPACE
from kastor.worker.ownership import SUPERSEDED, Interrupted, Ownership


def work(run: Callable[[], bool], ownership: Ownership, data_dir: Path) -> int:
    """Run the job and write how it ended; the process's exit code.

    `run` is False when a request ended it early. `data_dir` is what to make room in when a disk is full.
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
            ownership.move(State.FAILED, failure(error, data_dir))
            log.exception("job_failed")
            return 0
    except Interrupted:
        pass  # nothing is to be saved: before the first step, or after the last
    except Superseded as error:
        log.warning("superseded", reason=error.message)
        return SUPERSEDED
    ownership.deafen()
    return _ended_early(ownership)


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
    # safetensors reports a full disk as an error of its own
    if (isinstance(error, OSError) and error.errno in NO_SPACE) or "no space left on device" in str(error).lower():
        message = f"The disk that holds {data_dir} is full: free some space and tune again."
        return JobError(Code.RESOURCE_EXHAUSTED, message)
    if ran_out(error):
        message = "Memory ran out: close other programs, use shorter examples or a smaller base model."
        return JobError(Code.RESOURCE_EXHAUSTED, message)
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    return JobError(Code.INTERNAL, f"The worker failed with {first}; the traceback stands in the job's log.")

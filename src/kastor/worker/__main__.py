"""Composition root of a worker: own the job first, then load what is heavy, run, and write how it ended.

A spare one has no job yet: it loads first, says so, and is told its job in a line of JSON on its input.
"""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import orjson
import structlog

from kastor.domain.job import TuningJob
from kastor.executors.exit_codes import SUPERSEDED
from kastor.executors.warm_worker import READY
from kastor.runtime.logging import configure_logs
from kastor.runtime.parent_death import watch_parent
from kastor.security.file_modes import PRIVATE_UMASK
from kastor.settings import Settings, load_settings
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import open_database
from kastor.store.jobs import JobStore
from kastor.worker.outcome import run_job
from kastor.worker.sql_lease import SqlJobLease

BEATS_PER_TIMEOUT = 5


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the settings, put the parts together, run."""
    parser = argparse.ArgumentParser(prog="kastor.worker", description=__doc__)
    parser.add_argument("job_id", nargs="?")
    parser.add_argument("attempt", type=int, nargs="?")
    parser.add_argument("--spare", action="store_true", help="wait for a job")
    parser.add_argument("--parent-fd", type=int, help="ends this process when the pipe's other end closes")
    given = parser.parse_args(arguments)
    if given.spare == (given.attempt is not None):
        parser.error("either job_id and attempt, or --spare")
    os.umask(PRIVATE_UMASK)
    settings = load_settings()
    job_id, attempt = _awaited(given.parent_fd) if given.spare else (given.job_id, given.attempt)
    configure_logs("json")
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=attempt)
    jobs = JobStore(open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s))
    job = jobs.get(job_id)
    if job.attempt != attempt:
        sys.exit(SUPERSEDED)
    lease = SqlJobLease(jobs, job, beat_every_s=settings.heartbeat_timeout_s / BEATS_PER_TIMEOUT)
    lease.start()
    if not given.spare:
        _end_with_parent(given.parent_fd)
    sys.exit(run_job(lambda: _run(settings, job, lease), lease, settings.data_dir, settings.cache_dir))


def _end_with_parent(parent_fd: int | None) -> None:
    if parent_fd is not None:
        watch_parent(parent_fd, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _awaited(parent_fd: int | None) -> tuple[str, int]:
    """The job that this spare worker is for, once there is one; from then on its output goes to that job's log."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing to save; who starts servers with it ignored leaves that on
    _end_with_parent(parent_fd)
    _load()
    os.write(sys.stdout.fileno(), READY)
    line = sys.stdin.buffer.readline()
    if not line:  # not needed any more
        sys.exit(0)
    order = orjson.loads(line)
    with Path(order["log"]).open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    return order["job_id"], order["attempt"]


def _load() -> None:
    """Import what is heavy; a sixth of that would go into looking for garbage, of which there is none (docs/log.md)."""
    gc.disable()
    import kastor.worker.run  # noqa: F401

    gc.freeze()
    gc.enable()


def _run(settings: Settings, job: TuningJob, lease: SqlJobLease) -> bool:
    _load()  # only now: it can take longer than a heartbeat may be late
    from kastor.worker.run import JobRunner

    return JobRunner(settings, job, JobFiles(settings.data_dir).workspace(job.id), lease).run()


if __name__ == "__main__":
    main()

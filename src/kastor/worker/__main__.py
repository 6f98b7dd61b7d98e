"""Composition root of a worker: own the job first, then load what is heavy, run, and write how it ended."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import structlog

from kastor.domain.job import TuningJob
from kastor.lifeline import watch_parent
from kastor.logs import configure_logs
from kastor.settings import Settings, load_settings
from kastor.store.blobs import Blobs
from kastor.store.database import open_database
from kastor.store.jobs import JobStore
from kastor.worker.outcome import work
from kastor.worker.ownership import SUPERSEDED, Ownership

BEATS_PER_TIMEOUT = 5


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the settings, put the parts together, run."""
    parser = argparse.ArgumentParser(prog="kastor.worker", description=__doc__)
    parser.add_argument("job_id")
    parser.add_argument("attempt", type=int)
    parser.add_argument("--parent-fd", type=int, help="ends this process when the pipe's other end closes")
    given = parser.parse_args(arguments)
    settings = load_settings()
    configure_logs("json")
    structlog.contextvars.bind_contextvars(job_id=given.job_id, attempt=given.attempt)
    jobs = JobStore(open_database(settings.resolved_database_url))
    job = jobs.get(given.job_id)
    if job.attempt != given.attempt:
        sys.exit(SUPERSEDED)
    ownership = Ownership(jobs, job, beat_every_s=settings.heartbeat_timeout_s / BEATS_PER_TIMEOUT)
    ownership.start()
    if given.parent_fd is not None:
        watch_parent(given.parent_fd, lambda: os.kill(os.getpid(), signal.SIGTERM))
    sys.exit(work(lambda: _run(settings, job, ownership), ownership, settings.data_dir))


def _run(settings: Settings, job: TuningJob, ownership: Ownership) -> bool:
    # only now: loading torch can take longer than a heartbeat may be late. A sixth of that would go into looking for
    # garbage among modules, of which there is none (docs/log.md)
    gc.disable()
    from kastor.worker.steps import Steps

    gc.freeze()
    gc.enable()
    return Steps(settings, job, Blobs(settings.data_dir), ownership).run()


if __name__ == "__main__":
    main()

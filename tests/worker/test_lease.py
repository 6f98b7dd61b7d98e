"""A worker holds on to its job through a database that is away for a while, and lets go of one that stays away."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kastor.domain.errors import Unavailable
from kastor.domain.job import State, StepMetrics
from kastor.domain.worker_exit import WorkerExit
from kastor.executors.exit_codes import DATABASE_UNREACHABLE
from kastor.executors.local import exit_reason
from kastor.services.scheduler import classify_exit
from kastor.store.database import Database
from kastor.store.jobs import JobStore
from kastor.worker.outcome import run_job
from kastor.worker.sql_lease import SqlJobLease
from support.domain_values import make_job, make_model, make_snapshot


class Flaky(JobStore):
    """Cannot be reached for the first few writes of a step."""

    def __init__(self, database: Database, failures: int) -> None:
        super().__init__(database)
        self._failures = iter(range(failures))

    def record_step(self, job_id: str, attempt: int, snapshot: StepMetrics) -> State:
        if next(self._failures, None) is not None:
            raise Unavailable("The database is restarting.")
        return super().record_step(job_id, attempt, snapshot)


def owned(database: Database, *, failures: int, patience_s: float) -> tuple[JobStore, SqlJobLease]:
    jobs, job = Flaky(database, failures), make_job()
    jobs.add(job, make_model(job))
    claimed = jobs.claim(at=datetime.now(UTC), max_active=1)
    assert claimed is not None
    return jobs, SqlJobLease(jobs, claimed, beat_every_s=60, patience_s=patience_s)


@pytest.fixture(name="data_dir")
def a_data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def test_a_short_absence_of_the_database_costs_the_job_nothing(sqlite_database: Database, data_dir: Path) -> None:
    jobs, ownership = owned(sqlite_database, failures=3, patience_s=5)

    def run() -> bool:
        ownership.begin_training()
        ownership.record(make_snapshot(1))
        return True

    assert run_job(run, ownership, data_dir) == 0
    assert jobs.get("job1").state is State.SUCCEEDED
    assert [snapshot.step for snapshot in jobs.snapshots("job1")] == [1]


def test_a_long_one_ends_the_worker_and_leaves_the_job_to_be_resumed(sqlite_database: Database, data_dir: Path) -> None:
    jobs, ownership = owned(sqlite_database, failures=1000, patience_s=0.1)

    def run() -> bool:
        ownership.begin_training()
        ownership.record(make_snapshot(1))
        return True

    assert run_job(run, ownership, data_dir) == DATABASE_UNREACHABLE
    assert jobs.get("job1").state is State.RUNNING
    assert classify_exit(WorkerExit("job1", 1, *exit_reason(DATABASE_UNREACHABLE))).died is False

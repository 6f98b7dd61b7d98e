"""The scheduler over real processes: a script stands for the worker and does to the store what the worker does."""

import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from kastor.domain.job import State, TuningJob
from kastor.executors.local import LocalExecutor
from kastor.services.scheduler import Scheduler
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import Database
from kastor.store.jobs import JobStore
from support.domain_values import make_job, make_model
from support.polling import wait_until

WORKER = """
import os, signal, sys, time
from datetime import UTC, datetime
from kastor.domain.job import State
from kastor.runtime.parent_death import watch_parent
from kastor.store.database import open_database
from kastor.store.jobs import JobStore

url, behaviour, job_id, attempt, fd = sys.argv[1:]
watch_parent(int(fd), lambda: os._exit(1))
jobs, attempt = JobStore(open_database(url)), int(attempt)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
job = jobs.move(jobs.get(job_id), State.RUNNING, at=datetime.now(UTC))
if behaviour == "die" or behaviour == "die-once" and attempt == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "freeze" and attempt == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
if behaviour != "train":
    jobs.move(job, State.SUCCEEDED, at=datetime.now(UTC))
    sys.exit(0)
while True:
    if stopped:
        sys.exit(75)
    if jobs.heartbeat(job_id, attempt, at=datetime.now(UTC)) is State.CANCELLING:
        jobs.move(jobs.get(job_id), State.CANCELLED, at=datetime.now(UTC))
        sys.exit(0)
    time.sleep(0.02)
"""


def add(jobs: JobStore) -> None:
    job = make_job()
    jobs.add(job, make_model(job))


def state(jobs: JobStore) -> State:
    return jobs.get("job1").state


@dataclass
class Service:
    """A scheduler over real processes, in a thread, as the server runs it."""

    jobs: JobStore
    scheduler: Scheduler
    stop: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._loop = threading.Thread(target=self.scheduler.run, args=(self.stop, self.wake))
        self._loop.start()

    def end(self) -> None:
        self.stop.set()
        self.wake.set()
        self._loop.join()
        self.scheduler.shutdown()


def real_service(
    sqlite_database: Database, tmp_path: Path, behaviour: str, timeout_s: float = 60, max_deaths: int = 2
) -> Service:
    jobs = JobStore(sqlite_database)
    url = sqlite_database.engine.url.render_as_string(hide_password=False)
    executor = LocalExecutor(
        {},
        JobFiles(tmp_path),
        command=lambda job, fd: [sys.executable, "-c", WORKER, url, behaviour, job.id, str(job.attempt), str(fd)],
    )
    scheduler = Scheduler(
        jobs,
        executor,
        max_running=1,
        max_deaths=max_deaths,
        heartbeat_timeout_s=timeout_s,
        clock=lambda: datetime.now(UTC),
    )
    return Service(jobs, scheduler)


def run_to_the_end(
    sqlite_database: Database, tmp_path: Path, behaviour: str, timeout_s: float = 60, max_deaths: int = 2
) -> TuningJob:
    add(JobStore(sqlite_database))
    service = real_service(sqlite_database, tmp_path, behaviour, timeout_s, max_deaths)
    try:
        wait_until(lambda: state(service.jobs).terminal)
    finally:
        service.end()
    return service.jobs.get("job1")


def test_a_really_killed_worker_is_noticed_and_started_again(sqlite_database: Database, tmp_path: Path) -> None:
    job = run_to_the_end(sqlite_database, tmp_path, "die-once")
    assert (job.state, job.attempt, job.deaths) == (State.SUCCEEDED, 2, 1)


def test_workers_that_keep_dying_fail_the_job(sqlite_database: Database, tmp_path: Path) -> None:
    job = run_to_the_end(sqlite_database, tmp_path, "die")
    assert (job.state, job.attempt, job.deaths) == (State.FAILED, 2, 2)
    assert job.error is not None
    assert job.error.message == (
        "The worker died 2 times without getting further; the last time it was killed (SIGKILL), as happens when "
        "memory runs out: free memory, or choose a smaller base model or batch size, and tune again."
    )


def test_a_really_frozen_worker_is_replaced(sqlite_database: Database, tmp_path: Path) -> None:
    # on a machine out of breath a sound worker may look frozen as well: that costs further deaths, not the job
    job = run_to_the_end(sqlite_database, tmp_path, "freeze", timeout_s=2, max_deaths=50)
    assert job.state is State.SUCCEEDED
    assert job.deaths == job.attempt - 1 >= 1


def test_a_running_job_ends_soon_after_a_cancel(sqlite_database: Database, tmp_path: Path) -> None:
    add(JobStore(sqlite_database))
    service = real_service(sqlite_database, tmp_path, "train")
    try:
        wait_until(lambda: state(service.jobs) is State.RUNNING)
        service.jobs.request_cancel("job1", at=datetime.now(UTC))
        wait_until(lambda: state(service.jobs) is State.CANCELLED)
    finally:
        service.end()


def test_a_shutdown_ends_the_workers_and_the_next_server_goes_on(sqlite_database: Database, tmp_path: Path) -> None:
    add(JobStore(sqlite_database))
    service = real_service(sqlite_database, tmp_path, "train")
    try:
        wait_until(lambda: state(service.jobs) is State.RUNNING)
    finally:
        service.end()
    job = service.jobs.get("job1")
    assert (job.state, job.attempt, job.deaths) == (State.QUEUED, 1, 0)
    assert "the worker was stopped with its server" in service.jobs.events("job1")[-1].message
    later = real_service(sqlite_database, tmp_path, "finish")
    try:
        wait_until(lambda: state(later.jobs) is State.SUCCEEDED)
    finally:
        later.end()


@contextmanager
def unusable(database: Database, seconds: float) -> Iterator[None]:
    """The database is locked by another process, or stands still, for that long; then the block begins."""
    if database.postgresql:
        signal_postgres(database, signal.SIGSTOP)
        time.sleep(seconds)
        signal_postgres(database, signal.SIGCONT)
    else:
        connection = sqlite3.connect(str(database.engine.url.database), timeout=30, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.close()
    yield


def signal_postgres(database: Database, number: signal.Signals) -> None:
    """Signal the server and its children, which lead sessions of their own."""
    folder = Path(str(database.engine.url.query["host"]))
    server = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def test_a_database_that_cannot_be_used_for_longer_than_a_heartbeat_costs_no_worker(
    database: Database, tmp_path: Path
) -> None:
    add(JobStore(database))
    service = real_service(database, tmp_path, "train", timeout_s=4)
    try:
        wait_until(lambda: state(service.jobs) is State.RUNNING)
        with unusable(database, 6):
            before = service.jobs.get("job1").heartbeat_at
            wait_until(lambda: service.jobs.get("job1").heartbeat_at != before)
            time.sleep(4.5)
        job = service.jobs.get("job1")
        assert (job.state, job.attempt, job.deaths) == (State.RUNNING, 1, 0)
    finally:
        service.end()

"""Which job runs when, and what becomes of a job whose worker is gone: with a fake executor."""

import contextlib
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from kastor.domain.errors import Code, FailedPrecondition, KastorError, ResourceExhausted, Unavailable
from kastor.domain.job import JobError, State, TuningJob
from kastor.domain.worker_exit import ExitReason, ResourceRequest, WorkerExit
from kastor.services.scheduler import START_RETRY_S, Scheduler, classify_exit
from kastor.store.database import Database
from kastor.store.jobs import JobStore
from support.domain_values import after, make_job, make_model
from support.polling import wait_until

TIMEOUT_S = 10.0
CANCEL_TIMEOUT_S = 30.0


@dataclass
class FakeExecutor:
    """Notes what it is asked for; tests say which workers end, and how."""

    started: list[tuple[str, int]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    exits: list[WorkerExit] = field(default_factory=list)
    refusal: KastorError | None = None
    reason_at_shutdown: ExitReason = ExitReason.STOPPED
    resources: list[ResourceRequest] = field(default_factory=list)
    grace_s: float | None = None

    def start(self, job: TuningJob, resources: ResourceRequest) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.started.append((job.id, job.attempt))
        self.resources.append(resources)

    def exited(self) -> list[WorkerExit]:
        exits, self.exits = self.exits, []
        return exits

    def kill(self, job_id: str) -> None:
        self.killed.append(job_id)

    def shutdown(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.exits += [WorkerExit(job_id, attempt, self.reason_at_shutdown) for job_id, attempt in self.started]

    def end(self, reason: ExitReason, detail: str = "", *log_tail: str, job_id: str = "job1", attempt: int = 1) -> None:
        self.exits.append(WorkerExit(job_id, attempt, reason, detail, log_tail))


@dataclass
class Clock:
    """Stands still but where told."""

    seconds: float = 0.0

    def __call__(self) -> datetime:
        return after(self.seconds)


@pytest.fixture
def jobs(sqlite_database: Database) -> JobStore:
    return JobStore(sqlite_database)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(jobs: JobStore, executor: FakeExecutor, clock: Clock) -> Scheduler:
    return make_scheduler(jobs, executor, clock)


def make_scheduler(jobs: JobStore, executor: FakeExecutor, clock: Clock, max_running: int = 1) -> Scheduler:
    return Scheduler(
        jobs,
        executor,
        max_running=max_running,
        max_deaths=3,
        heartbeat_timeout_s=TIMEOUT_S,
        clock=clock,
        cancel_timeout_s=CANCEL_TIMEOUT_S,
        grace_s=5.0,
    )


def add(jobs: JobStore, job_id: str = "job1", seconds: float = 0) -> TuningJob:
    job = make_job(job_id, created_at=after(seconds))
    jobs.add(job, make_model(job))
    return job


def advance(scheduler: Scheduler, clock: Clock, seconds: float) -> None:
    """Let time pass as it does for a scheduler that runs: in small steps."""
    until = clock.seconds + seconds
    while clock.seconds < until:
        clock.seconds = min(clock.seconds + 1, until)
        scheduler.step()


def state(jobs: JobStore, job_id: str = "job1") -> State:
    return jobs.get(job_id).state


def test_jobs_start_in_the_order_they_came_while_there_is_room(
    jobs: JobStore, executor: FakeExecutor, clock: Clock
) -> None:
    for job_id, seconds in (("c", 3), ("a", 1), ("b", 2)):
        add(jobs, job_id, seconds)
    scheduler = make_scheduler(jobs, executor, clock, max_running=2)
    scheduler.step()
    scheduler.step()
    assert executor.started == [("a", 1), ("b", 1)]
    jobs.move(jobs.move(jobs.get("a"), State.RUNNING, at=clock()), State.SUCCEEDED, at=clock())
    executor.end(ExitReason.FINISHED, job_id="a")
    scheduler.step()
    assert executor.started == [("a", 1), ("b", 1), ("c", 1)]


def test_a_worker_that_said_how_its_job_ended_is_believed(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    failed = jobs.move(jobs.get("job1"), State.FAILED, at=clock(), error=JobError(Code.INVALID_ARGUMENT, "Bad row."))
    executor.end(ExitReason.FINISHED)
    scheduler.step()
    assert jobs.get("job1") == failed


@pytest.mark.parametrize("running", [False, True])
def test_a_job_whose_worker_died_runs_again(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler, running: bool
) -> None:
    add(jobs)
    scheduler.step()
    if running:
        jobs.move(jobs.get("job1"), State.RUNNING, at=clock())
    executor.end(ExitReason.CRASHED, "was ended by SIGSEGV")
    scheduler.step()
    job = jobs.get("job1")
    assert (job.state, job.attempt, job.deaths) == (State.PREPARING, 2, 1)
    assert executor.started == [("job1", 1), ("job1", 2)]


def test_a_job_whose_worker_died_too_often_fails_with_the_reason(
    jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler
) -> None:
    add(jobs)
    for attempt in (1, 2, 3):
        scheduler.step()
        executor.end(ExitReason.CRASHED, "ended with exit code 1", "Traceback …", "RuntimeError: boom", attempt=attempt)
    scheduler.step()
    job = jobs.get("job1")
    assert (job.state, job.deaths, len(executor.started)) == (State.FAILED, 3, 3)
    assert job.error == JobError(
        Code.INTERNAL,
        "The worker died 3 times without getting further; the last time it ended with exit code 1, saying "
        '"RuntimeError: boom": '
        "`kastor jobs logs job1` shows what it printed.",
    )
    warnings = [event.message for event in jobs.events("job1") if event.level == "warning"]
    assert (
        warnings
        == [
            'PREPARING -> QUEUED: the worker ended with exit code 1, saying "RuntimeError: boom"',
        ]
        * 2
    )


@pytest.mark.parametrize(
    ("reason", "detail", "said"),
    [
        (
            ExitReason.OUT_OF_MEMORY,
            "was evicted: its node ran out of memory",
            "was evicted: its node ran out of memory",
        ),
        (ExitReason.CRASHED, "was ended by SIGSEGV", 'was ended by SIGSEGV, saying "words"'),
        (ExitReason.KILLED, "was killed by its server", 'was killed by its server, saying "words"'),
        (ExitReason.FINISHED, "", 'ended without finishing the job, saying "words"'),
        (ExitReason.SUPERSEDED, "", 'ended without finishing the job, saying "words"'),
    ],
)
def test_each_way_to_die_has_its_reason(reason: ExitReason, detail: str, said: str) -> None:
    lost = classify_exit(WorkerExit("job1", 1, reason, detail, ("more", "words")))
    assert (lost.reason, lost.died) == (said, True)
    assert ("free memory" in lost.advice) is (reason is ExitReason.OUT_OF_MEMORY)


def test_each_start_takes_the_resources_that_workers_need(jobs: JobStore, executor: FakeExecutor, clock: Clock) -> None:
    add(jobs)
    needed = ResourceRequest(num_cores=2, memory_bytes=1 << 30)
    Scheduler(
        jobs, executor, max_running=1, max_deaths=3, heartbeat_timeout_s=TIMEOUT_S, clock=clock, resources=needed
    ).step()
    assert executor.resources == [needed]


def test_a_worker_stopped_in_order_is_no_death(jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler) -> None:
    add(jobs)
    for attempt in range(1, 6):
        scheduler.step()
        executor.end(ExitReason.STOPPED, attempt=attempt)
    scheduler.step()
    job = jobs.get("job1")
    assert (job.state, job.attempt, job.deaths) == (State.PREPARING, 6, 0)


@pytest.mark.parametrize("reason", list(ExitReason))
def test_a_job_that_was_to_be_cancelled_is_cancelled_once_its_worker_is_gone(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler, reason: ExitReason
) -> None:
    add(jobs)
    scheduler.step()
    jobs.request_cancel("job1", at=clock())
    scheduler.step()
    assert state(jobs) is State.CANCELLING
    executor.end(reason)
    scheduler.step()
    assert state(jobs) is State.CANCELLED
    assert executor.started == [("job1", 1)]


def test_a_silent_worker_is_killed_and_its_job_runs_again(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    advance(scheduler, clock, 6)
    jobs.heartbeat("job1", 1, at=clock())
    advance(scheduler, clock, TIMEOUT_S)
    assert executor.killed == []
    advance(scheduler, clock, 1)
    assert (executor.killed, executor.started) == (["job1"], [("job1", 1), ("job1", 2)])
    assert jobs.get("job1").deaths == 1
    assert any("silent for more than 10 s" in event.message for event in jobs.events("job1"))
    executor.end(
        ExitReason.OUT_OF_MEMORY, "was killed"
    )  # of the attempt that is over: says nothing about the present one
    scheduler.step()
    assert (jobs.get("job1").attempt, jobs.get("job1").deaths) == (2, 1)


def test_a_cancelled_job_with_a_silent_worker_is_cancelled(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    jobs.request_cancel("job1", at=clock())
    advance(scheduler, clock, TIMEOUT_S + 1)
    assert (state(jobs), executor.killed) == (State.CANCELLED, ["job1"])


def test_jobs_of_a_server_that_is_gone_are_taken_over_at_once(
    jobs: JobStore, executor: FakeExecutor, clock: Clock
) -> None:
    add(jobs)
    jobs.claim(at=clock(), max_active=1)
    clock.seconds = 3600
    make_scheduler(jobs, executor, clock).step()
    assert executor.started == [("job1", 2)]


def test_workers_are_not_blamed_for_a_pause_of_the_scheduler_itself(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    clock.seconds += 3600  # the laptop slept
    scheduler.step()
    advance(scheduler, clock, TIMEOUT_S / 2)
    jobs.heartbeat("job1", 1, at=clock())
    advance(scheduler, clock, TIMEOUT_S)
    assert executor.killed == []
    advance(scheduler, clock, 1)
    assert executor.killed == ["job1"]


def test_a_worker_that_cannot_be_started_fails_the_job_with_what_to_do(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    executor.refusal = FailedPrecondition("Cannot write the log /data/log.jsonl: Permission denied.")
    advance(scheduler, clock, 2 * START_RETRY_S + 2)
    assert jobs.get("job1").error == JobError(
        Code.FAILED_PRECONDITION,
        "The worker died 3 times without getting further; the last time it could not start: "
        "Cannot write the log /data/log.jsonl: Permission denied.",
    )


def test_a_full_disk_keeps_a_job_waiting_however_long_and_it_starts_once_there_is_room(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    executor.refusal = ResourceExhausted("No space left in /data; free some and tune again.")
    advance(scheduler, clock, 10 * START_RETRY_S)
    job = jobs.get("job1")
    assert (job.state, job.deaths) == (State.QUEUED, 0)
    assert job.attempt <= 11  # it is not tried four times a second
    assert "No space left in /data" in jobs.events("job1")[-1].message
    executor.refusal = None
    clock.seconds += START_RETRY_S
    scheduler.step()
    assert jobs.get("job1").state is State.PREPARING
    assert len(executor.started) == 1


def test_deaths_count_only_while_the_job_gets_no_further(
    jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler
) -> None:
    add(jobs)
    for attempt in range(1, 9):
        scheduler.step()
        if attempt % 2 == 0:
            jobs.forget_deaths("job1", attempt)  # as the worker does when it has kept a newer checkpoint
        executor.end(ExitReason.OUT_OF_MEMORY, "was killed", attempt=attempt)
    scheduler.step()
    job = jobs.get("job1")
    assert (job.state, job.attempt, job.deaths) == (State.PREPARING, 9, 1)


def test_a_worker_that_gave_up_on_the_database_is_no_death(
    jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler
) -> None:
    add(jobs)
    for attempt in range(1, 6):
        scheduler.step()
        executor.end(ExitReason.DATABASE_UNREACHABLE, attempt=attempt)
    scheduler.step()
    job = jobs.get("job1")
    assert (job.state, job.attempt, job.deaths) == (State.PREPARING, 6, 0)


def test_power_cuts_are_nobodys_death(jobs: JobStore, executor: FakeExecutor, clock: Clock) -> None:
    add(jobs)
    for attempt in range(1, 6):
        make_scheduler(jobs, executor, clock).step()
        assert executor.started[-1] == ("job1", attempt)
        clock.seconds += 3600
    job = jobs.get("job1")
    assert (job.state, job.deaths) == (State.PREPARING, 0)


def test_a_job_found_before_its_silence_was_long_enough_is_taken_over_without_a_death_as_well(
    jobs: JobStore, executor: FakeExecutor, clock: Clock
) -> None:
    add(jobs)
    jobs.claim(at=clock(), max_active=1)
    clock.seconds = 3
    advance(make_scheduler(jobs, executor, clock), clock, TIMEOUT_S)
    job = jobs.get("job1")
    assert (executor.started, job.attempt, job.deaths) == ([("job1", 2)], 2, 0)


class Locked(JobStore):
    """A database that takes no writes while `locked`; reads go on, as with a SQLite that another process locks."""

    locked = False

    def check_writable(self, job_id: str) -> None:
        self._refuse()
        super().check_writable(job_id)

    def move(self, *given: Any, **named: Any) -> TuningJob:
        self._refuse()
        return super().move(*given, **named)

    def _refuse(self) -> None:
        if self.locked:
            raise Unavailable("The database was busy for 30 s; try again.")


def test_a_database_that_takes_no_writes_is_not_blamed_on_the_worker(
    sqlite_database: Database, executor: FakeExecutor, clock: Clock
) -> None:
    jobs = Locked(sqlite_database)
    add(jobs)
    scheduler = make_scheduler(jobs, executor, clock)
    scheduler.step()
    jobs.locked = True
    for _ in range(60):
        clock.seconds += 1
        with contextlib.suppress(Unavailable):
            scheduler.step()
    assert executor.killed == []
    jobs.locked = False
    advance(scheduler, clock, TIMEOUT_S / 4)
    jobs.heartbeat("job1", 1, at=clock())
    advance(scheduler, clock, TIMEOUT_S)
    assert executor.killed == []
    advance(scheduler, clock, 1)  # from now on it is the worker that is silent
    assert executor.killed == ["job1"]
    assert jobs.get("job1").deaths == 1


def test_a_cancel_that_its_worker_does_not_heed_ends_the_worker_after_the_limit(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    jobs.request_cancel("job1", at=clock())
    for _ in range(int(CANCEL_TIMEOUT_S)):
        advance(scheduler, clock, 1)
        assert jobs.heartbeat("job1", 1, at=clock()) is State.CANCELLING  # it beats, and is stuck in a step
    assert executor.killed == []
    advance(scheduler, clock, 1)
    assert (state(jobs), executor.killed) == (State.CANCELLED, ["job1"])
    assert "did not stop within 30 s of the cancel" in jobs.events("job1")[-1].message


def test_what_fails_in_every_step_is_told_once_a_minute_and_a_known_reason_without_a_traceback(
    sqlite_database: Database, executor: FakeExecutor, clock: Clock
) -> None:
    class Away(JobStore):
        calls = 0

        def claim(self, **given: object) -> TuningJob | None:
            self.calls += 1
            raise Unavailable("The database cannot be used.")

    jobs, stop, wake = Away(sqlite_database), threading.Event(), threading.Event()
    loop = threading.Thread(target=make_scheduler(jobs, executor, clock).run, args=(stop, wake))
    with capture_logs() as logs:
        loop.start()
        wait_until(lambda: wake.set() or jobs.calls > 20)
        stop.set()
        loop.join(10)
    assert [line for line in logs if line["event"] == "scheduler_step_failed"] == [
        {"event": "scheduler_step_failed", "reason": "The database cannot be used.", "log_level": "error"}
    ]


def test_a_job_deleted_under_its_worker_is_forgotten(
    jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler
) -> None:
    add(jobs)
    scheduler.step()
    jobs.delete("job1")
    executor.end(ExitReason.OUT_OF_MEMORY, "was killed")
    scheduler.step()
    assert jobs.page(limit=9) == []


class CancelledMeanwhile(JobStore):
    """A store in which a cancel comes in just after the scheduler read the job."""

    def get(self, job_id: str) -> TuningJob:
        job = super().get(job_id)
        self.request_cancel(job_id, at=after(1))
        return job


def test_a_cancel_that_comes_in_while_a_death_is_settled_wins(
    sqlite_database: Database, jobs: JobStore, executor: FakeExecutor, clock: Clock
) -> None:
    add(jobs)
    scheduler = make_scheduler(CancelledMeanwhile(sqlite_database), executor, clock)
    scheduler.step()
    executor.end(ExitReason.CRASHED, "ended with exit code 1")
    scheduler.step()
    assert state(jobs) is State.CANCELLED


class OftenAway(JobStore):
    """A store whose database cannot be reached every other time."""

    calls = 0

    def get(self, job_id: str) -> TuningJob:
        self.calls += 1
        if self.calls % 2:
            raise Unavailable("The database cannot be used.")
        return super().get(job_id)


def test_an_exit_is_settled_though_the_database_was_away(
    sqlite_database: Database, jobs: JobStore, executor: FakeExecutor, clock: Clock
) -> None:
    add(jobs)
    scheduler = make_scheduler(OftenAway(sqlite_database), executor, clock)
    scheduler.step()
    executor.end(ExitReason.CRASHED, "ended with exit code 1")
    with pytest.raises(Unavailable):
        scheduler.step()
    scheduler.step()
    assert (jobs.get("job1").attempt, jobs.get("job1").deaths) == (2, 1)


def test_the_loop_outlives_a_step_that_failed(sqlite_database: Database, executor: FakeExecutor, clock: Clock) -> None:
    jobs, stop, wake = OftenAway(sqlite_database), threading.Event(), threading.Event()
    add(jobs)
    loop = threading.Thread(target=make_scheduler(jobs, executor, clock).run, args=(stop, wake))
    with capture_logs() as logs:
        loop.start()
        wait_until(lambda: executor.started == [("job1", 1)])
        executor.end(ExitReason.CRASHED, "ended with exit code 1")
        wake.set()
        wait_until(lambda: executor.started == [("job1", 1), ("job1", 2)])
        stop.set()
        wake.set()
        loop.join(10)
    assert not loop.is_alive()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["scheduler_step_failed"]


def test_what_it_does_is_logged_with_the_job(jobs: JobStore, executor: FakeExecutor, scheduler: Scheduler) -> None:
    add(jobs)
    with capture_logs() as logs:
        scheduler.step()
        executor.end(ExitReason.CRASHED, "ended with exit code 1")
        scheduler.step()
    assert [(line["event"], line["job_id"], line["attempt"]) for line in logs] == [
        ("worker_started", "job1", 1),
        ("worker_ended", "job1", 1),
        ("worker_lost", "job1", 1),
        ("worker_started", "job1", 2),
    ]


@pytest.mark.parametrize("reason", list(ExitReason))
def test_a_shutdown_puts_jobs_back_into_the_queue_without_counting_a_death(
    jobs: JobStore, executor: FakeExecutor, clock: Clock, reason: ExitReason
) -> None:
    scheduler = make_scheduler(jobs, executor, clock, max_running=2)
    for job_id in ("job1", "job2", "job3"):
        add(jobs, job_id)
    scheduler.step()
    jobs.request_cancel("job2", at=clock())
    executor.reason_at_shutdown = reason
    scheduler.shutdown()
    assert executor.grace_s == 5.0
    assert [state(jobs, f"job{n}") for n in (1, 2, 3)] == [State.QUEUED, State.CANCELLED, State.QUEUED]
    assert jobs.get("job1").deaths == 0

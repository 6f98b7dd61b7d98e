"""The job table, on both databases."""

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from sqlalchemy import select, update

from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import AlreadyExists, Code, FailedPrecondition, NotFound, Superseded
from kastor.domain.job import ACTIVE, MOVES, TERMINAL, JobError, JobEvent, State, TuningJob
from kastor.store import tables
from kastor.store.database import Database, open_database
from kastor.store.jobs import JobStore
from support.domain_values import START, after, make_job, make_model, make_snapshot

FAILURE = JobError(Code.INTERNAL, "It broke; mend it.")


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def add(jobs: JobStore, job_id: str = "job1", **changes: object) -> TuningJob:
    job = make_job(job_id, **changes)
    jobs.add(job, make_model(job))
    return job


def claim(jobs: JobStore, at: datetime = START, max_active: int = 64) -> TuningJob:
    job = jobs.claim(at=at, max_active=max_active)
    assert job is not None
    return job


def bring_to(jobs: JobStore, state: State, job_id: str = "job1") -> TuningJob:
    """A job that came to `state` by real moves."""
    job = add(jobs, job_id)
    if state is State.QUEUED:
        return job
    job = claim(jobs)
    path = {
        State.PREPARING: [],
        State.CANCELLED: [State.CANCELLING, State.CANCELLED],
        State.CANCELLING: [State.CANCELLING],
    }
    for step in path.get(state, [State.RUNNING] if state is State.RUNNING else [State.RUNNING, state]):
        job = jobs.move(job, step, at=START, error=FAILURE if step is State.FAILED else None)
    return job


def test_a_job_comes_back_as_it_was_kept(jobs: JobStore) -> None:
    job = add(
        jobs,
        attempt=2,
        deaths=1,
        started_at=after(1),
        finished_at=after(2),
        heartbeat_at=after(3),
        completed_steps=4,
        error=FAILURE,
        state=State.FAILED,
    )
    assert jobs.get("job1") == job


def test_a_job_of_before_the_choice_teaches_the_last_turn(jobs: JobStore, database: Database) -> None:
    job = add(jobs)
    assert job.spec.supervise is SupervisedTurns.ALL
    with database.write() as connection:
        spec = connection.execute(select(tables.jobs.c.spec)).scalar_one()
        connection.execute(update(tables.jobs).values(spec={k: v for k, v in spec.items() if k != "supervise"}))
    assert jobs.get(job.id).spec == replace(job.spec, supervise=SupervisedTurns.LAST)


def test_moments_are_utc_whatever_zone_they_came_in(jobs: JobStore) -> None:
    add(jobs, created_at=START.astimezone(timezone(timedelta(hours=5, minutes=30))))
    created_at = jobs.get("job1").created_at
    assert (created_at, created_at.utcoffset()) == (START, timedelta(0))


def test_a_naive_moment_is_refused(jobs: JobStore) -> None:
    with pytest.raises(Exception, match="naive datetime"):
        add(jobs, created_at=START.replace(tzinfo=None))


def test_a_taken_model_id_is_refused_and_leaves_no_job(jobs: JobStore) -> None:
    first = add(jobs)
    second = make_job("job2")
    with pytest.raises(AlreadyExists, match=r"model-of-job1 already exists"):
        jobs.add(second, make_model(second, id=first.tuned_model_id))
    with pytest.raises(NotFound, match="job2"):
        jobs.get("job2")


def test_an_unknown_job_is_not_found(jobs: JobStore) -> None:
    for ask in (jobs.get, lambda job_id: jobs.request_cancel(job_id, at=START)):
        with pytest.raises(NotFound, match="Job nobody does not exist"):
            ask("nobody")
    with pytest.raises(NotFound):
        jobs.add_event("nobody", JobEvent(START, "info", "hello"))


def test_pages_are_newest_first_and_stable_where_moments_are_equal(jobs: JobStore) -> None:
    for job_id, seconds in (("c", 1), ("a", 1), ("b", 1), ("y", 0), ("x", 2)):
        add(jobs, job_id, created_at=after(seconds))
    pages, before = [], None
    while page := jobs.page(limit=2, before=before):
        pages.append([job.id for job in page])
        before = (page[-1].created_at, page[-1].id)
    assert pages == [["x", "c"], ["b", "a"], ["y"]]


def test_claims_take_the_oldest_first(jobs: JobStore) -> None:
    for job_id, seconds in (("b", 1), ("c", 2), ("a", 1)):
        add(jobs, job_id, created_at=after(seconds))
    assert [claim(jobs).id for _ in range(3)] == ["a", "b", "c"]
    assert jobs.claim(at=START, max_active=64) is None


def test_a_claim_is_the_domains_move_with_the_next_attempt(jobs: JobStore) -> None:
    queued = add(jobs)
    first = claim(jobs, at=after(5))
    assert first == replace(queued.moved_to(State.PREPARING, at=after(5)), attempt=1)
    again = jobs.move(first, State.QUEUED, at=after(6))
    assert claim(jobs, at=after(7)) == replace(again.moved_to(State.PREPARING, at=after(7)), attempt=2)


@pytest.mark.parametrize("busy", sorted(ACTIVE))
def test_no_claim_succeeds_while_as_many_jobs_are_active_as_may_be(jobs: JobStore, busy: State) -> None:
    running = bring_to(jobs, busy, "first")
    add(jobs, "second")
    assert jobs.claim(at=START, max_active=1) is None
    assert jobs.get("second").attempt == 0
    jobs.move(running, State.FAILED, at=START, error=FAILURE)
    assert claim(jobs, max_active=1).id == "second"


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_reached(jobs: JobStore, state: State) -> None:
    assert bring_to(jobs, state).state is state
    assert jobs.get("job1").state is state
    assert jobs.counts() == dict.fromkeys(State, 0) | {state: 1}


@pytest.mark.parametrize("state", State)
def test_only_the_moves_of_the_table_are_made(jobs: JobStore, state: State) -> None:
    job = bring_to(jobs, state)
    for to in set(State) - MOVES[state]:
        with pytest.raises(FailedPrecondition, match=f"is {state}; it cannot become {to}"):
            jobs.move(job, to, at=START)
    assert jobs.get("job1") == job
    assert state.terminal is (state in TERMINAL) is (not MOVES[state])


def test_a_move_from_a_state_that_is_past_loses(jobs: JobStore) -> None:
    seen = bring_to(jobs, State.RUNNING)
    jobs.move(seen, State.SUCCEEDED, at=after(1))
    with pytest.raises(Superseded, match="no longer RUNNING in attempt 1"):
        jobs.move(seen, State.FAILED, at=after(2), error=FAILURE)
    assert jobs.get("job1").state is State.SUCCEEDED
    assert jobs.get("job1").error is None


def test_a_move_for_an_older_attempt_loses(jobs: JobStore) -> None:
    add(jobs)
    first = claim(jobs)
    jobs.move(first, State.QUEUED, at=after(1), died=True)
    second = claim(jobs, at=after(2))
    with pytest.raises(Superseded, match="attempt 1"):
        jobs.move(first, State.RUNNING, at=after(3))
    assert jobs.get("job1") == second


def test_a_move_keeps_what_others_wrote_since_the_job_was_read(jobs: JobStore) -> None:
    running = bring_to(jobs, State.RUNNING)
    jobs.record_step("job1", 1, make_snapshot(3))
    moved = jobs.move(running, State.QUEUED, at=after(9), died=True)
    assert (moved.completed_steps, moved.deaths, moved.heartbeat_at) == (3, 1, None)
    assert moved == jobs.get("job1")


def test_each_move_is_an_event_that_says_why(jobs: JobStore) -> None:
    add(jobs)
    job = jobs.move(claim(jobs, at=after(1)), State.QUEUED, at=after(2), died=True, note="the worker was killed")
    jobs.add_event("job1", JobEvent(after(3), "info", "A word in between."))
    jobs.move(job, State.FAILED, at=after(4), error=FAILURE)
    assert jobs.events("job1") == [
        JobEvent(START, "info", "QUEUED"),
        JobEvent(after(1), "info", "QUEUED -> PREPARING (attempt 1)"),
        JobEvent(after(2), "warning", "PREPARING -> QUEUED: the worker was killed"),
        JobEvent(after(3), "info", "A word in between."),
        JobEvent(after(4), "error", "QUEUED -> FAILED: It broke; mend it."),
    ]
    assert jobs.events("nobody") == []


@pytest.mark.parametrize("state", State)
def test_a_request_to_cancel_asks_whoever_has_the_job_and_can_be_repeated(jobs: JobStore, state: State) -> None:
    job = bring_to(jobs, state)
    expected = {
        State.QUEUED: State.CANCELLED,
        State.PREPARING: State.CANCELLING,
        State.RUNNING: State.CANCELLING,
    }.get(state, state)
    first = jobs.request_cancel("job1", at=after(1))
    assert first.state is expected
    assert (first == job) is (expected is state)
    events = jobs.events("job1")
    assert jobs.request_cancel("job1", at=after(2)) == first
    assert jobs.events("job1") == events


def test_a_heartbeat_tells_the_worker_of_a_cancel(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    assert jobs.heartbeat("job1", 1, at=after(4)) is State.RUNNING
    assert jobs.get("job1").heartbeat_at == after(4)
    jobs.request_cancel("job1", at=after(5))
    assert jobs.heartbeat("job1", 1, at=after(6)) is State.CANCELLING
    assert jobs.record_step("job1", 1, make_snapshot()) is State.CANCELLING


@pytest.mark.parametrize("state", sorted(set(State) - ACTIVE))
def test_a_worker_whose_job_was_taken_away_may_not_write(jobs: JobStore, state: State) -> None:
    bring_to(jobs, state)
    job = jobs.get("job1")
    for write in (
        lambda: jobs.heartbeat("job1", job.attempt, at=after(5)),
        lambda: jobs.record_step("job1", job.attempt, make_snapshot()),
        lambda: jobs.rewind("job1", job.attempt, 0),
    ):
        with pytest.raises(Superseded, match="no longer owns job job1"):
            write()
    assert (jobs.get("job1"), jobs.snapshots("job1")) == (job, [])


def test_a_worker_of_an_older_attempt_may_not_write(jobs: JobStore) -> None:
    add(jobs)
    jobs.move(claim(jobs), State.QUEUED, at=after(1), died=True)
    present = claim(jobs, at=after(2))
    for write in (
        lambda: jobs.heartbeat("job1", 1, at=after(5)),
        lambda: jobs.record_step("job1", 1, make_snapshot()),
        lambda: jobs.rewind("job1", 1, 0),
    ):
        with pytest.raises(Superseded, match="Attempt 1"):
            write()
    assert (jobs.get("job1"), jobs.snapshots("job1")) == (present, [])


def test_a_step_is_kept_with_its_learning_rate_and_gradient_norm(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    step = make_snapshot(1, learning_rate=2e-4, grad_norm=0.75)
    jobs.record_step("job1", 1, step)
    (found,) = jobs.snapshots("job1")
    assert (found.learning_rate, found.grad_norm) == (2e-4, 0.75)
    assert found == step


def test_a_step_is_kept_with_the_progress_and_counts_as_a_heartbeat(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    steps = [make_snapshot(step) for step in (1, 2, 3)]
    assert {jobs.record_step("job1", 1, step) for step in steps} == {State.RUNNING}
    job = jobs.get("job1")
    assert jobs.snapshots("job1") == steps
    assert (job.completed_steps, job.heartbeat_at) == (3, steps[-1].computed_at)


def test_a_step_done_again_replaces_the_earlier_try(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    jobs.record_step("job1", 1, make_snapshot(1, mean_loss=9.0))
    jobs.record_step("job1", 1, make_snapshot(1, mean_loss=1.0))
    assert [step.mean_loss for step in jobs.snapshots("job1")] == [1.0]


def test_a_loss_that_is_no_number_can_be_kept(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    jobs.record_step("job1", 1, make_snapshot(1, mean_loss=float("nan")))
    jobs.record_step("job1", 1, make_snapshot(2, mean_loss=float("inf")))
    assert [str(step.mean_loss) for step in jobs.snapshots("job1")] == ["nan", "inf"]


def test_the_steps_of_all_jobs_can_be_counted(jobs: JobStore) -> None:
    assert jobs.total_steps() == 0
    for job_id, step in (("job1", 3), ("job2", 4)):
        bring_to(jobs, State.RUNNING, job_id)
        jobs.record_step(job_id, 1, make_snapshot(step))
    assert jobs.total_steps() == 7


def test_rewinding_forgets_the_steps_after_the_checkpoint(jobs: JobStore) -> None:
    bring_to(jobs, State.RUNNING)
    for step in range(1, 6):
        jobs.record_step("job1", 1, make_snapshot(step))
    jobs.rewind("job1", 1, 3)
    assert [step.step for step in jobs.snapshots("job1")] == [1, 2, 3]
    assert jobs.get("job1").completed_steps == 3


def test_silent_are_active_jobs_with_an_old_heartbeat(jobs: JobStore) -> None:
    add(jobs, "queued", created_at=after(-1000))
    jobs.request_cancel("queued", at=START)
    for job_id in ("old", "older", "fresh", "stopping", "done"):
        add(jobs, job_id)
        claim(jobs)
    jobs.heartbeat("fresh", 1, at=after(8))
    jobs.heartbeat("old", 1, at=after(2))
    jobs.request_cancel("stopping", at=after(1))
    jobs.move(jobs.get("done"), State.FAILED, at=after(1), error=FAILURE)
    assert {job.id for job in jobs.stale(before=after(5))} == {"old", "older", "stopping"}
    assert {job.id for job in jobs.stale(before=after(2))} == {"older", "stopping"}
    assert jobs.stale(before=START) == []


def test_many_threads_that_claim_never_share_a_job(jobs: JobStore) -> None:
    for number in range(24):
        add(jobs, f"job{number:02}", created_at=after(number))
    start = threading.Barrier(8)

    def claim_until_none() -> list[str]:
        start.wait()
        claimed = []
        while (job := jobs.claim(at=START, max_active=1000)) is not None:
            claimed.append(job.id)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        claims = [future.result() for future in [pool.submit(claim_until_none) for _ in range(8)]]
    assert Counter(job_id for claimed in claims for job_id in claimed) == {f"job{n:02}": 1 for n in range(24)}
    assert all(earlier < later for claimed in claims for earlier, later in pairwise(claimed))


def test_many_threads_that_claim_never_exceed_the_bound(jobs: JobStore) -> None:
    for number in range(16):
        add(jobs, f"job{number:02}")
    start = threading.Barrier(8)

    def claim_once() -> bool:
        start.wait()
        return jobs.claim(at=START, max_active=3) is not None

    with ThreadPoolExecutor(8) as pool:
        claims = [future.result() for future in [pool.submit(claim_once) for _ in range(8)]]
    assert (sum(claims), jobs.counts()[State.PREPARING]) == (3, 3)


def work_in_a_process(url: str, worker: int) -> list[str]:
    """Claim, beat, record and finish jobs until none is left: what a server and its workers write all day."""
    database = open_database(url)
    jobs = JobStore(database)
    done = []
    while (job := jobs.claim(at=START, max_active=1000)) is not None:
        jobs.heartbeat(job.id, job.attempt, at=START)
        job = jobs.move(job, State.RUNNING, at=START)
        for step in (1, 2, 3):
            jobs.record_step(job.id, job.attempt, make_snapshot(step))
        jobs.add_event(job.id, JobEvent(START, "info", f"done by {worker}"))
        jobs.move(job, State.SUCCEEDED, at=START)
        done.append(job.id)
    database.close()
    return done


def test_many_processes_write_at_once_without_sharing_a_job_or_finding_it_locked(
    database_url: str, jobs: JobStore
) -> None:
    for number in range(40):
        add(jobs, f"job{number:02}")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        done = pool.starmap(work_in_a_process, [(database_url, worker) for worker in range(3)], chunksize=1)
        pool.close()
        pool.join()
    assert Counter(job_id for ids in done for job_id in ids) == {f"job{n:02}": 1 for n in range(40)}
    assert jobs.counts()[State.SUCCEEDED] == 40
    assert all(len(jobs.snapshots(f"job{n:02}")) == 3 for n in range(40))


def test_deaths_are_counted_anew_once_an_attempt_begins_further_than_the_one_before(jobs: JobStore) -> None:
    add(jobs)
    counted = []
    for step in (0, 0, 4, 4, 9):
        job = jobs.claim(at=after(1), max_active=1)
        assert job is not None
        jobs.rewind(job.id, job.attempt, step)
        counted.append(jobs.get(job.id).deaths)
        jobs.move(jobs.get(job.id), State.QUEUED, at=after(2), died=True)
    assert counted == [0, 1, 0, 1, 0]

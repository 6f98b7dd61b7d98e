"""The table of tuned models, on both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from kastor.domain.errors import Code, NotFound
from kastor.domain.job import JobError, JobEvent, State
from kastor.domain.permission import Principal
from kastor.domain.tuned_model import TunedModel
from kastor.store.database import Database
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore
from kastor.store.tables import metadata
from support.domain_values import START, after, make_job, make_model, make_snapshot

OPERATOR = Principal("root@example.org", operator=True)


@pytest.fixture
def models(database: Database) -> ModelStore:
    return ModelStore(database)


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def add(jobs: JobStore, job_id: str = "job1", seconds: float = 0, **changes: object) -> TunedModel:
    job = make_job(job_id, created_at=after(seconds), updated_at=after(seconds))
    model = make_model(job, **changes)
    jobs.add(job, model)
    return model


def test_a_model_comes_back_as_it_was_kept(jobs: JobStore, models: ModelStore) -> None:
    bare = add(jobs, "job1")
    full = add(
        jobs,
        "job2",
        display_name="Zählen ≥ 1",
        description="d",
        temperature=0.0,
        top_p=0.95,
        top_k=40,
        updated_at=after(3),
    )
    assert models.get(bare.id) == bare
    assert models.get(full.id) == full


def test_an_unknown_model_is_not_found(models: ModelStore) -> None:
    nobody = make_model(make_job(), id="nobody")
    for ask in (
        lambda: models.get("nobody"),
        lambda: models.for_caller("nobody", OPERATOR),
        lambda: models.release(nobody),
        lambda: models.update(nobody, {"top_k": 1}, at=START),
    ):
        with pytest.raises(NotFound, match=r"Tuned model nobody does not exist\."):
            ask()


def test_pages_hold_models_with_their_jobs_newest_first(jobs: JobStore, models: ModelStore) -> None:
    for job_id, seconds in (("c", 1), ("a", 1), ("b", 1), ("y", 0), ("x", 2)):
        add(jobs, job_id, seconds)
    claimed = jobs.claim(at=after(9), max_active=1)
    pages, before = [], None
    while page := models.page(OPERATOR, limit=2, before=before):
        pages.append(page)
        before = (page[-1][0].created_at, page[-1][0].id)
    flat = [pair for page in pages for pair in page]
    assert [[job.id for _, job in page] for page in pages] == [["x", "c"], ["b", "a"], ["y"]]
    assert flat == [(models.get(model.id), jobs.get(model.job_id)) for model, _ in flat]
    assert flat[-1][1] == claimed


def test_a_page_goes_on_where_the_last_ended_though_that_model_was_deleted(jobs: JobStore, models: ModelStore) -> None:
    first, second = add(jobs, "new", 1), add(jobs, "old", 0)
    models.release(first)
    assert [model for model, _ in models.page(OPERATOR, limit=5, before=(first.created_at, first.id))] == [second]


def test_an_update_is_kept(jobs: JobStore, models: ModelStore) -> None:
    present, other = add(jobs, temperature=0.5), add(jobs, "job2")
    change = {"display_name": "new name", "temperature": None, "top_k": 3}
    changed = replace(present, **change, updated_at=after(60))
    assert models.update(present, change, at=after(60)) == changed
    assert models.get(present.id) == changed
    assert models.get(other.id) == other


def test_an_update_leaves_the_columns_alone_that_somebody_else_changed_meanwhile(
    jobs: JobStore, models: ModelStore
) -> None:
    seen_by_both = add(jobs)
    models.update(seen_by_both, {"description": "d"}, at=after(1))
    changed = models.update(seen_by_both, {"top_k": 3}, at=after(2))
    assert (changed.description, changed.top_k) == ("d", 3)


def test_whoever_saw_a_deleted_model_changes_none_that_took_its_name(jobs: JobStore, models: ModelStore) -> None:
    old = add(jobs, "job1", id="numbers")
    models.release(old)
    new = add(jobs, "job2", id="numbers", owner="bob@example.org")
    for act in (lambda: models.update(old, {"top_k": 1}, at=START), lambda: models.release(old)):
        with pytest.raises(NotFound):
            act()
    assert models.get("numbers") == new


def test_deleting_a_model_leaves_nothing_of_it_and_all_of_the_others(
    database: Database, jobs: JobStore, models: ModelStore
) -> None:
    gone, kept = add(jobs, "gone"), add(jobs, "kept", 1)
    for job_id in ("gone", "kept"):
        jobs.claim(at=START, max_active=9)
        jobs.record_step(job_id, 1, make_snapshot())
        jobs.add_event(job_id, JobEvent(START, "info", "hello"))
    models.release(gone)
    with pytest.raises(NotFound):
        models.get(gone.id)
    assert jobs.get("gone").state is State.PREPARING  # its worker may still be at it
    jobs.delete("gone")
    jobs.delete("gone")
    with pytest.raises(NotFound):
        jobs.get("gone")
    with database.read() as connection:
        rows = {
            name: connection.execute(select(func.count()).select_from(t)).scalar()
            for name, t in metadata.tables.items()
        }
    assert {name: count for name, count in rows.items() if count} == {
        "jobs": 1,
        "tuned_models": 1,
        "snapshots": 1,
        "events": 3,
    }
    assert models.get(kept.id) == kept


def test_a_job_is_abandoned_once_it_has_ended_and_its_model_was_released(jobs: JobStore, models: ModelStore) -> None:
    for number, job_id in enumerate(("running", "ended", "kept")):
        add(jobs, job_id, number)
    running, ended, kept = (jobs.claim(at=after(9), max_active=9) for _ in range(3))
    assert running is not None and ended is not None and kept is not None
    for job in (ended, kept):
        jobs.move(job, State.FAILED, at=after(10), error=JobError(Code.INTERNAL, "failed"))
    for job in (running, ended):
        models.release(models.get(job.tuned_model_id))
    assert jobs.orphaned() == ["ended"]


def test_steps_are_counted_over_all_kept_jobs(jobs: JobStore) -> None:
    assert jobs.total_steps() == 0
    for number, job_id in enumerate(("one", "two")):
        add(jobs, job_id, number)
        jobs.claim(at=START, max_active=9)
        jobs.record_step(job_id, 1, make_snapshot(number + 3))
    assert jobs.total_steps() == 7


def test_the_name_of_a_deleted_model_can_be_used_again(jobs: JobStore, models: ModelStore) -> None:
    old = add(jobs, "job1", id="numbers")
    models.release(old)
    new = add(jobs, "job2", id="numbers")
    assert models.get("numbers") == new

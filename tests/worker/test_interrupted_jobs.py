"""Faults from outside in the middle of a job: it goes on from where it was, and ends with the same bits."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import torch

from kastor.domain.job import State, StepMetrics, TuningJob
from kastor.domain.permission import Principal
from kastor.executors.local import LocalExecutor
from kastor.models.catalog import load_catalog
from kastor.models.download import ensure_local
from kastor.runtime import atomic
from kastor.services.tuning import TuningService
from kastor.settings import environment
from kastor.store.blobs.checkpoint_folder import CheckpointFolder
from kastor.store.blobs.manifests import STATE_FILE
from kastor.store.models import ModelStore
from kastor.worker import run
from kastor.worker.outcome import run_job
from kastor.worker.sql_lease import SqlJobLease
from support.polling import wait_until
from support.small_disk import fill, needs_mount, small_disk
from support.worker_environment import Place, adapter, run_until, scheduler_of


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def events(place: Place, job_id: str) -> list[str]:
    return [event.message for event in place.jobs.events(job_id)]


def assert_same_bits(place: Place, one: str, other: str) -> None:
    first, second = adapter(place, one), adapter(place, other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [[s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in (one, other)]
    assert losses[0] == losses[1]


class ToldToStop(SqlJobLease):
    """A worker's hold on its job that is told to stop after a step, as by SIGTERM."""

    def __init__(self, place: Place, job: TuningJob, step: int) -> None:
        super().__init__(place.jobs, job, beat_every_s=60)
        self._step = step

    def record(self, snapshot: StepMetrics) -> None:
        super().record(snapshot)
        if snapshot.step == self._step:
            self._stopped.set()


def stop_after(place: Place, job_id: str, step: int) -> None:
    """Let a worker come to this step and end it in order, so that its checkpoint lies there."""
    job = place.claim()
    assert job.id == job_id
    assert place.work(job, ToldToStop(place, job, step)) == os.EX_TEMPFAIL
    assert place.jobs.get(job_id).completed_steps == step


def test_killed_again_and_again_a_job_that_gets_further_ends_with_the_same_bits(place: Place) -> None:
    place.add("through", num_epochs=12)
    assert place.work(place.claim()) == 0
    place.add("killed", num_epochs=12)
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = scheduler_of(place, executor)  # which lets a job die three times
    kills, folder = 0, CheckpointFolder(place.blobs.checkpoints("killed"))
    try:
        while kills < 3:
            before = max((checkpoint.step for checkpoint in folder.all()), default=0)
            scheduler.step()
            deadline = time.monotonic() + 90
            while not any(checkpoint.step > before for checkpoint in folder.all()):
                assert time.monotonic() < deadline
                assert place.jobs.get("killed").state.active, place.jobs.get("killed").error
                time.sleep(0.002)
            executor.kill("killed")
            kills += 1
        run_until(place, scheduler, "killed")
    finally:
        scheduler.shutdown()
    job = place.jobs.get("killed")
    assert job.state is State.SUCCEEDED, job.error
    assert job.attempt == kills + 1
    assert_same_bits(place, "through", "killed")


def test_a_damaged_newest_checkpoint_costs_its_steps_only_and_the_events_say_so(place: Place) -> None:
    place.add("through", num_epochs=4)
    assert place.work(place.claim()) == 0
    place.add("damaged", num_epochs=4)
    stop_after(place, "damaged", 7)
    checkpoints = CheckpointFolder(place.blobs.checkpoints("damaged")).all()
    assert [c.step for c in checkpoints if c.is_resumable] == [6, 7]
    file = checkpoints[-1].folder / STATE_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert place.work(place.claim()) == 0
    assert place.jobs.get("damaged").state is State.SUCCEEDED
    said = events(place, "damaged")
    assert "the checkpoint of step 7 is damaged and not used; check the disk" in said
    assert "going on from the checkpoint of step 6" in said
    assert_same_bits(place, "through", "damaged")


def test_with_all_its_checkpoints_damaged_a_job_begins_anew_and_ends_with_the_same_bits(place: Place) -> None:
    place.add("through", num_epochs=4)
    assert place.work(place.claim()) == 0
    place.add("damaged", num_epochs=4)
    stop_after(place, "damaged", 7)
    for checkpoint in CheckpointFolder(place.blobs.checkpoints("damaged")).all():
        (checkpoint.folder / "adapter_model.safetensors").write_bytes(b"")
    assert place.work(place.claim()) == 0
    assert place.jobs.get("damaged").state is State.SUCCEEDED
    assert_same_bits(place, "through", "damaged")


def test_a_disk_full_at_a_checkpoint_and_at_publishing_makes_the_job_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add("through")
    assert place.work(place.claim()) == 0
    place.add("full")
    refused = iter([True, True] + [False] * 15 + [True, True] + [False] * 99)
    sync = atomic.fsync

    def full_for_a_while(path: Path) -> None:
        if path.is_file() and next(refused):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "fsync", full_for_a_while)
    monkeypatch.setattr(run, "ROOM_WAIT_S", 0.05)
    assert place.work(place.claim()) == 0
    job = place.jobs.get("full")
    assert (job.state, job.attempt, job.deaths) == (State.SUCCEEDED, 1, 0)
    assert sum("the disk is full" in said for said in events(place, "full")) == 2
    assert_same_bits(place, "through", "full")


def test_a_cancel_is_obeyed_while_a_job_waits_for_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        place.jobs.request_cancel("job1", at=datetime.now(UTC))
        raise OSError(errno.ENOSPC, "No space left on device")

    place.add()
    monkeypatch.setattr(atomic, "fsync", full)
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.CANCELLED


def test_told_to_stop_while_the_end_of_an_epoch_waits_for_room_it_is_kept_as_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add()
    job = place.claim()
    ownership, sync = ToldToStop(place, job, step=0), atomic.fsync
    refused = iter([True])

    def full_once(path: Path) -> None:
        if next(refused, False):
            ownership._stopped.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "fsync", full_once)
    assert place.work(job, ownership) == os.EX_TEMPFAIL
    assert any("the disk is full" in said for said in events(place, "job1"))
    (kept,) = CheckpointFolder(place.blobs.checkpoints("job1")).all()
    assert (kept.step, kept.manifest["endsEpoch"]) == (3, True)


STUCK = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pid = pathlib.Path(sys.argv[1] + ".written")
pid.write_text(str(os.getpid()))
pid.rename(sys.argv[1])
time.sleep(600)
"""


def test_a_worker_that_heeds_no_cancel_is_ended_and_its_job_cancelled(place: Place, tmp_path: Path) -> None:
    up = tmp_path / "up"
    executor = LocalExecutor(
        environment(place.settings), place.blobs, command=lambda job, fd: [sys.executable, "-c", STUCK, str(up)]
    )
    scheduler = scheduler_of(place, executor, cancel_timeout_s=0.5)
    place.add()
    try:
        scheduler.step()
        wait_until(up.exists)
        process = psutil.Process(int(up.read_text()))
        place.jobs.request_cancel("job1", at=datetime.now(UTC))
        run_until(place, scheduler, "job1")
        assert place.jobs.get("job1").state is State.CANCELLED
        assert any("did not stop within 0.5 s of the cancel" in said for said in events(place, "job1"))
        assert not process.is_running()
    finally:
        scheduler.shutdown()


def test_a_disk_full_before_training_sends_the_job_back_to_the_queue_with_a_note(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **options: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    place.add()
    job = place.claim()
    with monkeypatch.context() as patched:
        patched.setattr(run, "load_base", full)
        patched.setattr("kastor.worker.outcome.FULL_WAIT_S", 0.2)
        assert place.work(job) == os.EX_TEMPFAIL
    queued = place.jobs.get("job1")
    assert (queued.state, queued.deaths) == (State.QUEUED, 0)
    said = events(place, "job1")
    assert any("the disk is full" in one for one in said)
    assert said[-1] == "PREPARING -> QUEUED: it is tried again on a disk that was full"
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED


def test_too_little_room_for_the_base_sends_the_job_back_to_the_queue_and_says_how_much_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = replace(load_catalog().base("smollm2-135m-instruct"), num_parameters=10**15)

    def fetch() -> bool:
        return ensure_local(huge, place.settings.cache_dir) is not None

    place.add()
    job = place.claim()
    monkeypatch.setattr("kastor.worker.outcome.FULL_WAIT_S", 0.2)
    folders = place.settings.data_dir, place.settings.cache_dir
    assert run_job(fetch, SqlJobLease(place.jobs, job, beat_every_s=1), *folders) == os.EX_TEMPFAIL
    queued = place.jobs.get("job1")
    assert (queued.state, queued.deaths, queued.error) == (State.QUEUED, 0, None)
    said = events(place, "job1")
    (needed,) = (one for one in said if "needs 5000000000 MB" in one)
    assert str(place.settings.data_dir) not in needed
    assert said[-1].endswith("it is tried again on a disk that was full")


@needs_mount
def test_on_a_disk_that_is_really_full_a_job_waits_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        place = Place(disk)
        place.add("through")
        assert place.work(place.claim()) == 0
        place.add("full")
        executor = LocalExecutor(environment(place.settings), place.blobs)
        scheduler = scheduler_of(place, executor)
        filler = disk / "filler"
        try:
            scheduler.step()
            filled = False
            deadline = time.monotonic() + 90
            while not any("the disk is full" in said for said in events(place, "full")):
                assert time.monotonic() < deadline, place.blobs.log("full").read_text()[-2000:]
                if not filled and place.jobs.get("full").state.active and place.blobs.log("full").stat().st_size:
                    fill(filler, spare_bytes=96 * 1024)  # the database needs some of it to say so
                    filled = True
                scheduler.step()
                time.sleep(0.02)
            filler.unlink()
            run_until(place, scheduler, "full")
        finally:
            scheduler.shutdown()
        assert place.jobs.get("full").state is State.SUCCEEDED
        assert_same_bits(place, "through", "full")
        place.database.close()


def test_a_failed_job_that_is_resumed_ends_with_the_bits_of_an_undisturbed_one(place: Place) -> None:
    place.add("through", num_epochs=4)
    assert place.work(place.claim()) == 0
    place.add("failed", num_epochs=4)
    stop_after(place, "failed", 7)
    place.jobs.move(place.jobs.get("failed"), State.FAILED, at=datetime.now(UTC))
    service = TuningService(
        jobs=place.jobs,
        models=ModelStore(place.database),
        blobs=place.blobs,
        catalog=load_catalog(place.settings.catalog_file),
        clock=lambda: datetime.now(UTC),
        wake=lambda: None,
    )
    owner = Principal("ada@example.org")
    resumed = service.resume("failed", owner).job.id
    job = place.claim()
    assert job.id == resumed
    assert place.work(job) == 0
    assert place.jobs.get(resumed).state is State.SUCCEEDED
    assert "going on from the checkpoint of step 7" in events(place, resumed)
    assert_same_bits(place, "through", resumed)
    assert service.model("model-of-failed", owner).job.id == resumed
    assert place.jobs.get("failed").state is State.FAILED


@pytest.mark.parametrize("when", ["before the start", "before a resume"])
def test_a_dataset_that_was_changed_is_not_trained_on_and_named(place: Place, when: str) -> None:
    place.add(num_epochs=4)
    if when == "before a resume":
        stop_after(place, "job1", 5)
    dataset = place.blobs.dataset("job1")
    dataset.write_bytes(dataset.read_bytes().replace(b"11", b"17", 1))  # as many rows, bytes and tokens as before
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.message.startswith("The dataset.jsonl of job job1 is missing, damaged or was changed")


@pytest.mark.parametrize("name", ["source", "dataset.jsonl", "plan.jsonl"])
def test_a_dataset_file_that_was_changed_is_not_trained_on_either(place: Place, name: str) -> None:
    place.add_file([{"text_input": str(number), "output": str(number + 1)} for number in range(12)])
    path = place.blobs.workspace("job1").source
    if name != "source":
        stop_after(place, "job1", 2)
        path = place.blobs.job_dir("job1") / name
    path.write_bytes(path.read_bytes().replace(b"1", b"7", 1))
    assert place.work(place.claim()) == 0
    error = place.jobs.get("job1").error
    assert error is not None
    assert f"The {name} of job job1" in error.message

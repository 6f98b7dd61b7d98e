"""One job's process, on a tiny base: it ends the job in every case, and resumes to the same bits."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from kastor.domain.job import State
from kastor.executors.exit_codes import SUPERSEDED
from kastor.executors.local import LocalExecutor
from kastor.settings import environment
from kastor.training.schedule import learning_rate
from kastor.worker.outcome import job_error
from support.worker_environment import PAIRS, Place, adapter, run_until, scheduler_of


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def test_a_job_is_trained_and_its_adapter_published_before_it_is_called_a_success(place: Place) -> None:
    place.add()
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED
    assert job.completed_steps == job.spec.total_steps == 9
    snapshots = place.jobs.snapshots("job1")
    assert [s.step for s in snapshots] == list(range(1, 10))
    assert [s.epoch for s in snapshots] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert snapshots[-1].mean_loss < snapshots[0].mean_loss
    assert all(s.num_supervised >= 8 for s in snapshots)
    peak = job.spec.hyperparameters.learning_rate
    assert [s.learning_rate for s in snapshots] == [learning_rate(s.step, 9, peak) for s in snapshots]
    assert all(s.grad_norm is not None and s.grad_norm > 0 for s in snapshots)
    assert any(tensor.any() for name, tensor in adapter(place, "job1").items() if "lora_B" in name)


def test_tuning_on_a_tuned_model_goes_on_from_its_adapter_and_leaves_it_alone(place: Place) -> None:
    place.add()
    place.work(place.claim())
    first = adapter(place, "job1")
    place.add("job2", on="job1", learning_rate=1e-12, num_epochs=1)
    place.blobs.remove_job("job1")  # the source may be deleted while the job waits
    assert place.work(place.claim()) == 0
    second = adapter(place, "job2")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-8) for name in first)
    losses = [place.jobs.snapshots(job)[step].mean_loss for job, step in (("job1", 0), ("job2", 0))]
    assert losses[1] < losses[0]


def test_a_damaged_adapter_to_go_on_from_fails_the_job_by_name(place: Place) -> None:
    place.add()
    place.work(place.claim())
    place.add("job2", on="job1")
    (place.blobs.workspace("job2").initial_adapter / "adapter_model.safetensors").write_bytes(b"no adapter")
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job2")
    assert job.state is State.FAILED
    assert job.error is not None and "adapter_model.safetensors is damaged" in job.error.message


def test_a_cancel_is_obeyed_within_one_step(place: Place) -> None:
    place.add(num_epochs=50)
    job = place.claim()
    cancelled_at = threading.Event()

    def cancel() -> None:
        while place.jobs.get("job1").completed_steps < 2:
            time.sleep(0.002)
        place.jobs.request_cancel("job1", at=datetime.now(UTC))
        cancelled_at.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert place.work(job) == 0
    thread.join()
    ended = place.jobs.get("job1")
    assert ended.state is State.CANCELLED
    assert 2 <= ended.completed_steps < ended.spec.total_steps
    assert not place.blobs.adapter("job1").exists()


def test_a_cancel_before_the_first_step_ends_the_job_cancelled(place: Place) -> None:
    place.add()
    job = place.claim()
    place.jobs.request_cancel("job1", at=datetime.now(UTC))
    assert place.work(job) == 0
    assert place.jobs.get("job1").state is State.CANCELLED


def test_a_worker_that_was_superseded_writes_nothing(place: Place) -> None:
    place.add()
    job = place.claim()
    place.jobs.move(job, State.QUEUED, at=datetime.now(UTC))
    again = place.claim()
    assert place.work(job) == SUPERSEDED
    assert place.jobs.get("job1") == again


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("no weights", "holds no *.safetensors"),
        ("no config", "holds no config.json"),
        ("no tokenizer", "tokenizer.json"),
        ("broken weights", "cannot be loaded"),
        ("long example", "examples[12]: "),
        ("no dataset", "dataset.jsonl"),
    ],
)
def test_what_cannot_work_fails_the_job_with_one_sentence(place: Place, harm: str, said: str) -> None:
    pairs = [*PAIRS, ("x" * 600, "y")] if harm == "long example" else PAIRS
    place.add(pairs=pairs)
    base = place.settings.data_dir / "base"
    for name, file in (
        ("no weights", "model.safetensors"),
        ("no config", "config.json"),
        ("no tokenizer", "tokenizer.json"),
    ):
        if harm == name:
            (base / file).unlink()
    if harm == "broken weights":
        (base / "model.safetensors").write_bytes(b"\x00" * 100)
    if harm == "no dataset":
        place.blobs.dataset("job1").unlink()
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.FAILED
    assert job.error is not None
    assert said in job.error.message
    assert "\n" not in job.error.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Memory ran out"),
        (ValueError("odd\nmore"), "failed with ValueError: odd; the traceback stands in the job's log"),
    ],
)
def test_every_failure_becomes_one_sentence(error: Exception, said: str) -> None:
    message = job_error(error, Path("/data")).message
    assert said in message
    assert "\n" not in message


def test_killed_in_the_middle_a_job_goes_on_and_ends_with_the_same_bits(place: Place) -> None:
    place.add("through", num_epochs=20)
    assert place.work(place.claim()) == 0
    place.add("killed", num_epochs=20)
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = scheduler_of(place, executor)
    try:
        scheduler.step()
        while place.jobs.get("killed").completed_steps < 10:
            assert place.jobs.get("killed").state.active, place.jobs.get("killed").error
            time.sleep(0.005)
        executor.kill("killed")  # SIGKILL
        interrupted_at = place.jobs.get("killed").completed_steps
        run_until(place, scheduler, "killed")
    finally:
        scheduler.shutdown()
    job = place.jobs.get("killed")
    assert interrupted_at < job.spec.total_steps
    assert job.state is State.SUCCEEDED, job.error
    assert (job.deaths, job.attempt) == (0, 2)  # it came further since
    assert any("going on from the checkpoint" in event.message for event in place.jobs.events("killed"))
    one, other = adapter(place, "through"), adapter(place, "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in ("through", "killed")]
    assert losses[0] == losses[1]


def test_stopped_with_its_server_a_job_keeps_its_last_step_and_waits_in_the_queue(place: Place) -> None:
    place.add(num_epochs=3000)
    scheduler = scheduler_of(place, LocalExecutor(environment(place.settings), place.blobs))
    scheduler.step()
    while place.jobs.get("job1").completed_steps < 3:
        time.sleep(0.01)
    scheduler.shutdown()
    job = place.jobs.get("job1")
    assert (job.state, job.deaths) == (State.QUEUED, 0)
    steps = {int(entry.name[5:]) for entry in place.blobs.checkpoints("job1").iterdir()}
    assert job.completed_steps in steps


def test_an_attempt_that_is_not_the_jobs_present_one_leaves_without_a_write(place: Place) -> None:
    before = place.add()
    command = [sys.executable, "-m", "kastor.worker", "job1", "99"]
    done = subprocess.run(command, env={**os.environ, **environment(place.settings)}, capture_output=True, text=True)
    assert done.returncode == SUPERSEDED
    assert place.jobs.get("job1") == before

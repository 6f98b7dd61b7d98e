"""`make soak`: a worker killed again and again, at random moments, ends its job with the bits of an undisturbed one."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from kastor.domain.job import State
from kastor.executors.local import LocalExecutor
from kastor.services.scheduler import Scheduler
from kastor.settings import environment
from support.worker_environment import Place, adapter

KILLS = 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_a_job_ends_with_the_same_bits(tmp_path: Path, seed: int) -> None:
    place, moments = Place(tmp_path), random.Random(seed)
    place.add("through", num_epochs=200)
    assert place.work(place.claim()) == 0
    place.add("killed", num_epochs=200)
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = Scheduler(
        place.jobs,
        executor,
        max_running=1,
        max_deaths=KILLS + 1,
        heartbeat_timeout_s=30,
        clock=lambda: datetime.now(UTC),
    )
    kills = 0
    deadline = time.monotonic() + 900
    try:
        while not place.jobs.get("killed").state.terminal:
            assert time.monotonic() < deadline
            scheduler.step()
            time.sleep(moments.uniform(0.05, 8))  # in the imports, in the load, in a step, in a checkpoint
            if kills < KILLS and place.jobs.get("killed").state.active:
                executor.kill("killed")
                kills += 1
    finally:
        scheduler.shutdown()
    job = place.jobs.get("killed")
    assert (job.state, job.attempt) == (State.SUCCEEDED, kills + 1)
    assert kills >= 3
    one, other = adapter(place, "through"), adapter(place, "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in ("through", "killed")]
    assert losses[0] == losses[1]
    assert not list(place.blobs.checkpoints("killed").glob(".*"))
    place.database.close()

"""A worker that waits for its job: small scripts stand for `kastor.worker --spare`."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.domain.errors import Unavailable
from kastor.executors.warm_worker import AFTER_S, READY, WarmWorker
from support.domain_values import make_job
from support.polling import wait_until

WAITING = f"""
import json, sys
print({READY.decode().strip()!r}, flush=True)
order = json.loads(sys.stdin.readline())
open(order["log"], "a").write(f"{{order['job_id']}} {{order['attempt']}}")
"""
GONE = f"""
import os, time
os.close(0)
print({READY.decode().strip()!r}, flush=True)
time.sleep(60)
"""
LOADING = "import time; time.sleep(60)"


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Place:
    """Where spares are spawned; those that were are known."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.spawned: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", self.script]
        self.spawned.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True))
        return self.spawned[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(WAITING)
    yield place
    for process in place.spawned:
        process.kill()
        process.wait()


def spare_of(place: Place, clock: Clock, idle_s: float = 60.0) -> WarmWorker:
    """One that has been started as the successor of a job."""
    spare = WarmWorker(place, idle_s=idle_s, clock=clock)
    spare.job_started()
    spare.poll(busy=True)
    assert not place.spawned, "it does not load beside the start of the first job"
    clock.now += AFTER_S
    spare.poll(busy=False)
    return spare


def taken(spare: WarmWorker, log: Path) -> subprocess.Popen[bytes]:
    deadline = time.monotonic() + 20
    while (process := spare.assign(make_job("job2", attempt=3), log)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def waits_for(seconds: float, spare: WarmWorker, place: Place, clock: Clock) -> None:
    """So long without a job the spare is there, and no longer."""
    clock.now += seconds - 1
    spare.poll(busy=False)
    assert place.spawned[0].poll() is None
    clock.now += 1
    spare.poll(busy=False)
    assert place.spawned[0].poll() is not None


def test_it_is_told_its_job_and_takes_it_once(place: Place, clock: Clock, tmp_path: Path) -> None:
    spare = spare_of(place, clock)
    process = taken(spare, tmp_path / "log")
    assert process is place.spawned[0]
    assert process.wait(20) == 0
    assert (tmp_path / "log").read_text() == "job2 3"
    assert spare.assign(make_job("job3"), tmp_path / "log") is None
    spare.poll(busy=False)
    assert len(place.spawned) == 1, "the next one comes after a next job"


def test_one_that_has_not_loaded_yet_is_not_waited_for(place: Place, clock: Clock, tmp_path: Path) -> None:
    place.script = LOADING
    spare = spare_of(place, clock)
    assert spare.assign(make_job(), tmp_path / "log") is None
    assert place.spawned[0].poll() is None
    spare.end()
    assert place.spawned[0].poll() is not None


def test_it_ends_when_no_job_came_for_long_enough(place: Place, clock: Clock) -> None:
    spare = spare_of(place, clock, idle_s=60)
    waits_for(60, spare, place, clock)
    spare.poll(busy=False)
    assert len(place.spawned) == 1


def test_it_does_not_grow_old_while_jobs_run(place: Place, clock: Clock) -> None:
    spare = spare_of(place, clock, idle_s=60)
    for _ in range(5):
        clock.now += 50
        spare.poll(busy=True)
    waits_for(60, spare, place, clock)


def test_none_follows_one_that_was_there_already_when_the_next_was_due(place: Place, clock: Clock) -> None:
    place.script = LOADING
    spare = spare_of(place, clock, idle_s=60)
    spare.job_started()  # the spare has not loaded: the job got a fresh worker
    clock.now += AFTER_S
    spare.poll(busy=True)
    clock.now += 60
    spare.poll(busy=False)
    clock.now += 60
    spare.poll(busy=False)
    assert len(place.spawned) == 1 and place.spawned[0].poll() is not None


def test_after_the_end_none_is_started(place: Place, clock: Clock) -> None:
    spare = WarmWorker(place, idle_s=60, clock=clock)
    spare.job_started()
    spare.end()
    clock.now += AFTER_S
    spare.poll(busy=False)
    assert not place.spawned


def test_one_that_hears_nothing_any_more_is_ended(place: Place, clock: Clock, tmp_path: Path) -> None:
    place.script = GONE
    spare = spare_of(place, clock)
    wait_until(lambda: spare.is_ready)
    assert place.spawned[0].poll() is None
    assert spare.assign(make_job(), tmp_path / "log") is None
    assert place.spawned[0].poll() is not None


def test_one_that_died_is_no_hindrance(place: Place, clock: Clock, tmp_path: Path) -> None:
    spare = spare_of(place, clock)
    place.spawned[0].kill()
    place.spawned[0].wait()
    assert spare.assign(make_job(), tmp_path / "log") is None
    spare.job_started()
    clock.now += AFTER_S
    spare.poll(busy=False)
    assert len(place.spawned) == 2
    taken(spare, tmp_path / "log")


def test_none_waits_where_none_is_wanted_or_can_be_started(place: Place, clock: Clock, tmp_path: Path) -> None:
    spare_of(place, clock, idle_s=0)
    assert not place.spawned

    def refused() -> subprocess.Popen[bytes]:
        raise Unavailable("This machine cannot start a worker.")

    spare = WarmWorker(refused, idle_s=60, clock=clock)
    spare.job_started()
    clock.now += AFTER_S
    spare.poll(busy=False)
    assert spare.assign(make_job(), tmp_path / "log") is None

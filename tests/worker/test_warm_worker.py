"""A real worker that waits with everything loaded serves the next job as a fresh one would."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from kastor.domain.job import State
from kastor.executors import warm_worker
from kastor.executors.local import LocalExecutor, warm_worker_command
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.settings import environment
from support.polling import wait_until
from support.worker_environment import Place, adapter, run_until, scheduler_of


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def spares() -> list[int]:
    """The living processes under this one that were started without a job."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child.pid for child in living if "--spare" in child.cmdline()]


@pytest.mark.usefixtures("without_fork_server")
def test_a_spare_worker_does_what_a_fresh_one_does(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_worker, "AFTER_S", 0.0)
    executor = LocalExecutor(environment(place.settings), place.blobs, spare_idle_s=60)
    scheduler = scheduler_of(place, executor)

    def waits() -> bool:
        scheduler.step()
        return executor.spare_waits

    place.add("job1")
    try:
        run_until(place, scheduler, "job1")
        wait_until(waits, timeout_s=60)
        (waiting,) = spares()
        place.add("job2")
        scheduler.step()
        assert waiting in spares() and not executor.spare_waits
        run_until(place, scheduler, "job2")
        wait_until(lambda: waiting not in spares())
    finally:
        scheduler.shutdown()
    assert not spares()
    assert place.jobs.get("job2").state is State.SUCCEEDED
    assert '"event": "training"' in place.blobs.log("job2").read_text()
    one, other = adapter(place, "job1"), adapter(place, "job2")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["heeded", "ignored"])
def test_a_spare_worker_ends_with_its_parent(inherited: signal.Handlers) -> None:
    pipe = subprocess.PIPE
    signal.signal(signal.SIGTERM, inherited)
    lifeline = ParentDeathPipe()
    waiting = subprocess.Popen(
        warm_worker_command(lifeline.child_fd),
        stdin=pipe,
        stdout=pipe,
        pass_fds=(lifeline.child_fd,),
        start_new_session=True,
    )
    try:
        assert waiting.stdout is not None and waiting.stdout.read(len(warm_worker.READY)) == warm_worker.READY
        lifeline.close()
        assert waiting.wait(20) == -signal.SIGTERM
    finally:
        waiting.kill()
        waiting.communicate()


def test_a_spare_worker_that_is_not_needed_ends_in_order(place: Place) -> None:
    command = [sys.executable, "-m", "kastor.worker", "--spare"]
    done = subprocess.run(command, env={**os.environ, **environment(place.settings)}, input=b"", capture_output=True)
    assert (done.returncode, done.stdout) == (0, warm_worker.READY), done.stderr

"""What tests start as `python -m kastor.worker` is a fork, and looks from outside like a process of its own."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.executors.warm_worker import READY
from kastor.settings import Settings, environment

pytestmark = pytest.mark.skipif("FORK_SERVERS" not in os.environ, reason="only Linux has what it needs")
SPARE = [sys.executable, "-m", "kastor.worker", "--spare"]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that waits for its job."""
    variables = environment(Settings(data_dir=tmp_path))
    pipe = subprocess.PIPE
    with subprocess.Popen(SPARE, stdin=pipe, stdout=pipe, env={**os.environ, **variables}) as process:
        assert process.stdout is not None and process.stdout.read(len(READY)) == READY
        yield process
        process.kill()


def test_the_process_itself_has_imported_nothing_heavy(waiting: "subprocess.Popen[bytes]") -> None:
    mapped = Path(f"/proc/{waiting.pid}/maps").read_text()
    assert "python" in mapped and "libtorch" not in mapped


def test_it_ends_in_order_when_the_fork_does(waiting: "subprocess.Popen[bytes]") -> None:
    waiting.communicate(b"")
    assert waiting.returncode == 0


def test_a_signal_reaches_the_fork_whose_end_is_that_of_the_process(waiting: "subprocess.Popen[bytes]") -> None:
    waiting.terminate()
    assert waiting.wait(20) == -signal.SIGTERM


def test_a_fork_outlives_no_process_that_is_killed(waiting: "subprocess.Popen[bytes]") -> None:
    assert waiting.stdout is not None
    waiting.kill()
    assert waiting.wait(20) == -signal.SIGKILL
    assert select.select([waiting.stdout], [], [], 20)[0], "the fork holds the pipe open"
    assert waiting.stdout.read() == b""


def test_errors_and_exit_status_are_the_forks(tmp_path: Path) -> None:
    done = subprocess.run([*SPARE[:-1], "--nonsense"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2  # argparse's
    assert "unrecognized arguments: --nonsense" in done.stderr


def test_a_command_is_a_fork_that_has_not_imported_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kastor.cli", "serve", "--no-auth", "--port", "0", "--json"]
    variables = {**os.environ, **environment(Settings(data_dir=tmp_path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables) as process:
        assert process.stdout is not None and json.loads(process.stdout.readline())
        fork = int(json.loads((tmp_path / "server.json").read_bytes())["pid"])
        assert fork != process.pid
        assert "libtorch" not in Path(f"/proc/{fork}/maps").read_text()
        process.terminate()
        assert process.wait(20) == 0


def test_under_other_variables_for_libraries_the_process_runs_itself(tmp_path: Path) -> None:
    variables = {**os.environ, **environment(Settings(data_dir=tmp_path)), "OMP_WAIT_POLICY": "ACTIVE"}
    with subprocess.Popen(SPARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None and process.stdout.read(len(READY)) == READY
        assert "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
        process.communicate(b"")
        assert process.returncode == 0

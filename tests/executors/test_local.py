"""Workers as real child processes: small scripts stand for `kastor.worker`."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from kastor.domain.errors import FailedPrecondition, Unavailable
from kastor.domain.job import State, TuningJob
from kastor.domain.worker_exit import ExitReason, ResourceRequest, WorkerExit
from kastor.executors.local import LocalExecutor, exit_reason, log_tail, worker_command
from kastor.store.blobs.job_files import JobFiles
from support.domain_values import make_job

ANY = ResourceRequest()
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
ORDERLY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print('up', flush=True)
time.sleep(60)
"""
PARENTAL = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(1)"


@pytest.fixture
def blobs(tmp_path: Path) -> JobFiles:
    return JobFiles(tmp_path)


@pytest.fixture
def executor_of(blobs: JobFiles) -> Iterator[Callable[[str], LocalExecutor]]:
    """Makes executors whose workers run the given script; ends what is left of them."""
    executors = []

    def make(script: str) -> LocalExecutor:
        executors.append(
            LocalExecutor(
                {"KASTOR_PROFILE": "open"},
                blobs,
                command=lambda job, fd: [sys.executable, "-c", script, job.id, str(job.attempt), str(fd)],
            )
        )
        return executors[-1]

    yield make
    for executor in executors:
        executor.shutdown(0)


def claimed(job_id: str = "job1", attempt: int = 1) -> TuningJob:
    return make_job(job_id, state=State.PREPARING, attempt=attempt)


def wait_for(executor: LocalExecutor, number: int = 1) -> list[WorkerExit]:
    deadline, exits = time.monotonic() + 20, []
    while len(exits) < number and time.monotonic() < deadline:
        exits += executor.exited()
        time.sleep(0.01)
    assert len(exits) == number
    return exits


def wait_until_up(blobs: JobFiles, job_id: str = "job1") -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if blobs.log(job_id).exists() and (text := blobs.log(job_id).read_text()):
            return text
        time.sleep(0.01)
    raise AssertionError("the worker did not start")


def test_a_worker_is_started_for_its_job_and_attempt_with_the_lifeline() -> None:
    assert worker_command(claimed(attempt=3), 9) == [
        *(sys.executable, "-m", "kastor.worker"),
        *("job1", "3", "--parent-fd", "9"),
    ]


def test_a_worker_gets_the_settings_and_the_environment_and_writes_to_the_jobs_log(
    executor_of: Callable[[str], LocalExecutor], blobs: JobFiles
) -> None:
    script = "import os, sys; print(sys.argv[1:3], os.environ['KASTOR_PROFILE'], 'PATH' in os.environ); \
print('to stderr', file=sys.stderr); print(os.getsid(0) == os.getpid(), sys.stdin.read())"
    executor = executor_of(script)
    executor.start(claimed(attempt=2), ANY)
    (ended,) = wait_for(executor)
    assert (ended.job_id, ended.attempt, ended.reason) == ("job1", 2, ExitReason.FINISHED)
    assert sorted(blobs.log("job1").read_text().splitlines()) == ["True ", "['job1', '2'] open True", "to stderr"]
    assert executor.exited() == []


def test_the_last_words_are_this_attempts_lines_that_are_not_structured(
    executor_of: Callable[[str], LocalExecutor], blobs: JobFiles
) -> None:
    blobs.log("job1").parent.mkdir(parents=True)
    blobs.log("job1").write_text("words of an earlier attempt\n")
    executor = executor_of("""
print('{"event": "step"}\\n\\n  raw  \\n{"event": "step"}\\n42', flush=True)
raise RuntimeError('boom')""")
    executor.start(claimed(), ANY)
    (ended,) = wait_for(executor)
    assert (ended.reason, ended.detail) == (ExitReason.CRASHED, "ended with exit code 1")
    assert ended.log_tail[:2] == ("raw", "42")
    assert ended.log_tail[-1] == "RuntimeError: boom"
    assert blobs.log("job1").read_text().startswith("words of an earlier attempt\n")


def test_last_words_are_few_and_short_however_much_was_said(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\xff\xfe broken\n" + b'{"event": "' + b"x" * 100_000 + b'"}\n' + b"word\n" * 9 + b"y" * 1000)
    assert log_tail(log, start=0) == ("word",) * 4 + ("y" * 300,)
    assert log_tail(log, start=log.stat().st_size) == ()
    assert log_tail(tmp_path / "removed", start=0) == ()


def test_a_worker_that_somebody_else_killed_is_taken_to_be_out_of_memory(
    executor_of: Callable[[str], LocalExecutor], blobs: JobFiles
) -> None:
    executor = executor_of("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    executor.start(claimed(), ANY)
    assert wait_for(executor)[0].reason is ExitReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("returncode", "reason", "detail"),
    [
        (0, ExitReason.FINISHED, ""),
        (75, ExitReason.STOPPED, ""),
        (76, ExitReason.SUPERSEDED, ""),
        (69, ExitReason.DATABASE_UNREACHABLE, ""),
        (-signal.SIGKILL, ExitReason.OUT_OF_MEMORY, "was killed (SIGKILL), as happens when memory runs out"),
        (-signal.SIGSEGV, ExitReason.CRASHED, "was ended by SIGSEGV"),
        (-40, ExitReason.CRASHED, "was ended by signal 40"),
        (2, ExitReason.CRASHED, "ended with exit code 2"),
    ],
)
def test_return_codes_and_signals_become_reasons(returncode: int, reason: ExitReason, detail: str) -> None:
    assert exit_reason(returncode) == (reason, detail)


def test_what_the_machine_lacks_of_a_request_is_logged_and_the_worker_starts(
    executor_of: Callable[[str], LocalExecutor],
) -> None:
    executor = executor_of("")
    with capture_logs() as logs:
        executor.start(claimed("job1"), ResourceRequest(num_cores=1, num_gpus=0, memory_bytes=1))
        executor.start(claimed("job2"), ResourceRequest(num_cores=5000, num_gpus=70, memory_bytes=1 << 60))
    wait_for(executor, 2)
    (entry,) = logs
    assert (entry["log_level"], entry["event"], entry["job_id"]) == ("warning", "resources_missing", "job2")
    cores, gpus, memory = entry["missing"]
    assert cores.startswith("5,000 cores asked for, ")
    assert gpus.startswith("70 GPUs asked for, ")
    assert memory.startswith("1,152,921,504,606,846,976 bytes of memory asked for, ")


def test_killing_ends_only_that_jobs_worker(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    executor = executor_of(DEAF)
    for job_id in ("job1", "job2"):
        executor.start(claimed(job_id), ANY)
        wait_until_up(blobs, job_id)
    executor.kill("job1")
    executor.kill("unknown")
    assert [(ended.job_id, ended.reason) for ended in executor.exited()] == [("job1", ExitReason.KILLED)]


def test_a_stopped_process_can_be_killed(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    executor = executor_of("import os, signal; print('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
    executor.start(claimed(), ANY)
    wait_until_up(blobs)
    executor.kill("job1")
    assert [ended.reason for ended in executor.exited()] == [ExitReason.KILLED]


def test_a_worker_that_ended_leaves_no_children(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    executor = executor_of(PARENTAL)
    executor.start(claimed(), ANY)
    wait_for(executor)
    child = int(blobs.log("job1").read_text())
    with suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(10)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_shutting_down_lets_workers_end_in_order(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    executor = executor_of(ORDERLY)
    executor.start(claimed(), ANY)
    wait_until_up(blobs)
    executor.shutdown(20)
    assert [ended.reason for ended in executor.exited()] == [ExitReason.STOPPED]


def test_shutting_down_does_not_wait_for_the_deaf(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    executor = executor_of(DEAF)
    executor.start(claimed(), ANY)
    wait_until_up(blobs)
    started = time.monotonic()
    executor.shutdown(0.2)
    assert time.monotonic() - started < 10
    assert [ended.reason for ended in executor.exited()] == [ExitReason.KILLED]


def test_a_log_that_cannot_be_written_is_named(executor_of: Callable[[str], LocalExecutor], blobs: JobFiles) -> None:
    blobs.job_dir("job1").parent.mkdir(parents=True)
    blobs.job_dir("job1").touch()
    with pytest.raises(FailedPrecondition, match=r"Cannot write the log .*job1/log\.jsonl"):
        executor_of(SLEEP).start(claimed(), ANY)


def test_a_machine_that_cannot_start_a_process_is_unavailable(blobs: JobFiles, tmp_path: Path) -> None:
    executor = LocalExecutor({}, blobs, command=lambda _job, _fd: [str(tmp_path / "missing")])
    with pytest.raises(Unavailable, match="cannot start a worker: No such file"):
        executor.start(claimed(), ANY)
    assert executor.exited() == []
    executor.shutdown(0)


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from kastor.executors.local import LocalExecutor
from kastor.store.blobs.job_files import JobFiles
from kastor.domain.worker_exit import ResourceRequest
from support.domain_values import make_job
WORKER = "import os, sys, time; from kastor.runtime.parent_death import watch_parent; \
watch_parent(int(sys.argv[1]), lambda: os._exit(1)); print(os.getpid(), flush=True); time.sleep(60)"
files = JobFiles(Path(sys.argv[1]))
executor = LocalExecutor({}, files, command=lambda job, fd: [sys.executable, "-c", WORKER, str(fd)])
executor.start(make_job("job1", attempt=1), ResourceRequest())
time.sleep(60)
"""


def test_a_killed_server_leaves_no_worker(blobs: JobFiles, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, tmp_path, Path(__file__).parent.parent]) as server:
        try:
            worker = psutil.Process(int(wait_until_up(blobs)))
        finally:
            server.kill()
    with suppress(psutil.NoSuchProcess):
        worker.wait(10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE

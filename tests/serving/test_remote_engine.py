"""The server's side of generation: processes start when asked for, are shared, restarted, and ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kastor.domain.content import Prompt
from kastor.domain.errors import InvalidArgument, Unavailable
from kastor.domain.generation import FinishReason, GenerateRequest, Sampling
from kastor.serving.process_engine import ProcessEngine
from kastor.serving.socket_folder import SocketFolder

STUB = Path(__file__).parents[1] / "support" / "stub_engine.py"


def stub_command(base: str, socket: Path, parent_fd: int) -> list[str]:
    return [sys.executable, str(STUB), "--base", base, "--socket", str(socket), "--parent-fd", str(parent_fd)]


def asked(text: str, base: str = "good") -> GenerateRequest:
    return GenerateRequest(base, Prompt.of(text), Sampling())


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Callable[..., ProcessEngine]]:
    made: list[ProcessEngine] = []

    def make(idle_timeout_s: float = 60, **options: object) -> ProcessEngine:
        environment = {"STUB_TOLD": str(tmp_path / "told")}
        given = {"log_dir": tmp_path / "logs", "command": stub_command, **options}
        made.append(ProcessEngine(environment, idle_timeout_s=idle_timeout_s, **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def pids(engine: ProcessEngine) -> set[int]:
    return {process.popen.pid for process in engine._processes.values()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_an_answer_arrives_piece_by_piece(remote: Callable[..., ProcessEngine]) -> None:
    chunks = list(remote().generate(asked("one two three")))
    assert [chunk.text for chunk in chunks] == ["one", "two", "three"]
    assert chunks[-1].finish_reason is FinishReason.STOP


def test_line_separators_within_an_answer_do_not_end_a_line(remote: Callable[..., ProcessEngine]) -> None:
    words = ["one\u2028two", "three\x85four\x0bfive", "\u2029"]
    assert [chunk.text for chunk in remote().generate(asked(" ".join(words)))] == words


def test_tokens_are_counted(remote: Callable[..., ProcessEngine]) -> None:
    assert remote().count_tokens("good", Prompt.of("one two three")) == 3


def test_many_threads_share_one_process(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote()
    answers: list[str] = []

    def ask(number: int) -> None:
        answers.append("".join(chunk.text for chunk in engine.generate(asked(f"a b {number}"))))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"ab{n}" for n in range(12))
    assert engine._num_started == 1


def test_closing_the_iterator_cancels(remote: Callable[..., ProcessEngine], tmp_path: Path) -> None:
    answer = remote().generate(asked("word " * 1000))
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    until((tmp_path / "told").exists)


def test_an_error_of_the_request_arrives_as_it_was(remote: Callable[..., ProcessEngine]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        next(remote().generate(asked("x", "refuses")))
    assert refused.value.violations[0].field == "contents"


def test_a_process_that_cannot_start_says_why(remote: Callable[..., ProcessEngine]) -> None:
    with pytest.raises(Unavailable, match=r"models/broken could not start: The base does not fit; use a smaller one\."):
        next(remote().generate(asked("x", "broken")))


def test_a_process_that_dies_in_mid_answer_is_reported_and_replaced(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote()
    answer = engine.generate(asked("one two", "dies-midway"))
    assert next(answer).text == "one"
    with pytest.raises(Unavailable, match=r"dies-midway .*"):
        list(answer)
    assert next(engine.generate(asked("one two", "dies-midway"))).text == "one"
    assert engine._num_started == 2


def test_a_killed_process_is_replaced(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote()
    list(engine.generate(asked("one")))
    (pid,) = pids(engine)
    os.kill(pid, 9)
    until(lambda: next(iter(engine._processes.values())).dead)
    assert [chunk.text for chunk in engine.generate(asked("two"))] == ["two"]


def test_an_unused_process_ends_and_the_next_request_starts_another(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote(idle_timeout_s=0.3)
    long = engine.generate(asked("word " * 60))
    next(long)
    (pid,) = pids(engine)
    assert len(list(long)) == 59  # longer than the idle time, and not cut off
    until(lambda: not alive(pid))
    assert engine.count_tokens("good", Prompt.of("one")) == 1


def test_closing_ends_every_process_and_refuses_new_requests(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote()
    engine.count_tokens("good", Prompt.of("x"))
    engine.count_tokens("better", Prompt.of("x"))
    started, sockets = pids(engine), engine._sockets
    assert len(started) == 2
    engine.close()
    assert not any(alive(pid) for pid in started)
    assert sockets is not None
    assert not sockets.path.exists()
    with pytest.raises(Unavailable, match="ending"):
        engine.count_tokens("good", Prompt.of("x"))


def test_closing_does_not_wait_for_a_start(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote()
    told: list[BaseException] = []

    def ask() -> None:
        try:
            engine.count_tokens("slow", Prompt.of("x"))
        except Unavailable as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: bool(engine._processes))
    engine.close()
    thread.join(5)
    assert told


def test_a_start_that_takes_too_long_is_given_up(remote: Callable[..., ProcessEngine]) -> None:
    with pytest.raises(Unavailable, match="was not ready after 0 s"):
        remote(start_timeout_s=0.2).count_tokens("slow", Prompt.of("x"))


def test_a_long_temporary_folder_still_gives_a_short_socket_path(
    remote: Callable[..., ProcessEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert remote().count_tokens("good", Prompt.of("one two")) == 2


def stopped(engine: ProcessEngine) -> int:
    """The engine's process, which is stopped now."""
    (pid,) = pids(engine)
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_process_that_stays_frozen_is_ended_and_the_call_answered_by_another(
    remote: Callable[..., ProcessEngine],
) -> None:
    engine = remote(silence_timeout_s=1.0)
    assert engine.count_tokens("good", Prompt.of("a b")) == 2
    frozen = stopped(engine)
    began = time.monotonic()
    assert engine.count_tokens("good", Prompt.of("a b")) == 2
    assert time.monotonic() - began < 20
    until(lambda: not alive(frozen))
    assert engine.silent() == []


def test_an_answer_whose_process_freezes_midway_ends_with_a_sentence(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote(silence_timeout_s=1.0)
    answer = engine.generate(asked("word " * 400))
    next(answer)
    stopped(engine)
    with pytest.raises(Unavailable, match="did not answer for 1 s and was ended|ended in mid-answer; try again"):
        list(answer)
    assert [chunk.text for chunk in engine.generate(asked("a b"))] == ["a", "b"]


def test_a_process_that_comes_back_in_time_answers(remote: Callable[..., ProcessEngine]) -> None:
    engine = remote(silence_timeout_s=30.0)
    engine.count_tokens("good", Prompt.of("a"))
    pid = stopped(engine)
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(engine.count_tokens("good", Prompt.of("a b"))))
    thread.start()
    until(lambda: engine.silent() == ["good"])
    os.kill(pid, signal.SIGCONT)
    thread.join(10)
    assert told == [2] and pids(engine) == {pid}


def test_a_process_that_comes_back_when_nobody_waits_any_more_is_silent_no_more(
    remote: Callable[..., ProcessEngine],
) -> None:
    engine = remote(silence_timeout_s=30.0)
    answer = engine.generate(asked("word " * 400))
    next(answer)
    pid = stopped(engine)
    until(lambda: engine.silent() == ["good"])
    answer.close()  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGCONT)
    until(lambda: engine.silent() == [])
    assert pids(engine) == {pid}


def test_folders_of_sockets_go_with_their_server_or_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living = SocketFolder()
    said = "import os, time; from kastor.serving.socket_folder import SocketFolder; f = SocketFolder(); "
    script = said + "print(f.path, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        SocketFolder().close()
        assert left.is_dir() and living.path.is_dir()
        process.kill()
    (tmp_path / "kastor-of-somebody").mkdir()
    SocketFolder().close()
    assert not left.exists()
    assert living.path.is_dir() and (tmp_path / "kastor-of-somebody").is_dir()
    living.close()
    assert not living.path.exists()

"""Real processes: the CLI with a private server, interrupted and killed; afterwards nothing is left.

The base is a tiny random model, so that the workers and engines here are the real ones too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kastor.cli.client.ephemeral_server import deferred_interrupts
from support.command_result import Kastor
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_base

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start `kastor ARGUMENTS…` in a process group of its own, as a terminal does."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "kastor.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def processes_of(home: Path) -> list[psutil.Process]:
    """All that run with this test's data folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("KASTOR_DATA_DIR") == str(home / "data"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def said_until(process: "subprocess.Popen[str]", word: str) -> str:
    """What the process says on stderr until a line has `word`."""
    said = ""
    assert process.stderr is not None
    while word not in said:
        line = process.stderr.readline()
        assert line, f"{word!r} was not said, but: {said}"
        said += line
    return said


def left_in(folder: Path) -> set[str]:
    """The files of a data folder but for the database's, and the id that both have."""
    own = ("kastor.db", "installation-id")
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and not f.name.startswith(own)}


@pytest.fixture
def tiny(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in the place of the embedded base."""
    catalog = tiny_catalog(home / "catalog.toml", {"smollm2-135m-instruct": tiny_base(home / "tiny")})
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    monkeypatch.setenv("KASTOR_NUM_THREADS", "1")
    monkeypatch.setenv("KASTOR_HEARTBEAT_TIMEOUT_S", "60")


def test_an_interrupt_waits_for_the_end_of_what_must_not_be_cut() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        reached.append("end")
    assert reached == ["end"]


def test_a_private_server_leaves_no_trace(kastor: Kastor, home: Path) -> None:
    ran = kastor("jobs", "list", "--json")
    assert (ran.code, ran.json) == (0, [])
    assert processes_of(home) == []
    assert left_in(home / "data") == set()


def test_a_private_server_that_cannot_start_says_where_its_log_is(
    kastor: Kastor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASTOR_DATABASE_URL", "nonsense://")
    ran = kastor("jobs", "list")
    log = next((home / "data" / "logs").iterdir())
    assert ran.code == 1
    assert f"its log is {log}" in ran.err
    assert "Traceback" not in ran.err


def test_a_data_folder_that_is_a_file_is_said_in_one_line(kastor: Kastor, home: Path) -> None:
    (home / "data").write_text("")
    ran = kastor("jobs", "list")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert str(home / "data") in ran.err


def test_detach_is_refused_without_a_server_that_stays(kastor: Kastor, pairs_file: Path) -> None:
    ran = kastor("tune", str(pairs_file), "--detach")
    assert ran.code == 1
    assert "--detach needs a running server" in ran.err
    assert kastor("jobs", "list", "--json").json == []


def test_serve_announces_itself_and_is_found_until_it_ends(start: Start, kastor: Kastor, home: Path) -> None:
    served = start("serve", "--no-auth", "--port", "0", "--json")
    assert served.stdout is not None
    url = json.loads(served.stdout.readline())["url"]
    assert json.loads((home / "data" / "server.json").read_text())["url"] == url
    assert kastor("jobs", "list", "--json").json == []
    assert [process.pid for process in processes_of(home)] == [served.pid]
    os.killpg(served.pid, signal.SIGINT)
    assert served.wait(10) in (0, 130)
    assert not (home / "data" / "server.json").exists()


@pytest.mark.usefixtures("tiny")
def test_conversations_are_tuned_on_as_a_file_with_a_private_server(kastor: Kastor, home: Path) -> None:
    turns = [{"role": role, "parts": [{"text": text}]} for role, text in (("user", "1"), ("model", "2"))] * 2
    data = home / "turns.jsonl"
    data.write_text(json.dumps({"contents": turns}) + "\n")
    ran = kastor("tune", str(data), "--epochs", "2", "--json")
    assert ran.code == 0, ran.err
    job = json.loads(ran.out)["job"]
    assert (job["state"], job["numExamples"], job["totalSteps"]) == ("SUCCEEDED", 1, 1)


def test_ctrl_c_with_a_private_server_keeps_the_job_and_no_process(
    start: Start, kastor: Kastor, home: Path, pairs_file: Path
) -> None:
    tuning = start("tune", str(pairs_file), "--name", "kept", "--epochs", "1000")
    said_until(tuning, "step ")
    os.killpg(tuning.pid, signal.SIGINT)
    out, err = tuning.communicate(timeout=30)
    assert (tuning.returncode, out) == (130, "")
    assert "is kept and continues with the next" in err
    assert "Traceback" not in err
    assert processes_of(home) == []
    assert kastor("jobs", "show", "kept", "--json").json["state"] == "QUEUED"


@pytest.mark.usefixtures("tiny")
def test_a_killed_command_takes_its_private_server_and_worker_along(start: Start, home: Path, pairs_file: Path) -> None:
    tuning = start("tune", str(pairs_file), "--epochs", "1000")
    said_until(tuning, "step ")
    assert len(processes_of(home)) >= 3
    tuning.kill()
    wait_until(lambda: processes_of(home) == [])


@pytest.mark.usefixtures("tiny")
def test_the_demo_runs_and_leaves_a_tuned_model_that_answers(start: Start, kastor: Kastor, home: Path) -> None:
    demo = start("demo", "--json")
    out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, err
    document = json.loads(out)
    assert document["job"]["state"] == "SUCCEEDED"
    assert (len(document["heldOut"]), len(document["otherLanguages"])) == (64, 3)
    assert all(item["base"] and item["tuned"] for item in document["heldOut"])
    assert "4/4 answers" in err
    assert len(document["job"]["snapshots"]) == 19
    assert processes_of(home) == []
    assert kastor("models", "show", document["tunedModel"], "--json").json["state"] == "ACTIVE"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("word", ["base model", "step ", "answers"])
def test_ctrl_c_in_the_demo_leaves_no_process_and_no_job_in_the_queue(
    word: str, start: Start, kastor: Kastor, home: Path
) -> None:
    demo = start("demo")
    said_until(demo, word)
    os.killpg(demo.pid, signal.SIGINT)
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert processes_of(home) == []
    assert {job["state"] for job in kastor("jobs", "list", "--json").json} <= (
        {"SUCCEEDED"} if word == "answers" else {"CANCELLED", "CANCELLING"}
    )

"""The CLI run in this process against a fake server, with folders of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.cli import run
from support.command_result import CommandResult, Kastor
from support.fake_kastor import JOB_ID, MODEL, FakeServer, fake_server, make_job
from support.kastor_process import Serve, servers


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A fake Kastor on a free port."""
    with fake_server() as fake:
        yield fake


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings, whose folders are the test's own."""
    for name in ("KASTOR_SERVER", "KASTOR_API_KEY", "KASTOR_API_KEYS", "KASTOR_NO_AUTH", "KASTOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KASTOR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KASTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def kastor(home: Path, capsys: pytest.CaptureFixture[str]) -> Kastor:
    """Run `kastor ARGUMENTS…` in this process."""

    def ran(*arguments: str) -> CommandResult:
        code = run(arguments)
        said = capsys.readouterr()
        return CommandResult(code, said.out, said.err)

    return ran


@pytest.fixture
def serve(home: Path) -> Iterator[Serve]:
    """Start real servers on this user's data folder."""
    with servers(home) as start:
        yield start


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """Two examples."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"text_input": "1", "output": "2"}\n{"text_input": "3", "output": "4"}\n')
    return path


@pytest.fixture
def tuning(server: FakeServer) -> FakeServer:
    """The fake, ready to take a tuning that succeeds."""
    operation = {"name": f"{MODEL}/operations/{JOB_ID}", "metadata": {"totalSteps": 19, "tunedModel": MODEL}}
    server.on("POST", "/v1beta/tunedModels", operation)
    server.on_job(make_job("QUEUED"), make_job(step=3), make_job(step=12), make_job("SUCCEEDED", 19))
    server.on("GET", "/kastor/v1/jobs", {"jobs": [make_job("QUEUED")]})
    return server

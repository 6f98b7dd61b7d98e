"""What holds for every command: help, exit codes, errors without tracebacks, JSON that parses, a quick start."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from kastor.cli.app import app
from support.command_result import Kastor
from support.fake_kastor import INSTANCE, FakeServer, Reply, error_body


def commands() -> Iterator[tuple[tuple[str, ...], list[str], str]]:
    """The path, option names and help of every command."""

    def walk(command: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str], str]]:
        below = getattr(command, "commands", None)
        if below is None:
            context = typer.Context(command, info_name=" ".join(path))
            names = [name for option in command.params for name in option.opts]
            yield path, names, command.get_help(context)
            return
        for name, child in below.items():
            yield from walk(child, (*path, name))

    yield from walk(get_command(app), ("kastor",))


ALL = list(commands())


def announcement(server: FakeServer, *, instance: str = INSTANCE) -> str:
    """What `server.json` says of the fake."""
    return json.dumps({"url": server.url, "pid": 1, "version": "0.1.0", "instance": instance})


@pytest.mark.parametrize(("path", "names", "text"), ALL, ids=[" ".join(path[1:]) for path, _, _ in ALL])
def test_every_command_has_json_and_an_example(path: tuple[str, ...], names: list[str], text: str) -> None:
    assert "--json" in names
    assert f"  {' '.join(path)}" in text.split("Example")[1]


def test_wrong_usage_exits_with_2(kastor: Kastor) -> None:
    ran = kastor("tune")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "Error: Missing argument 'DATA'. See kastor tune --help.\n"
    assert kastor("jobs", "lst").err.startswith("Error: No such command 'lst'")
    shown = kastor("jobs")
    assert (shown.code, shown.err.startswith("Usage: kastor jobs")) == (2, True)


def test_no_server_at_the_given_address_is_said_in_one_line(kastor: Kastor) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        ran = kastor("jobs", "list", "--server", url)
    assert (ran.code, ran.out) == (1, "")
    expected = f"Error: No server answers at {url}. Start one with `kastor serve`, or correct --server.\n"
    assert ran.err == expected


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[]", b"", b'"text"'])
@pytest.mark.parametrize("status", [200, 502])
def test_something_else_that_answers_is_said_not_to_be_kastor(
    body: bytes, status: int, kastor: Kastor, server: FakeServer
) -> None:
    server.on("GET", "/kastor/v1/jobs", Reply(body, status))
    ran = kastor("jobs", "list", "--server", server.url)
    assert ran.code == 1
    assert "did not answer like a Kastor server" in ran.err


def test_a_wrong_setting_is_said_in_one_line(kastor: Kastor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_PORT", "many")
    ran = kastor("models", "list")
    assert ran.code == 1
    assert ran.err.startswith("Error: Wrong settings: port")


def test_the_server_that_runs_on_the_data_folder_is_found(kastor: Kastor, server: FakeServer, home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "server.json").write_text(announcement(server))
    server.on("GET", "/kastor/v1/jobs", {"jobs": []})
    assert kastor("jobs", "list", "--json").json == []


def test_another_program_on_an_announced_servers_port_is_not_taken_for_it(
    kastor: Kastor, server: FakeServer, home: Path
) -> None:
    (home / "data").mkdir()
    (home / "data" / "server.json").write_text(announcement(server, instance="one-that-is-gone"))
    server.on("GET", "/kastor/v1/jobs", {"jobs": [{}]})
    assert kastor("jobs", "list", "--json").json == []  # of a private server
    assert [seen.path for seen in server.seen] == ["/healthz"]
    assert "x-goog-api-key" not in server.seen[0].headers


REFUSALS = [
    (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers (callers without …).", "needs a key"),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", "rejects this key"),
]


@pytest.mark.parametrize(("code", "status", "message", "said"), REFUSALS)
def test_a_missing_or_wrong_key_is_said_with_the_way_to_one(
    code: int, status: str, message: str, said: str, kastor: Kastor, server: FakeServer, home: Path, pairs_file: Path
) -> None:
    (home / "data").mkdir()
    (home / "data" / "server.json").write_text(announcement(server))
    body = error_body(code, status, message)
    if code == 400:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        body["error"]["details"] = [info]
    server.on("POST", "/v1beta/tunedModels", Reply(body, code))
    ran = kastor("tune", str(pairs_file))
    assert ran.code == 1 and said in ran.err and server.url in ran.err
    assert "KASTOR_API_KEY" in ran.err and "kastor keys create --email" in ran.err


def test_an_ordinary_refusal_speaks_of_no_keys(kastor: Kastor, server: FakeServer) -> None:
    server.on("GET", "/kastor/v1/jobs", Reply(error_body(403, "PERMISSION_DENIED", "Not yours."), 403))
    assert kastor("jobs", "list", "--server", server.url).err == "Error: Not yours.\n"


def test_the_environments_key_is_sent(kastor: Kastor, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_API_KEY", "a-key")
    server.on("GET", "/kastor/v1/jobs", {"jobs": []})
    assert kastor("jobs", "list", "--server", server.url).code == 0
    assert server.seen[-1].headers["x-goog-api-key"] == "a-key"


def test_the_environment_names_the_server(kastor: Kastor, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_SERVER", server.url.removeprefix("http://"))
    server.on("GET", "/kastor/v1/jobs", {"jobs": []})
    assert kastor("jobs", "list", "--json").json == []


def test_help_needs_none_of_the_heavy_modules() -> None:
    code = (
        "import sys; from kastor.cli import run; run(['--help']); "
        "heavy = {'torch', 'transformers', 'httpx', 'pydantic', 'sqlalchemy', 'fastapi', 'plotext', 'numpy'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version_is_the_packages(kastor: Kastor) -> None:
    assert kastor("version", "--json").json == {"version": "0.1.0"}
    assert kastor("--version").out == "kastor 0.1.0\n"

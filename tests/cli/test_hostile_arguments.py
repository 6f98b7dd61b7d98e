"""Whatever an option or argument of a command is given, the command ends with a sentence, never with a traceback."""

import io
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kastor.cli.app import app
from support.command_result import Kastor
from support.fake_kastor import FakeServer
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_tokenizer

NOT_UTF8 = "caf\udce9"
TEXTS = (
    "",
    " ",
    NOT_UTF8,
    "ключ 💥",
    "a\nb",
    "x" * 5000,
    "../..",
    "\x1b[31m",
    "http://[::1",
    "nan",
    "9" * 30 + "d",
    "=",
)
NUMBERS = ("", "x", "nan", "-1", "0", "2147483648", "9" * 30, "9" * 5000, "1e3", "٣", NOT_UTF8)
FLOATS = (*NUMBERS, "inf", "-inf", "-nan", "1e999", "1e-50", "1e308", "-0.0", "5e-324", "0.5.5")
PATHS = ("", NOT_UTF8, "x" * 5000, "/dev/null", "missing/file", "\x1b[31m", "~", "http://[::1")
WORDS = ("", "x", NOT_UTF8, "nan")
VALUES: dict[object, tuple[str, ...]] = {str: TEXTS, int: NUMBERS, float: FLOATS, Path: PATHS, list[str]: TEXTS}
VALUES[list[Path]] = PATHS
GIVEN = {"data": "pairs.jsonl", "model": "nobody", "prompt": "hi", "name": "nobody", "job": "nothing"}
GIVEN |= {"email": "a@example.org", "key_id": "nothing", "out_dir": "made", "out": "made", "base": "tiny"}
NO_WORK = {"demo", "demo image", "demo video", "export", "serve", "models pull"}
"""Commands that would go on for long with what they are given here, so that their folders cannot be used."""


@dataclass(frozen=True)
class Named:
    """One option or argument of a command."""

    path: tuple[str, ...]
    name: str
    option: str | None
    annotation: object
    others: tuple[str, ...]  # what the command needs besides

    def line(self, value: str) -> list[str]:
        """A command line that gives it the value."""
        given = [value] if self.option is None else [f"{self.option}={value}"]
        return [*self.path, *self.others, *(["--", *given] if self.option is None else given)]

    def __str__(self) -> str:
        return " ".join((*self.path, self.option or self.name.upper()))


def parameters() -> Iterator[Named]:
    """Everything that can be given a value, of every command."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[Named]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        for one in command.params if path else ():
            if not getattr(one, "is_flag", False) and not one.hidden:
                option = next((name for name in one.opts if name.startswith("--")), None)
                yield Named(path, one.name, option, one.type_descriptor.annotation, tuple(needed(command, one)))

    yield from walk(get_command(app), ())


def needed(command: Any, besides: Any) -> Iterator[str]:
    names = [one.name for one in command.params]
    options = [one for one in command.params if one.opts[0].startswith("-") and one is not besides]
    for one in options:
        if one.required or one.name == "base":
            yield f"{one.opts[0]}={GIVEN[one.name]}"
    if "server" in names and besides.name != "server":
        yield "--server=SERVER"
    if "yes" in names:
        yield "--yes"
    arguments = [one for one in command.params if not one.opts[0].startswith("-") and one is not besides]
    yield from (GIVEN[one.name] for one in arguments if one.required)


ALL = list(parameters())


@pytest.fixture
def place(home: Path, pairs_file: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A working directory with a dataset and a base, and a server that knows nothing."""
    folder = home / "tiny"
    folder.mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    catalog = tiny_catalog(home / "catalog.toml", {"tiny": folder}, input_token_limit=200, output_token_limit=56)
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    return server


def test_there_is_much_to_try() -> None:
    assert len(ALL) > 60
    assert {"tune --learning-rate", "generate PROMPT", "check --raise", "keys create --expires"} <= set(map(str, ALL))


@pytest.mark.parametrize("named", ALL, ids=str)
def test_any_value_ends_in_a_sentence(
    named: Named, place: FakeServer, kastor: Kastor, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    if " ".join(named.path) in NO_WORK:
        (home / "a file").write_text("")
        monkeypatch.setenv("KASTOR_CACHE_DIR", str(home / "a file"))
        if named.name != "data_dir":
            monkeypatch.setenv("KASTOR_DATA_DIR", str(home / "a file"))
        monkeypatch.setenv("KASTOR_PORT", place.url.rpartition(":")[2])
    annotation = named.annotation
    chosen = isinstance(annotation, type) and issubclass(annotation, Enum)
    values = WORDS if chosen else VALUES[annotation]
    for count, value in enumerate(values):
        line = [word.replace("SERVER", place.url).replace("made", f"made{count}") for word in named.line(value)]
        ran = kastor(*line)  # an exception would end the test
        assert ran.code in (0, 1, 2), (line, ran)
        assert "Traceback" not in ran.err, (line, ran.err)
        if ran.code:
            assert ran.err.strip() or ran.out.strip(), line
        if annotation is float and value.lstrip("-") in ("nan", "inf", "1e999"):
            said = ran.err.strip().splitlines()
            assert (ran.code, len(said)) == (2, 1), (line, ran.err)
            assert str(named.option) in said[0]
            assert "is not a finite number" in said[0] or "Input should be" in said[0], "it has no bounds of its own"
        if annotation in (str, list[str]) and value == NOT_UTF8:
            assert ran.code == 2 and len(ran.err.strip().splitlines()) == 1, (line, ran.err)
            assert "caf\\udce9 is not UTF-8" in ran.err


def test_a_prompt_on_stdin_that_is_not_utf8_is_said_with_the_byte(
    kastor: Kastor, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    ran = kastor("generate", "tunedModels/x", "-", "--server", server.url)
    assert (ran.code, server.seen) == (2, [])
    assert ran.err == "Error: Invalid value for PROMPT: The text on stdin is not UTF-8: byte 4 is 0xe9.\n"


def command(*arguments: str | bytes, shell_ends: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The program as a shell starts it."""
    line = ["sh", "-c", f'exec "$@" {shell_ends}', "sh", sys.executable, "-m", "kastor.cli", *arguments]
    return subprocess.run(line, capture_output=True, env=os.environ | environment, check=False)


@pytest.mark.usefixtures("without_fork_server")
def test_a_file_name_may_be_any_bytes_in_any_locale(place: FakeServer, home: Path) -> None:
    name = os.fsencode(home) + b"/caf\xe9.jsonl"
    Path(os.fsdecode(name)).write_text('{"text_input": "1", "output": "é"}\n')
    for locale in ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}):
        for more in ([], ["--json"]):
            ran = command("check", name, "--base", "tiny", *more, **locale)
            assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False), ran.stderr


@pytest.mark.usefixtures("without_fork_server")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_reason_to_fail(place: FakeServer, closed: str) -> None:
    for arguments in (("version",), ("check", "pairs.jsonl", "--base", "tiny")):
        ran = command(*arguments, shell_ends=closed)
        assert (ran.returncode, ran.stderr) == (0, b""), ran
    assert command("generate", "x", "-", "--server", place.url, shell_ends="<&-").returncode == 2


def test_a_server_that_is_no_address_is_said(kastor: Kastor) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
    for server, more in itertools.product(("http://[::1", "http://a b", gone, "http://x:99999999"), ([], ["--json"])):
        ran = kastor("jobs", "list", "--server", server, *more)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran.err

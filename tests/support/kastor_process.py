"""Runs a real `kastor serve` process and keeps its output."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

Serve = Callable[..., tuple[str, Path]]
"""Start `kastor serve ARGUMENTS…`: its URL, and the file of its stderr."""


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[str, Path]]:
    """The server, until the block ends; its data folder is the environment's."""
    said = folder / "server.stderr"
    command = [sys.executable, "-m", "kastor.cli", "serve", "--port", "0", "--json", *arguments]
    with said.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, said.read_text()
        yield json.loads(line)["url"], said
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def servers(folder: Path) -> Iterator[Serve]:
    """What starts servers that end with the block."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serving(folder, *arguments))

"""One server for all clients, each of which is a caller of its own; and the clients' environments."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.guide_page import GUIDE
from support.kastor_server import Kastor, serving

collect_ignore = ["scripts"]  # programs of the clients: what they import is in other environments
SCRIPT = GUIDE.parents[1] / "scripts" / "clients"


@pytest.fixture(scope="session")
def kastor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kastor]:
    """The server that all clients share."""
    with serving(tmp_path_factory.mktemp("kastor")) as running:
        yield running


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Path]:
    """The folder of a client's environment; skips where it is not there, but in CI fails."""

    def folder(name: str) -> Path:
        if name == "node" and not shutil.which("node"):
            pytest.skip("Node is not on this machine")
        asked = subprocess.run([sys.executable, SCRIPT, "--made", name], capture_output=True, text=True, check=False)
        if asked.returncode:
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say(asked.stderr.strip())
        return Path(asked.stdout.strip())

    return folder

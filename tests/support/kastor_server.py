"""Runs a real `kastor serve` with a tiny base instead of the embedded one, and keys for several callers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_base

PEOPLE = ("ada", "ben", "cleo", "dora", "emil", "finn", "gus", "hana")
WITHOUT_WEIGHTS = "models/without-weights"  # a job on it fails


@dataclass(frozen=True)
class Kastor:
    """A running server."""

    url: str
    grpc: str  # host:port
    grpc_ca: str  # path of the authority that gRPC's callers are to trust
    log: Path

    def key(self, name: str) -> str:
        """The key of NAME@example.org."""
        return _key(name)


@contextmanager
def serving(folder: Path) -> Iterator[Kastor]:
    """`kastor serve`, gRPC included, with its data in the folder, until the block ends."""
    log = folder / "log"
    command = [sys.executable, "-m", "kastor.cli", "serve", "--port", "0", "--grpc-port", "0", "--json"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment(folder))
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        said = json.loads(line)
        yield Kastor(said["url"], said["grpc"], said["grpc_ca"], log)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _key(name: str) -> str:
    return f"secret-of-{name}"


def _environment(folder: Path) -> dict[str, str]:
    bases = {
        "smollm2-135m-instruct": tiny_base(folder / "tiny"),
        WITHOUT_WEIGHTS.removeprefix("models/"): folder / "no",
    }
    own = {
        "KASTOR_DATA_DIR": str(folder / "data"),
        "KASTOR_CACHE_DIR": str(folder / "cache"),
        "KASTOR_CATALOG_FILE": str(tiny_catalog(folder / "catalog.toml", bases)),
        "KASTOR_API_KEYS": json.dumps({f"{name}@example.org": _key(name) for name in PEOPLE}),
        "KASTOR_NUM_THREADS": "1",
        "KASTOR_SPARE_WORKER_TIMEOUT_S": "0",
        "KASTOR_MAX_RUNNING_JOBS": "1",  # what a page starts beside its first job and cancels costs no worker
        "KASTOR_HEARTBEAT_TIMEOUT_S": "60",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")} | own

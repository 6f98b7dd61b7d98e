"""Fixtures that tests of several folders share: a fresh, migrated database of each kind, and the fork server."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from fork_groups import GROUPS
from kastor.settings import COMPUTE_VARIABLES
from kastor.store.database import Database, migrate, open_database
from support.heavy_imports import TESTS, is_heavy
from support.postgres import fresh_schema, running_postgres

# a shell that starts the suite in the background has interrupts ignored, and children would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

for variable, value in COMPUTE_VARIABLES.items():  # before any test loads torch
    os.environ.setdefault(variable, value)
# some hundred processes read the same sources, and pytest rewrites each test module: compiled once
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("KASTOR_SPARE_WORKER_TIMEOUT_S", "0")  # servers of tests run a job or two: none waits for more

# structlog draws the locals of every frame of an exception if not told otherwise: ten seconds where torch is in them
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


FORK_SERVER = Path(__file__).parent / "support" / "fork_server"


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork servers, which import nothing heavy before a test needs it; the xdist processes share them."""
    if hasattr(config, "workerinput") or sys.platform != "linux":
        return
    folder = Path(tempfile.mkdtemp(prefix="kastor-fork-"))
    os.environ["FORK_SERVERS"] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FORK_SERVER), os.environ.get("PYTHONPATH")]))
    read, write = os.pipe()
    processes = [fork_server(folder, group, read) for group in sorted(set(GROUPS.values()))]
    os.close(read)

    def end() -> None:
        os.close(write)
        for process in processes:
            process.wait()
        shutil.rmtree(folder)

    config.add_cleanup(end)


def fork_server(folder: Path, group: str, lifeline: int) -> "subprocess.Popen[bytes]":
    """One that listens on the socket GROUP in the folder, and ends when the pipe's other end closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / group))
        listener.listen(64)
        command = [sys.executable, FORK_SERVER / "fork_server.py", group, str(listener.fileno()), str(lifeline)]
        return subprocess.Popen(command, pass_fds=(listener.fileno(), lifeline), stdin=subprocess.DEVNULL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` leaves out."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        postgres = "postgres" in getattr(item, "fixturenames", ()) or (
            parameters is not None and parameters.params.get("empty_database_url") == "postgresql"
        )
        if postgres or (TESTS in item.path.parents and is_heavy(item.path)):
            item.add_marker("processes")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their length: those of archives hold the time, which differs between the suite's processes."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def sigterm_as_before() -> Iterator[None]:
    """A worker's parts that run in the tests' own process leave no handler behind, which children would inherit."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """What a test sets up for logs, a level for instance, ends with it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def without_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, workers, engines and exports are processes from the start, as in the product."""
    monkeypatch.delenv("FORK_SERVERS", raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The socket folder of a PostgreSQL; started when first needed."""
    with running_postgres() as socket_folder:
        yield socket_folder


@pytest.fixture(scope="session")
def schema_numbers() -> Iterator[int]:
    """Numbers for names of schemas."""
    return itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'kastor.db'}"
    else:
        name = f"test{next(request.getfixturevalue('schema_numbers'))}"
        with fresh_schema(request.getfixturevalue("postgres"), name) as url:
            yield url


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    """A fresh database with tables; the test runs once on SQLite and once on PostgreSQL."""
    database = open_database(empty_database_url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A fresh SQLite database with tables, for tests of what does not depend on the kind."""
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def database_url(database: Database) -> str:
    """The same, for processes that open it themselves."""
    return database.engine.url.render_as_string(hide_password=False)

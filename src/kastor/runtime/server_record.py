"""How a running server keeps its data folder to itself, and tells commands on the same folder where it is.

`server.lock` is held by the folder's server. `server.json` says where that one is, but proves nothing: its server may
be gone, and another program may have taken the port. A client believes it if `/healthz` tells the same instance.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from kastor import __version__
from kastor.domain.errors import FailedPrecondition

SERVER_FILE = "server.json"
LOCK_FILE = "server.lock"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What the file says of a server."""

    url: str
    pid: int
    version: str
    instance: str  # drawn anew at each start; `/healthz` tells it too


def new_instance() -> str:
    """An id for a server that starts."""
    return secrets.token_hex(8)


def read_server_record(data_dir: Path) -> ServerRecord | None:
    """The server that announced itself in this folder last and has not taken it back, if any."""
    try:
        found = json.loads((data_dir / SERVER_FILE).read_bytes())
        return ServerRecord(str(found["url"]), int(found["pid"]), str(found["version"]), str(found["instance"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_server(data_dir: Path) -> ServerRecord | None:
    """The announced server, if its process is still there."""
    found = read_server_record(data_dir)
    return found if found is not None and _alive(found.pid) else None


@contextmanager
def locked_folder(data_dir: Path) -> Iterator[None]:
    """The data folder for this server alone while the block lasts; however the process ends, its lock ends with it.

    Raises:
        FailedPrecondition: another server has it, or it cannot be written to.

    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(data_dir / LOCK_FILE, timeout=0, mode=0o600)
        lock.acquire()
    except Timeout as error:
        other = running_server(data_dir)
        who = "another Kastor server" if other is None else f"the Kastor server of process {other.pid} ({other.url})"
        raise FailedPrecondition(
            f"{data_dir} is in use by {who}. Use that server, end it first, or give this one a folder with --data-dir."
        ) from error
    except OSError as error:
        raise FailedPrecondition(f"Cannot write to {data_dir}: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def publish_server_record(data_dir: Path, url: str, instance: str) -> Iterator[None]:
    """The file of this process, written at once and removed at the end, if it is still its own.

    On a full disk the server goes without: commands find it by `--server`.

    Raises:
        FailedPrecondition: it cannot be written.

    """
    mine = ServerRecord(url, os.getpid(), __version__, instance)
    path = data_dir / SERVER_FILE
    temporary = data_dir / f".{SERVER_FILE}.{mine.pid}"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(mine)) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise FailedPrecondition(f"Cannot write {path}: {error.strerror}.") from error
        temporary.unlink(missing_ok=True)
        structlog.get_logger().warning("disk_full", reason=f"{path} was not written; commands need --server {url}")
    try:
        yield
    finally:
        if read_server_record(data_dir) == mine:
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process is one, too
        return True
    return True

"""The folder of one server's sockets; those of killed servers go at the next start, told by their free locks."""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "kastor-run-"
LOCK = "lock"
SOCKET_PATH_BYTES = 100
"""The kernel takes 108 (macOS: 104) with the closing zero."""
UNLOCKED_S = 60.0
"""A folder without a lock is being made; after so long, it was left so."""
SHORT = Path("/tmp")  # noqa: S108  # for sockets only, in folders of our own


class SocketFolder:
    """A private folder with a path short enough for a socket in it, whatever TMPDIR is; `close` removes it."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        if len(os.fsencode(self.path / "999999.sock")) > SOCKET_PATH_BYTES:
            self.path.rmdir()
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHORT))
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)  # not inherited by children
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove the folders of servers that are gone; those of others and of other users stay."""
    for parent in {Path(tempfile.gettempdir()), SHORT}:
        for folder in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink() and _is_left(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > UNLOCKED_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True

"""Temporary folders that outlive no process for long: those of killed ones go at the next start, told by free locks."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LOCK = "lock"
UNLOCKED_S = 60.0
"""An empty folder without a lock is being made; after so long, it was left so."""


class TemporaryFolder:
    """A private folder that is locked while its process lives; `close` removes it. Also a context manager.

    Whoever makes one removes those with the same `prefix` whose processes are gone. `parent` is the machine's place for
    temporary files if absent.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        remove_abandoned(prefix, {parent or Path(tempfile.gettempdir())})
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)  # not inherited by children
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove it with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned(prefix: str, parents: Iterable[Path]) -> None:
    """Remove the folders of processes that are gone; those of others and of other users stay."""
    for parent in parents:
        for folder in parent.glob(f"{prefix}*"):
            with suppress(OSError):
                if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                    _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - folder.lstat().st_mtime > UNLOCKED_S:
            folder.rmdir()  # where something is in it, it is somebody else's
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)

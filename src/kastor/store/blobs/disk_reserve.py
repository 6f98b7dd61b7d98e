"""Room on the disk that is held back, so that a full one can still be put in order.

A server needs some to start (SQLite's files) and to delete (its rows). It lies in one file that goes when the disk is
full, and comes back when there is room again.
"""

import contextlib
import os
import shutil
from pathlib import Path

from kastor.runtime.atomic import write_atomically

RESERVE_FILE = ".reserve"
NUM_BYTES = 4 * 1024**2
PLENTY = 16  # times as much must be free before it is held back (again)


class DiskReserve:
    """The reserve in a data folder. All of it is best effort: without one a full disk is as it ever was."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / RESERVE_FILE

    def keep(self) -> None:
        """Hold room back, if there is plenty. To be called now and then."""
        if self._file.exists():
            return
        with contextlib.suppress(OSError):
            if self._free() >= PLENTY * NUM_BYTES:
                write_atomically(self._file, [os.urandom(NUM_BYTES)])  # zeros take no room where files are compressed

    def release(self) -> bool:
        """Give the room up, if the disk is full; whether that was done."""
        try:
            if self._free() >= NUM_BYTES:
                return False
            self._file.unlink()
        except OSError:  # there is none, or it cannot be said
            return False
        return True

    def _free(self) -> int:
        return shutil.disk_usage(self._file.parent).free

"""A small mounted file system for tests that fill a disk, if this process may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

WHY = "may not mount; other tests put the fault of a full disk in its place"


@cache
def may_mount() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason=WHY)


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """The folder of a file system of that size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path, *, spare_bytes: int = 0) -> None:
    """Take all room of the disk but that."""
    disk = os.statvfs(file.parent)
    room = disk.f_bavail * disk.f_frsize - spare_bytes
    if room > 0:
        with file.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, room)

"""Open files and child processes of the test process, to check that nothing is left behind."""

import os
from pathlib import Path


def open_files() -> set[str]:
    """The numbers of open file descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def child_processes() -> set[int]:
    """The ids of children of this process's main thread."""
    return set(map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()))

"""Ending a process that leads a session of its own, and whatever it started."""

import contextlib
import os
import signal
import subprocess

KILL_WAIT_S = 5.0
"""The kernel ends a process within milliseconds; only one stuck in I/O takes longer, and is not waited for."""

Process = subprocess.Popen[bytes]


def kill_process_group(process: Process) -> None:
    """End it and its children at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_exit(process: Process) -> None:
    """Until it has ended, or `KILL_WAIT_S` have passed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_WAIT_S)

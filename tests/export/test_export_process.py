"""The exporting process ends with the command that started it, however that ends."""

import os
import subprocess
import sys
import time

import pytest

PARENT = """
import subprocess, sys, time
from kastor.runtime.parent_death import ParentDeathPipe
lifeline = ParentDeathPipe()
command = [sys.executable, "-m", "kastor.export", "--parent-fd", str(lifeline.child_fd)]
child = subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=(lifeline.child_fd,))
print(child.pid, flush=True)
time.sleep(120)
"""


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as status:  # noqa: PTH123  # no file system's
            return status.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.usefixtures("without_fork_server")
def test_it_ends_when_its_command_is_killed() -> None:
    order, writing = os.pipe()  # its input stays open, so that only the parent's end tells
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=order, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    deadline = time.monotonic() + 60
    while not gone(child):
        assert time.monotonic() < deadline, "the exporting process outlived its command"
        time.sleep(0.1)
    os.close(order)
    os.close(writing)

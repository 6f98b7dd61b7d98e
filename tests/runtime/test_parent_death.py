"""A child that holds a lifeline ends with its parent, whatever ends the parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from kastor.runtime.parent_death import ParentDeathPipe, watch_parent

CHILD = "import os, sys, time; from kastor.runtime.parent_death import watch_parent; \
watch_parent(int(sys.argv[1]), lambda: os._exit(3)); print('watching', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
from kastor.runtime.parent_death import ParentDeathPipe
lifeline = ParentDeathPipe()
for _ in range(2):
    child = subprocess.Popen(
        [sys.executable, "-c", {CHILD!r}, str(lifeline.child_fd)],
        stdout=subprocess.PIPE, pass_fds=(lifeline.child_fd,), start_new_session=True,
    )
    child.stdout.readline()
    print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_a_killed_parent(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        assert not any(gone(child) for child in children)
        parent.send_signal(number)
        assert parent.wait(10) == -number
    deadline = time.monotonic() + 10
    while not all(gone(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(gone(child) for child in children)


def test_closing_the_lifeline_ends_the_child() -> None:
    lifeline = ParentDeathPipe()
    command = [sys.executable, "-c", CHILD, str(lifeline.child_fd)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(lifeline.child_fd,)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"watching\n"
        lifeline.close()
        lifeline.close()
        assert child.wait(10) == 3


def test_nothing_happens_while_the_parent_lives() -> None:
    lifeline, is_gone = ParentDeathPipe(), threading.Event()
    watch_parent(os.dup(lifeline.child_fd), is_gone.set)
    assert not is_gone.wait(0.1)
    lifeline.close()
    assert is_gone.wait(10)


def test_a_lifeline_that_was_not_passed_on_is_an_error_at_once(tmp_path: Path) -> None:
    file = os.open(tmp_path, os.O_RDONLY)
    os.close(file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        watch_parent(file, lambda: None)

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.media.decode_limits import DecodeLimits
from kastor.media.sandbox import SandboxCrashed, SandboxProcess, TimeBudget
from support.polling import wait_until

REQUEST = {"do": "probe", "path": "/absent", "cpu_s": 10}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxProcess]:
    monkeypatch.setenv("KASTOR_API_KEYS", "a-secret")
    child = SandboxProcess(DecodeLimits())
    child.send(REQUEST)
    child.receive(TimeBudget(30))
    yield child
    child.close()


def _about(child: SandboxProcess, name: str) -> str:
    return Path(f"/proc/{child.pid}/{name}").read_text()


def test_the_child_has_bounds_and_can_gain_no_privileges(child: SandboxProcess) -> None:
    bounds = {line[:25].strip(): line[26:46].strip() for line in _about(child, "limits").splitlines()}
    assert bounds["Max address space"] == str(DecodeLimits().address_space_bytes)
    assert bounds["Max open files"] == "64"
    assert bounds["Max file size"] == str(1 << 20)
    assert bounds["Max core file size"] == "0"
    assert 0 < int(bounds["Max cpu time"]) < 60
    assert "NoNewPrivs:\t1" in _about(child, "status")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into a process that hides itself")
def test_the_child_inherits_no_secret_no_socket_and_no_other_file(child: SandboxProcess) -> None:
    assert "a-secret" not in _about(child, "environ")
    assert "a-secret" in os.environ["KASTOR_API_KEYS"]
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert all(target.startswith(("pipe:", "/tmp/", "/dev/null")) for target in targets), targets  # noqa: S108


def test_the_child_ends_when_its_input_does(child: SandboxProcess) -> None:
    script = (
        "import os, sys; from kastor.media.decode_limits import DecodeLimits\n"
        "from kastor.media.sandbox import SandboxProcess\n"
        "child = SandboxProcess(DecodeLimits()); print(child.pid, flush=True); os._exit(0)"
    )
    orphan = int(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True).stdout)
    wait_until(lambda: not _alive(orphan))
    assert _alive(child.pid)


def test_a_dead_child_says_how_it_died(child: SandboxProcess) -> None:
    os.kill(child.pid, signal.SIGSEGV)
    with pytest.raises(SandboxCrashed) as caught:
        child.receive(TimeBudget(30))
    assert "SIGSEGV" in caught.value.fault.message
    assert not caught.value.timed_out
    with pytest.raises(SandboxCrashed):
        child.send(REQUEST)


def test_a_bug_in_the_child_is_told_in_its_last_words(child: SandboxProcess) -> None:
    child.send({"do": "probe", "cpu_s": 10})
    with pytest.raises(SandboxCrashed, match="KeyError: 'path'"):
        child.receive(TimeBudget(30))


def test_a_silent_child_is_not_waited_for_longer_than_allowed(child: SandboxProcess) -> None:
    with pytest.raises(SandboxCrashed) as caught:
        child.receive(TimeBudget(0.05))
    assert caught.value.timed_out
    assert caught.value.fault.rule == "decoder_timeout"


def test_processor_time_beyond_the_allowance_ends_the_process() -> None:
    script = "from kastor.media.decoder_process.process_limits import set_cpu_limit; set_cpu_limit(0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -signal.SIGXCPU


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False

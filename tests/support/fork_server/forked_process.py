"""The near side of the fork server: a process that stands for its fork, with the same streams, signals and end.

Whoever started this process sees its pid, sends it signals and gets the exit status of the fork.
"""

import array
import contextlib
import json
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

IMPORT_VARIABLES = (
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "TORCH_",
    "PYTORCH_",
    "HF_",
    "TRANSFORMERS_",
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
)
"""Libraries and Python itself read variables with these prefixes as they are imported or start."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
MAX_FDS = 250


def import_environment() -> dict[str, str]:
    """The variables that must be those of the fork server, since a fork cannot change what was imported."""
    return {name: value for name, value in os.environ.items() if name.startswith(IMPORT_VARIABLES)}


def run(address: str, option: str, value: str, arguments: list[str]) -> None:
    """Have a fork run `python OPTION VALUE ARGUMENTS…` in place of this process, and end as it ends.

    Returns only where the fork server imported under other variables: then this process runs it itself.
    """
    numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # pathlib takes 10 ms to import
    open_fds = [number for number in numbers if _is_open(number)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        told = {
            "import_environment": import_environment(),
            "environment": dict(os.environ),
            "option": option,
            "value": value,
            "arguments": arguments,
            "folder": os.getcwd(),  # noqa: PTH109
            "umask": _umask(),
            "fds": open_fds,
            "ignored": [int(number) for number in FORWARDED if signal.getsignal(number) is signal.SIG_IGN],
            "leads_session": os.getsid(0) == os.getpid(),
        }
        body = os.memfd_create("request")
        os.write(body, json.dumps(told).encode())
        fds = array.array("i", [body, *open_fds])
        server.sendmsg([b"fork"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        os.close(body)
        started = server.recv(64)
        if started == b"other variables":
            return
        _forward_signals(int(started))
        for number in open_fds:
            if number != sys.stderr.fileno():  # the fork has them, and may close them for good
                os.close(number)
        ended = server.recv(64)
    _end(int(ended))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # the listing's own
        return False
    return True


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _forward_signals(pid: int) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)


def _end(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)

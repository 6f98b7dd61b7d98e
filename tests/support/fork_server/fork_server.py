"""A process that has imported what workers, engines and exports need, and forks for each one that a test starts.

Importing torch, transformers and peft takes more than four seconds of a processor each time; a fork takes some
milliseconds. The product does not do so (docs/decisions/0019): threads do not survive a fork. None runs here when it
forks, since nothing but imports has happened. It imports with the first request, and ends with the test run.

    python fork_server.py GROUP LISTENER_FD LIFELINE_FD
"""

import array
import atexit
import builtins
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from forked_process import MAX_FDS, import_environment

HIGH = 600
"""Received descriptors are put at this number and above while those below are made those of the process stood for."""
PRELOADED = {
    "torch": (
        "kastor.worker.run",
        "kastor.worker.outcome",
        "kastor.engine",
        "kastor.export.run",
        "transformers.models.llama.modeling_llama",
        "transformers.models.auto.modeling_auto",
    ),
    "commands": ("kastor.cli.app", "kastor.cli.serve", "kastor.server.main"),
}
RUN_AS_MAIN = "kastor.engine"  # the others are packages, or imported by nobody else


def main() -> None:
    """Serve until the test run is over; in each fork, run the module that was asked for."""
    group, listener, lifeline = sys.argv[1], socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is pytest's, and the lifeline tells of its end
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    loaded = False
    while True:
        if lifeline in select.select([listener, lifeline], [], [])[0]:
            return
        connection, _ = listener.accept()
        if not loaded:
            preload(PRELOADED[group])
            loaded = True
        if os.fork():
            connection.close()
            continue
        listener.close()
        os.close(lifeline)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = keep(connection)
        if request is None:
            os._exit(0)
        run(request)


def preload(names: tuple[str, ...]) -> None:
    """Import everything, as `kastor.worker` does: without looking for garbage, of which there is none."""
    gc.disable()
    for name in names:
        __import__(name)
    sys.modules.pop(RUN_AS_MAIN, None)  # a fork does
    gc.freeze()
    gc.enable()


def keep(connection: socket.socket) -> dict[str, Any] | None:
    """Fork the process, and end it when the one that it stands for is killed. The fork gets what it is to run."""
    _, ancillary, _, _ = connection.recvmsg(16, socket.CMSG_SPACE(MAX_FDS * 4))
    received = array.array("i")
    for _, _, data in ancillary:
        received.frombytes(data[: len(data) - len(data) % received.itemsize])
    body, *fds = received
    request: dict[str, Any] = json.loads(os.pread(body, os.fstat(body).st_size, 0))
    if request["import_environment"] != import_environment():
        connection.send(b"other variables")
        return None
    child = os.fork()
    if not child:
        connection.detach()
        become(request, fds)
        return request
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(OSError):  # killed before it could know
        connection.send(str(child).encode())
    child_end = os.pidfd_open(child)
    if child_end not in select.select([child_end, connection], [], [])[0]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(OSError):
        connection.send(str(status).encode())
    return None


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Take on the descriptors, environment, folder and signals of the process that this one stands for."""
    os.setsid()
    high = []
    for fd in fds:
        moved = HIGH + len(high)
        os.dup2(fd, moved)
        high.append(moved)
    os.closerange(0, HIGH)
    for moved, number in zip(high, request["fds"], strict=True):
        os.dup2(moved, number)
    os.closerange(HIGH, HIGH + len(high))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as Python opens them
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)


def run(request: dict[str, Any]) -> NoReturn:
    """Do what `python OPTION VALUE ARGUMENTS…` does; at the end, free no memory, which is the fork server's as well."""
    option, value = request["option"], request["value"]
    sys.argv[:] = [option, *request["arguments"]]
    sys.orig_argv[1:] = [option, value, *request["arguments"]]
    code = 0
    try:
        if option == "-m":
            runpy.run_module(value, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, "")
            exec(value, {"__name__": "__main__", "__builtins__": builtins})  # noqa: S102  # a test's own code
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            sys.stderr.write(ending.code + "\n")
    except BaseException as error:  # noqa: BLE001  # as the interpreter ends
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

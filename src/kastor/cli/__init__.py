"""The command line: thin commands over the HTTP API, without rules of their own.

Heavy modules are imported only by the commands that need them, so that `kastor --help` answers at once.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FrameType


def main() -> None:
    """The program `kastor`."""
    _open_missing_streams()
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGHUP, _exit_on_signal)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from typer import Abort, TyperException

    from kastor.cli.console.output import console
    from kastor.domain.errors import KastorError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names hold any bytes, terminals may be ASCII
    try:
        code = _command()(args=list(arguments), prog_name="kastor", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except TyperException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # help of a group that was called without a command
            console(stderr=True).print(message)
            return error.exit_code
        context = getattr(error, "ctx", None)  # only usage errors have one
        hint = "" if context is None or message.startswith("Invalid value") else f" See {context.command_path} --help."
        console(stderr=True).print(f"Error: {message}{hint}", style="red")
        return error.exit_code
    except Abort:
        console(stderr=True).print("Aborted.")
        return 1
    except KeyboardInterrupt:
        return 130
    except KastorError as error:
        console(stderr=True).print(f"Error: {error.message}", style="red")
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        console(stderr=True).print(f"Error: {error.strerror or error}{where}", style="red")
        return 1
    return 0


@cache
def _command() -> Callable[..., object]:
    """The command tree; typer takes 25 ms to build it."""
    from typer.main import get_command

    from kastor.cli.app import app

    return get_command(app)


def _open_missing_streams() -> None:
    """Open os.devnull for standard streams that were closed at the start (`>&-`), which Python leaves as `None`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for the whole process


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Exit in order on SIGTERM and SIGHUP, so that the processes a command started are stopped too."""
    raise SystemExit(128 + number)

"""The command line: thin commands over the HTTP API. No rules live here.

Nothing heavy is imported before a command needs it: `kastor --help` answers at once.
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
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 well, 1 failed, 2 wrong usage, 130 interrupted."""
    from typer import Abort, TyperException

    from kastor.cli.console.output import console
    from kastor.domain.errors import KastorError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be any bytes, terminals ASCII only
    try:
        code = _command()(args=list(arguments), prog_name="kastor", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except TyperException as error:
        said = error.format_message()
        if said.startswith("Usage: "):  # the help of a group that was called without a command
            console(stderr=True).print(said)
            return error.exit_code
        context = getattr(error, "ctx", None)  # of errors in the usage
        hint = "" if context is None or said.startswith("Invalid value") else f" See {context.command_path} --help."
        console(stderr=True).print(f"Error: {said}{hint}", style="red")
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
    """All commands; typer takes 25 ms to build them."""
    from typer.main import get_command

    from kastor.cli.app import app

    return get_command(app)


def _open_missing_streams() -> None:
    """Python has none of those that were closed when it was started (`>&-`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for the whole process


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM and a closed terminal end a command the orderly way: whatever it started is ended too."""
    raise SystemExit(128 + number)

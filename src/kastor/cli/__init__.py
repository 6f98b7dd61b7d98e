"""The command line: thin commands over the HTTP API. No rules live here.

Nothing heavy is imported before a command needs it: `kastor --help` answers at once.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main() -> None:
    """The program `kastor`."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 well, 1 failed, 2 wrong usage, 130 interrupted."""
    from typer.main import get_command

    from kastor.cli.app import app
    from kastor.cli.output import console
    from kastor.domain.errors import KastorError

    try:
        get_command(app)(args=list(arguments), prog_name="kastor")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
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


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM and a closed terminal end a command the orderly way: whatever it started is ended too."""
    raise SystemExit(128 + number)

"""The exporting process: a request on stdin; on stdout one JSON object a line: stages, then a result or an error."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

import torch

from kastor.domain.errors import Internal, KastorError
from kastor.export.request import ExportRequest
from kastor.export.run import run_export
from kastor.models.load import compute_threads
from kastor.runtime.parent_death import watch_parent

GRACE_S = 10.0


def main() -> None:
    """Read the request, run the export, print its progress and its result."""
    parser = argparse.ArgumentParser(prog="kastor.export")
    parser.add_argument("--parent-fd", type=int, help="ends this process when the pipe's other end closes")
    parent_fd = parser.parse_args().parent_fd
    if parent_fd is not None:
        watch_parent(parent_fd, _end)
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's, which then ends this process
    signal.signal(signal.SIGTERM, _stop)
    lines = sys.stdout

    def print_line(**fields: object) -> None:
        lines.write(json.dumps(fields) + "\n")
        lines.flush()

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print
        try:
            order = ExportRequest.decode(sys.stdin.read())
            torch.set_num_threads(order.num_threads or compute_threads())
            print_line(result=run_export(order, lambda stage: print_line(stage=stage)))
        except KastorError as error:
            print_line(error=error.message)
        except Exception as error:  # the outermost loop of the process: the command learns of any error
            first = (str(error).strip() or "no message").splitlines()[0]
            print_line(error=Internal(f"Exporting failed with {type(error).__name__}: {first}").message)
            raise


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Exit, which removes what is half written; a second signal must not cut that short."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(143)


def _end() -> None:
    """Ask the main thread to end and clean up; if it does not, as in a long computation, exit regardless."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(143)


if __name__ == "__main__":
    main()

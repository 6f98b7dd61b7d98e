"""The exporting process: an order on stdin; on stdout a JSON object a line, stages, then a result or an error."""

import contextlib
import json
import os
import signal
import sys

import torch

from kastor.domain.errors import Internal, KastorError
from kastor.export.making import make
from kastor.export.order import Order
from kastor.models.load import compute_threads


def main() -> None:
    """Read, make, tell."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half written is removed on the way out
    lines = sys.stdout

    def tell(**said: object) -> None:
        lines.write(json.dumps(said) + "\n")
        lines.flush()

    with contextlib.redirect_stdout(sys.stderr):  # whatever the libraries say
        try:
            order = Order.of(sys.stdin.read())
            torch.set_num_threads(order.num_threads or compute_threads())
            tell(result=make(order, lambda stage: tell(stage=stage)))
        except KastorError as error:
            tell(error=error.message)
        except Exception as error:  # the process's outermost loop: the command is told whatever it was
            first = (str(error).strip() or "no message").splitlines()[0]
            tell(error=Internal(f"Exporting failed with {type(error).__name__}: {first}").message)
            raise


if __name__ == "__main__":
    main()

"""The loop that removes what nobody needs any more, beside the server's answers."""

import threading
from collections.abc import Callable, Sequence

import structlog

from kastor.domain.errors import KastorError
from kastor.runtime.logging import RepeatLimit

EVERY_S = 2.0  # how soon the files of a model deleted in mid-training go after its worker


def run_cleanup(tasks: Sequence[Callable[[], object]], stop: threading.Event) -> None:
    """Do each task now and then, until `stop`; one that fails is tried again, and told of once a minute."""
    log, repeats = structlog.get_logger(), RepeatLimit()
    while not stop.wait(EVERY_S):
        for task in tasks:
            try:
                task()
            except KastorError as error:
                if (more := repeats.passes(error.message)) is not None:
                    log.error("tidy_failed", reason=error.message, **more)
            except Exception as error:  # a process loop: what could not be removed now is tried again
                if (more := repeats.passes(type(error).__name__)) is not None:
                    log.exception("tidy_failed", **more)

"""How the processes log: structured, to stderr. Each composition root calls `configure_logs` once."""

import contextlib
import logging
import sys
from typing import Literal, TextIO

import structlog


class _Forgiving:
    """A stream whose full disk or closed terminal ends no work: what cannot be logged is not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_logs(form: Literal["console", "json"]) -> None:
    """Send structlog's events to stderr as lines for eyes or as JSON lines, with time and level."""
    if form == "json":
        look: list[structlog.types.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        look = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *look,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Forgiving(sys.stderr)),  # type: ignore[arg-type]  # as much of a file as it needs
        cache_logger_on_first_use=True,
    )

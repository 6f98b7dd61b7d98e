"""How the processes log: structured, to stderr, without keys. Each composition root calls `configure_logs` once."""

import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

import structlog

from kastor.domain.visible_text import json_text, visible_text

_SECRETS = re.compile(
    r"(?P<name>(?:[?&\s]|%3F|%26)(?:key|access_token|oauth_token)(?:=|%3D)|\bBearer\s+)[^&\s\"'<>\\\x1b]+"
    r"|(?P<id>\bkastor_[a-z0-9]{10}_)[A-Za-z0-9]{20,}",
    re.IGNORECASE,
)


def redact_secrets(text: str) -> str:
    """The text without the keys in it: those in a query, after the word Bearer, and Kastor's own wherever they stand.

    >>> redact_secrets("GET /v1/models?key=AIza-1&alt=json"), redact_secrets("Authorization: Bearer abc.def")
    ('GET /v1/models?key=***&alt=json', 'Authorization: Bearer ***')
    >>> redact_secrets("kastor_0123456789_" + "x" * 43)
    'kastor_0123456789_***'
    """
    return _SECRETS.sub(lambda found: (found["name"] or found["id"]) + "***", text)


FORGOTTEN_AFTER = 10  # of its intervals a repeated line is: a loop may meet ever new ones


class RepeatLimit:
    """Of log lines that a loop would write again and again the first, then one a minute."""

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._passed: dict[str, tuple[float, int]] = {}  # key -> when one passed, how many did not since

    def passes(self, key: str) -> dict[str, int] | None:
        """Nothing, if this line is to be left out; else what it says of those that were: {"repeated": 12}."""
        now = self._clock()
        at, held = self._passed.get(key, (None, 0))
        if at is not None and now - at < self._every_s:
            self._passed[key] = (at, held + 1)
            return None
        self._passed = {
            one: last for one, last in self._passed.items() if now - last[0] < FORGOTTEN_AFTER * self._every_s
        }
        self._passed[key] = (now, 0)
        return {"repeated": held} if held else {}


class _Forgiving:
    """A stream whose full disk or closed terminal ends no work: what cannot be logged is not. Keys are taken out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(redact_secrets(text))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Forwarded(logging.Handler):
    """What libraries log, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as an event of ours."""
        log = structlog.get_logger(library=record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def _visible_values(logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The event with nothing in it that a terminal would obey: callers choose paths, files and models their texts."""
    return {name: visible_text(value) if isinstance(value, str) else value for name, value in event.items()}


def _visible_traceback(out: TextIO, exc_info: structlog.types.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(visible_text(text.getvalue()))


def configure_logs(
    form: Literal["console", "json"], level: Literal["debug", "info", "warning", "error"] = "info"
) -> None:
    """Send structlog's events from `level` on to stderr as lines for eyes or as JSON lines, with time and level."""
    if form == "json":
        look: list[structlog.types.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(json_text),
        ]
    else:
        look = [
            _visible_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_visible_traceback),
        ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *look,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Forgiving(sys.stderr)),  # type: ignore[arg-type]  # as much of a file as it needs
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forwarded()], level=logging.WARNING)

"""`kastor serve`: the HTTP process, in the foreground."""

import json
import os
import signal
import sys
from dataclasses import dataclass

from kastor import server
from kastor.cli.output import Output
from kastor.lifeline import watch_parent
from kastor.settings import load_settings


@dataclass(frozen=True, slots=True)
class Internals:
    """How a private server is started by another command (`cli.private`)."""

    private: bool = False
    scheduler: bool = True
    parent_fd: int | None = None


def run(given: dict[str, object], internals: Internals, out: Output) -> None:
    """Serve until interrupted; `given` are the settings named on the command line."""
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    if internals.parent_fd is not None:
        watch_parent(internals.parent_fd, _end)

    def listening(url: str) -> None:
        if out.as_json:
            sys.stdout.write(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
            sys.stdout.flush()
        else:
            out.say(f"Kastor listens on {url}  (data in {settings.data_dir}; Ctrl-C ends it)", style="")

    server.serve(settings, run_scheduler=internals.scheduler, announce=not internals.private, on_listening=listening)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

"""`kastor serve`: the HTTP process, in the foreground."""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from kastor.cli.console.output import Output
from kastor.runtime.parent_death import watch_parent
from kastor.security.file_modes import private_umask
from kastor.server import main
from kastor.settings import load_settings


@dataclass(frozen=True, slots=True)
class Internals:
    """Options by which another command starts a private server (see `cli.client.ephemeral_server`)."""

    private: bool = False
    scheduler: bool = True
    parent_fd: int | None = None


def run(given: dict[str, object], internals: Internals, out: Output) -> None:
    """Serve until interrupted; `given` are the settings from the command line."""
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    if internals.parent_fd is not None:
        watch_parent(internals.parent_fd, _stop)

    grpc_fields: dict[str, object] = {}

    def on_grpc(endpoint: str, authority: Path | None) -> None:
        grpc_fields.update({"grpc": endpoint} if authority is None else {"grpc": endpoint, "grpc_ca": str(authority)})
        if not out.as_json:
            trust = f"  (clients need GRPC_DEFAULT_SSL_ROOTS_FILE_PATH={authority})" if authority is not None else ""
            out.say(f"Kastor speaks gRPC on {endpoint}{trust}", style="")

    def on_listening(url: str) -> None:
        if out.as_json:
            sys.stdout.write(json.dumps({"url": url, "pid": os.getpid()} | grpc_fields) + "\n")
            sys.stdout.flush()
        else:
            out.say(f"Kastor listens on {url}  (data in {settings.data_dir}; Ctrl-C stops it)", style="")

    def on_ending(num_jobs: int) -> None:
        if not out.as_json:
            jobs = f" {num_jobs} job{'s' * (num_jobs > 1)} will go on at the next start." if num_jobs else ""
            out.say(f"Kastor is stopping.{jobs} Press Ctrl-C again to stop at once.", style="")

    with private_umask():
        main.serve(
            settings,
            run_scheduler=internals.scheduler,
            announce=not internals.private,
            on_listening=on_listening,
            on_grpc=on_grpc,
            on_ending=on_ending,
        )


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

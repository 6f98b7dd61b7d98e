"""Runs a server in a process of its own, which prints its address."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = """
import sys
from pathlib import Path
from kastor.settings import Settings
from kastor.server.main import serve
settings = Settings(data_dir=Path(sys.argv[1]), port=0, log_format="json", no_auth=True)
serve(settings, run_scheduler=sys.argv[2] == "jobs", on_listening=lambda url: print(url, flush=True))
print("ended in order", flush=True)
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")}


@contextmanager
def serving(folder: Path, *, jobs: bool = True) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", SERVE, str(folder), "jobs" if jobs else "no-jobs"]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment())
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, (folder / "stderr").read_text()
        yield process, url
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

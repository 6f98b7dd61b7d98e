"""Run a linear probe on pictures in its own process (`linear_probe_main`), so that the caller does not load torch."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kastor.domain.content import Resolution
from kastor.domain.errors import Internal


def run_linear_probe(
    base: Path,
    cache: Path,
    family: str,
    resolution: Resolution,
    known: Sequence[tuple[Path, str]],
    asked: Sequence[Path],
    *,
    threads: int,
) -> list[str]:
    """Predict a label for each unlabelled picture with a linear probe on features of the base's vision tower.

    Args:
        base: folder of a base model whose vision tower takes all pictures at one size.
        family: its family's name.
        resolution: at which pictures are encoded.
        cache: folder of the feature cache.
        known: labelled pictures.
        asked: unlabelled pictures.
        threads: number of CPU threads of the tower.

    Raises:
        Internal: the process failed; the message has its last line.

    """
    request: dict[str, object] = {"base": str(base), "cache": str(cache), "family": family, "resolution": resolution}
    request |= {"threads": threads}
    request |= {"known": [[str(path), label] for path, label in known], "asked": [str(path) for path in asked]}
    command = [sys.executable, "-m", "kastor.evaluation.linear_probe_main"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Internal(f"The linear probe failed: {last}")
    return [str(label) for label in json.loads(done.stdout)["labels"]]

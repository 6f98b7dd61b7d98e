"""Asking for a linear probe on pictures; `looked_at` makes it, in a process of its own: nothing here loads torch."""

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
    """The label of each asked picture, by a linear probe on what the base's tower sees of the known ones.

    Args:
        base: folder of a base model that sees every picture in one size.
        family: its family's name.
        resolution: that pictures are seen at.
        cache: where features are kept.
        known: pictures with their labels.
        asked: pictures without.
        threads: that the tower computes with.

    Raises:
        Internal: the process failed; says what it said last.

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

"""Manifests of folders of weights (checkpoints, adapters): sizes and sha256 of their files, and the check against them.

No torch: server, workers and engines share this one check.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kastor.domain.errors import FailedPrecondition

MANIFEST_FILE = "manifest.json"
FORMAT = 1


def manifest(folder: Path) -> dict[str, Any]:
    """What the manifest in `folder` says.

    Raises:
        FailedPrecondition: there is none, or it is damaged; names it.

    """
    file = folder / MANIFEST_FILE
    try:
        said = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{file} is missing or damaged. Check the disk, and tune again.") from error
    if not isinstance(said, dict) or not isinstance(said.get("files"), dict):
        raise FailedPrecondition(f"{file} is damaged: it lists no files. Check the disk, and tune again.")
    return said


def write_manifest(folder: Path, about: Mapping[str, object]) -> None:
    """Write the manifest of the files in `folder`, with what is said `about` them."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_FILE
    }
    text = json.dumps({"format": FORMAT, **about, "files": files}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", "utf-8")


def verify(folder: Path) -> None:
    """See to it that the files in `folder` are those that its manifest lists.

    Raises:
        FailedPrecondition: one is missing or damaged; names it.

    """
    for name, said in manifest(folder)["files"].items():
        file = folder / name
        try:
            sound = sha256_of(file) == said["sha256"]
        except (OSError, TypeError, KeyError):
            sound = False
        if not sound:
            raise FailedPrecondition(
                f"{file} is missing or damaged: its sha256 is not the manifest's. Check the disk, and tune again."
            )


def sha256_of(file: Path) -> str:
    """The hash of a file's bytes, hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

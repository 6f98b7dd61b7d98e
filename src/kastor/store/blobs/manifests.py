"""Manifests of folders of weights (checkpoints, adapters): sizes and sha256 of their files, and the check against them.

No torch: server, workers and engines share this one check.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kastor.domain.certificate import CERTIFICATE_FILE
from kastor.domain.errors import DataLoss

MANIFEST_FILE = "manifest.json"
STATE_FILE = "training_state.safetensors"
FORMAT = 1
UNREAD = frozenset({CERTIFICATE_FILE, STATE_FILE})
"""Files that no answer is computed with; kept checkpoints lose their training state."""
READ_SUFFIXES = frozenset({".json", ".safetensors"})


def write_manifest(folder: Path, about: Mapping[str, object]) -> None:
    """Write the manifest of the files that lie in the folder now, with what there is to say about the model."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_FILE
    }
    text = json.dumps({"format": FORMAT, **about, "files": files}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", "utf-8")


def manifest(folder: Path) -> dict[str, Any]:
    """What the manifest in the folder says.

    Raises:
        DataLoss: it is missing or damaged.

    """
    try:
        found = json.loads((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError as error:
        raise _damaged(folder, f"{MANIFEST_FILE} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{MANIFEST_FILE} cannot be read") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise _damaged(folder, f"{MANIFEST_FILE} lists no files")
    return found


def verify(folder: Path, *, unread: Collection[str] = ()) -> None:
    """Check that the files in the folder are those that its manifest lists, by their sha256; `unread` may be anything.

    Raises:
        DataLoss: one is missing, damaged or not listed; names it.

    """
    listed = manifest(folder)["files"]
    present = {file.name for file in folder.iterdir() if file.suffix in READ_SUFFIXES}
    stray = sorted(present - {*listed, *UNREAD, MANIFEST_FILE})
    if stray:
        raise _damaged(folder, f"{stray[0]} is not listed in {MANIFEST_FILE}")
    for name in sorted(listed.keys() - set(unread)):
        said, file = listed[name], folder / name
        if not file.is_file():
            raise _damaged(folder, f"{name} is missing")
        try:
            found = sha256_of(file)
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read ({error.strerror or error})") from error
        if not isinstance(said, dict) or found != said.get("sha256"):
            raise _damaged(folder, f"{name} is damaged: its sha256 is not the one in {MANIFEST_FILE}")


def sha256_of(file: Path) -> str:
    """The file's checksum, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def short_name(folder: Path) -> str:
    """The folder as messages name it: `ID/adapter` or `checkpoints/step-000012`, not where the server's data is."""
    return f"{folder.parent.name}/{folder.name}"


def _damaged(folder: Path, why: str) -> DataLoss:
    said = f"The adapter in {short_name(folder)} cannot be used: {why}."
    return DataLoss(f"{said} Restore it from a backup, or tune again.")

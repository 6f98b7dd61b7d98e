"""Files that are there as a whole or not at all, and survive a power cut: write, fsync, rename, fsync the folder."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a file under a temporary name, flush it to disk, then give it its own name. Its sha256."""
    digest = hashlib.sha256()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)
    return digest.hexdigest()


def rename_synced(temporary: Path, path: Path) -> None:
    """Flush a finished file to disk, and give it its own name in the same folder."""
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def rename_folder_synced(temporary: Path, path: Path) -> None:
    """Flush a finished folder of files to disk, and give it its own name beside it; `path` may be an empty folder."""
    for file in temporary.iterdir():
        fsync(file)
    fsync(temporary)
    temporary.rename(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

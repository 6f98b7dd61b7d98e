"""Failures of the file system as Kastor's own errors: above all the full disk, however a library reports it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kastor.domain.errors import FailedPrecondition, KastorError, ResourceExhausted

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL = ("no space left on device", "disk quota exceeded", "database or disk is full")
"""What libraries say of a full disk that report it by an error of their own, as safetensors and SQLite do."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is what is behind the error."""
    while error is not None:
        quotes_users = isinstance(error, KastorError) and not isinstance(error, ResourceExhausted)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        if not quotes_users and any(said in str(error).lower() for said in FULL):
            return True
        error = error.__cause__
    return False


@contextmanager
def translate_storage_errors(folder: Path) -> Iterator[None]:
    """Failures of the file system as ours.

    Raises:
        ResourceExhausted: the disk is full.
        FailedPrecondition: the folder cannot be written to.

    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise ResourceExhausted(f"No space left in {folder}; free some and try again.") from error
        raise FailedPrecondition(f"Cannot write to {folder}: {error.strerror or error}.") from error

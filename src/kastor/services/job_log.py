"""A job's log as a caller may read it: pieces of the file, for others than operators without the server's folders."""

import os
from pathlib import Path
from typing import BinaryIO

from kastor.security.redaction import redact_paths, without_folder

MAX_LOG_BYTES = 1024 * 1024  # of one answer; the caller goes on from the offset it got


def read_log(opened: BinaryIO, offset: int, *, hidden: Path | None = None) -> tuple[bytes, int]:
    """As much of the log from byte `offset` on as one answer holds, and the offset of what follows.

    With a `hidden` folder, whole lines only (so that no path is cut in two), and no path of this machine in them.

    Raises:
        OSError: it cannot be read.

    """
    if offset >= opened.seek(0, os.SEEK_END):
        return b"", offset  # nor may a file system be able to look so far
    if hidden is not None and offset:
        opened.seek(offset - 1)
        offset += len(opened.readline(MAX_LOG_BYTES)) - 1  # the rest of a line that was begun before
    opened.seek(offset)
    found = opened.read(MAX_LOG_BYTES)
    if hidden is None:
        return found, offset + len(found)
    whole = found[: found.rfind(b"\n") + 1] or (found if len(found) == MAX_LOG_BYTES else b"")
    text = without_folder(whole.decode("utf-8", "replace"), hidden)
    return redact_paths(text).encode(), offset + len(whole)

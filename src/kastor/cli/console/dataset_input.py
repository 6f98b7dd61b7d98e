"""Datasets from standard input or a pipe, copied to a temporary file while a command reads them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kastor.dataset.formats.compression import GZIP, is_zstd
from kastor.dataset.formats.file_type import HEAD_BYTES, check_text_file
from kastor.domain.errors import InvalidArgument, ResourceExhausted
from kastor.runtime.temporary_folder import TemporaryFolder

STDIN = "-"
CHUNK_BYTES = 1 << 20
MAX_BYTES = 1 << 30
DATASET_FOLDER_PREFIX = "kastor-dataset-"
"""Prefix of the temporary folders of copies; leftovers of killed commands are deleted by the next copy."""


@contextmanager
def dataset_file(path: Path, *, is_read_once: bool = False, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """The file at `path`; for `-`, and for a pipe that is read more than once, a copy of at most `max_bytes`.

    Raises:
        InvalidArgument: the input is no text file, or larger than `max_bytes`.

    """
    is_stdin = str(path) == STDIN
    if not is_stdin and (is_read_once or not path.is_fifo()):
        yield path
        return
    name = "stdin" if is_stdin else path.name
    with TemporaryFolder(DATASET_FOLDER_PREFIX) as folder:
        copy = folder / name
        try:
            with copy.open("wb") as target:
                if is_stdin:
                    _copy(sys.stdin.buffer, target, name, max_bytes)
                else:
                    with path.open("rb") as source:
                        _copy(source, target, name, max_bytes)
        except OSError as error:
            raise ResourceExhausted(f"{name} cannot be copied to {folder}: {error.strerror or error}.") from error
        yield copy


def _copy(source: BinaryIO, target: BinaryIO, name: str, max_bytes: int) -> None:
    num_bytes = 0
    while chunk := source.read(CHUNK_BYTES):
        if not num_bytes and not chunk.startswith(GZIP) and not is_zstd(chunk[:4]):
            check_text_file(Path(name), chunk[:HEAD_BYTES])  # before the rest, which may be endless
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise InvalidArgument(
                f"{name} is larger than {max_bytes:,} bytes; write it to a file and pass the file's name."
            )
        target.write(chunk)

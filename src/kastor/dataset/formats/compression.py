"""Streaming decompression of dataset files, with verification of the stream's end.

gzip: one or several members, each with its checksum. Zstandard: one or several frames, including skippable ones.
A stream that is truncated or followed by other bytes is an error, never a shorter file.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import zstandard

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SKIPPABLE = range(0x184D2A50, 0x184D2A60)  # first four bytes of a skippable Zstandard frame, little-endian
INPUT_BYTES = 1024  # per read: four bytes may expand to 128 KiB, so memory stays at about 30 MB for any file
BUFFER_BYTES = 1 << 20
MAX_EXPANSION = 1032  # times: the most that gzip's format allows; Zstandard's allows 32,768
TRUSTED_BYTES = 1 << 30  # any file, however small, may expand to this size


class CorruptStream(Exception):
    """The stream is truncated, damaged or followed by other bytes; the message completes a sentence."""


@contextmanager
def open_decompressed(file: BinaryIO, magic: bytes) -> Iterator[BinaryIO]:
    """The decompressed contents of `file`, whose first four bytes are `magic`; `file` itself if it is not compressed.

    Raises:
        CorruptStream: while reading, the stream proves truncated, damaged, or followed by other bytes.

    """
    try:
        if magic.startswith(GZIP):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        elif is_zstd(magic):
            with io.BufferedReader(cast(io.RawIOBase, _ZstdStream(file)), BUFFER_BYTES) as reader:
                yield cast(BinaryIO, reader)
        else:
            yield file
    except EOFError as error:
        raise CorruptStream("the file is truncated: it ends before the compressed stream does") from error
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" in str(error):
            raise CorruptStream("other bytes follow the end of the gzip stream") from error
        raise CorruptStream(f"the gzip stream is damaged ({error})") from error
    except zlib.error as error:
        raise CorruptStream(f"the gzip stream is damaged ({error})") from error


def is_zstd(magic: bytes) -> bool:
    """Whether these four bytes start a Zstandard frame, skippable or not."""
    return magic == ZSTD or (len(magic) == 4 and int.from_bytes(magic, "little") in SKIPPABLE)


class _ZstdStream(io.RawIOBase):
    """The decompressed frames of a Zstandard file in sequence."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = b""  # read from the source and not decompressed yet
        self._ready = memoryview(b"")
        self._frame: Any = None  # the decompressor of the current, unfinished frame
        self._num_packed = 0
        self._num_unpacked = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # anything that can be written to
        """Fill `buffer` from the stream."""
        while not self._ready and self._read():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _read(self) -> bool:
        """Decompress the next bytes; False at the end."""
        data = self._left or self._read_source()
        if self._frame is None:
            data = self._next_frame(data)
        if not data:
            if self._frame is not None:
                raise EOFError
            return False
        try:
            self._ready = memoryview(self._frame.decompress(data))
        except zstandard.ZstdError as error:
            raise CorruptStream(f"the Zstandard stream is damaged ({error})") from error
        self._num_unpacked += len(self._ready)
        if self._num_unpacked > max(TRUSTED_BYTES, MAX_EXPANSION * self._num_packed):
            raise CorruptStream(f"it expands to more than {MAX_EXPANSION:,} times its size, which no dataset does")
        self._left = b""
        if self._frame.eof:
            self._left = self._frame.unused_data
            self._frame = None
        return True

    def _read_source(self) -> bytes:
        data = self._source.read(INPUT_BYTES)
        self._num_packed += len(data)
        return data

    def _next_frame(self, data: bytes) -> bytes:
        """The first bytes of the next frame, empty at the end of the file."""
        if not data:
            return b""
        if len(data) < 4:
            data += self._read_source()
        if not is_zstd(data[:4]):
            if ZSTD.startswith(data):
                raise EOFError
            raise CorruptStream("other bytes follow the end of the Zstandard stream")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        return data

"""Request bodies behind a header Content-Encoding: gzip and deflate are decoded piece by piece, others are refused."""

import zlib

from kastor.domain.errors import InvalidArgument

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""What tells zlib the format."""
PLAIN = ("", "identity")


class BodyDecoder:
    """Decodes one body. No call makes more than `max_bytes` bytes, whatever came in."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        """Take the value of Content-Encoding, empty where there is none.

        Raises:
            InvalidArgument: it is not offered.

        """
        self._encoding = encoding.strip().lower()
        self._max_bytes = max_bytes
        if self._encoding not in WINDOW_BITS and self._encoding not in PLAIN:
            raise InvalidArgument(
                f"Content-Encoding {encoding[:40]!r} is not offered by this server; send the body as it is, or in gzip."
            )
        self._stream = None if self._encoding in PLAIN else zlib.decompressobj(WINDOW_BITS[self._encoding])
        self._begun = False

    @property
    def is_plain(self) -> bool:
        """Whether each piece is what it holds."""
        return self._stream is None

    def decode(self, piece: bytes) -> bytes:
        """What the next piece holds; of more than `max_bytes` only one byte more than these.

        Raises:
            InvalidArgument: it is not what the header says.

        """
        if self._stream is None:
            return piece
        self._begun = self._begun or bool(piece)
        try:
            made = self._stream.decompress(piece, self._max_bytes + 1)
        except zlib.error as error:
            raise InvalidArgument(f"The body is not in {self._encoding}, as its Content-Encoding says.") from error
        if self._stream.unused_data:
            raise InvalidArgument(f"The body, in {self._encoding}, goes on after its end; send one file of it.")
        return made

    def end(self) -> None:
        """Nothing, if the body is whole.

        Raises:
            InvalidArgument: it was cut.

        """
        if self._stream is not None and self._begun and not self._stream.eof:
            raise InvalidArgument(f"The body, in {self._encoding}, ends too early; send all of it.")

"""A streaming parser of multipart/related bodies (RFC 2387) with two parts: JSON, then bytes of any length.

Knows nothing of files: the caller's sinks receive the parts. Written by hand, as python-multipart 0.0.34 refuses bodies
with bare LF line ends or a preamble, which clients send, and accepts a body without its closing boundary, which is cut.
"""

import re
from collections.abc import Callable, Mapping
from email.message import Message

from kastor.domain.errors import InvalidArgument

MAX_JSON_BYTES = 64 * 1024
MAX_HEAD_BYTES = 8 * 1024
PLAIN_ENCODINGS = frozenset({"", "binary", "7bit", "8bit"})
BOUNDARY = re.compile(r"[ -~]{1,100}")


def parse_boundary(content_type: str) -> str:
    """The boundary that a Content-Type names.

    Raises:
        InvalidArgument: it is none of a body in parts.

    """
    parsed = Message()
    parsed["content-type"] = content_type
    boundary = parsed.get_param("boundary") if parsed.get_content_maintype() == "multipart" else None
    if not isinstance(boundary, str) or not BOUNDARY.fullmatch(boundary):
        raise InvalidArgument(
            f"Content-Type {content_type[:80]!r} is none of a multipart upload, which is "
            "multipart/related; boundary=TEXT with a JSON part and then the file's bytes."
        )
    return boundary


class MultipartRelatedParser:
    """Takes a body in pieces: the first part and the second's Content-Type for `on_json`, its bytes for `on_bytes`."""

    def __init__(
        self, boundary: str, on_json: Callable[[bytes, str], object], on_bytes: Callable[[bytes], object]
    ) -> None:
        self._mark = b"--" + boundary.encode("ascii")
        self._on_json = on_json
        self._on_bytes = on_bytes
        self._held = b""  # arrived, not yet understood
        self._line_end = b"\r\n"  # clients use one of two throughout
        self._json = b""
        self._skipped = 0  # bytes at the front of `_held` that are not the client's
        self._step: Callable[[], bool] | None = self._open

    def feed(self, piece: bytes) -> None:
        """Take in a piece.

        Raises:
            InvalidArgument: it is no body of two parts.

        """
        if self._step is None:
            return  # what follows the last boundary has no meaning
        self._held += piece
        while self._step is not None and self._step():
            pass

    def end(self) -> None:
        """Nothing, if both parts were there.

        Raises:
            InvalidArgument: the body ends too soon.

        """
        if self._step is not None:
            raise _malformed("it ends before the closing boundary")

    def _open(self) -> bool:
        """The first boundary, after whatever stands before it; it tells which line ends the client uses."""
        at = self._held.find(self._mark)
        if at < 0 or len(self._held) < at + len(self._mark) + 2:
            return self._wait(MAX_HEAD_BYTES, "no boundary at its beginning")
        after = at + len(self._mark)
        if self._held[after : after + 1] == b"\n":
            self._line_end = b"\n"
        self._held = self._held[after:]
        self._step = self._first_part
        return True

    def _first_part(self) -> bool:
        delimiter = self._line_end + self._mark
        part, found, rest = self._held.partition(delimiter)
        if not found:
            return self._wait(MAX_JSON_BYTES, "a JSON part that is too long")
        self._json = self._part(part)[1]
        self._held = rest
        self._step = self._second_head
        return True

    def _second_head(self) -> bool:
        head, found, content = self._held.partition(self._line_end * 2)
        if not found:
            return self._wait(MAX_HEAD_BYTES, "no second part with the file's bytes")
        headers = self._part(head + found)[0]
        if headers.get("content-transfer-encoding", "").lower() not in PLAIN_ENCODINGS:
            raise _malformed("an encoded second part; send the bytes as they are")
        self._on_json(self._json, headers.get("content-type", ""))
        self._held = self._line_end + content  # so that an empty part ends as any other
        self._skipped = len(self._line_end)
        self._step = self._second_part
        return True

    def _second_part(self) -> bool:
        delimiter = self._line_end + self._mark
        part, found, _ = self._held.partition(delimiter)
        sure = len(part) if found else max(0, len(self._held) - len(delimiter) + 1)
        given, self._skipped = self._held[self._skipped : sure], max(0, self._skipped - sure)
        self._held = self._held[sure:]
        if given:
            self._on_bytes(given)
        if found:
            self._held, self._step = b"", None
        return False

    def _part(self, text: bytes) -> tuple[Mapping[str, str], bytes]:
        """The headers, by lower-case name, and the content of a part; `text` begins behind its boundary."""
        end = self._line_end
        head, found, content = text.partition(end * 2)
        if not text.startswith(end) or not found:
            raise _malformed("something behind a boundary on its line, a part without a blank line, or one part only")
        lines = (line.decode("latin-1").partition(":") for line in head.split(end) if line)
        return {name.strip().lower(): value.strip() for name, _, value in lines}, content

    def _wait(self, most: int, what: str) -> bool:
        if len(self._held) > most + len(self._mark):
            raise _malformed(what)
        return False


def _malformed(what: str) -> InvalidArgument:
    return InvalidArgument(f"The multipart body has {what}; it must have a JSON part and then the file's bytes.")

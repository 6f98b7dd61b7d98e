"""How the messages of a stream become bytes: server-sent events, or the pieces of one JSON array.

Mirrors gemini-api.md §3.7. Never ends with `[DONE]`: google-genai raises at it.
"""

from collections.abc import Mapping
from typing import Protocol

from kastor.api.http.errors import error_body
from kastor.api.http.protojson import dump_json
from kastor.domain.errors import KastorError

JSON_TYPE = "application/json; charset=UTF-8"


class Framing(Protocol):
    """One stream's way from messages to bytes."""

    media_type: str

    def message(self, value: Mapping[str, object]) -> bytes:
        """The piece that carries a message."""

    def error(self, error: KastorError) -> bytes:
        """The piece that tells of an error in mid-stream, and ends the stream."""

    def end(self) -> bytes:
        """What follows the last message; may be nothing."""


class SseFraming:
    """Server-sent events, as alt=sse asks for."""

    media_type = "text/event-stream"

    def message(self, value: Mapping[str, object]) -> bytes:
        """An event."""
        return b"data: " + dump_json(value, pretty=False) + b"\r\n\r\n"

    def error(self, error: KastorError) -> bytes:
        """An event with the error's body."""
        return self.message(error_body(error))

    def end(self) -> bytes:
        """Nothing."""
        return b""


class JsonArrayFraming:
    """A JSON array that grows, which is what legacy clients read."""

    media_type = JSON_TYPE

    def __init__(self, *, pretty: bool) -> None:
        self._pretty = pretty
        self._begun = False

    def message(self, value: Mapping[str, object]) -> bytes:
        """An element, with what stands before it."""
        return self._opening() + dump_json(value, pretty=self._pretty).rstrip()

    def error(self, error: KastorError) -> bytes:
        """The last element, and the end of the array."""
        return self._opening() + dump_json(error_body(error), pretty=False) + b"]"

    def end(self) -> bytes:
        """The end of the array."""
        return b"]" if self._begun else b"[]"

    def _opening(self) -> bytes:
        opening = b",\r\n" if self._begun else b"["
        self._begun = True
        return opening

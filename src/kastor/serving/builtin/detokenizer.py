"""Token ids -> text that can be sent: whole characters only, without stop sequences."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kastor.domain.stop_sequences import find_stop, partial_stop_length

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_HELD_TOKENS = 4
"""A character has at most four bytes; a longer run of undecodable tokens is not a character to wait for."""


class Detokenizer:
    """Decodes a growing list of token ids step by step; an incomplete character waits for its other tokens."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []  # the tokens of the last text, then those still held back
        self._num_returned = (
            0  # tokens of the window whose text was returned: the next one's leading space depends on them
        )

    def push(self, token_id: int) -> str:
        """The text that this token completes; often a word, sometimes nothing."""
        self._window.append(token_id)
        text = self._pending_text()
        if text.endswith(REPLACEMENT) and len(self._window) - self._num_returned < MAX_HELD_TOKENS:
            return ""
        del self._window[: self._num_returned]
        self._num_returned = len(self._window)
        return text

    def end(self) -> str:
        """The text that was held back, without an incomplete character at its end."""
        return self._pending_text().rstrip(REPLACEMENT)

    def _pending_text(self) -> str:
        before = self._decode(self._window[: self._num_returned])
        return self._decode(self._window)[len(before) :]


@dataclass(slots=True)
class StopSequenceFilter:
    """One answer's text: what may be sent so far, and whether a stop sequence ended it."""

    detokenizer: Detokenizer
    stops: tuple[str, ...] = ()
    stopped: bool = False
    _pending: str = field(default="")

    def push(self, token_id: int) -> str:
        """The text to send after this token."""
        return self._filter(self.detokenizer.push(token_id))

    def end(self) -> str:
        """The text to send when no token follows."""
        text = self._filter(self.detokenizer.end())
        return text if self.stopped else text + self._pending

    def _filter(self, text: str) -> str:
        text = self._pending + text
        at = find_stop(text, self.stops)
        if at is not None:
            self.stopped, self._pending = True, ""
            return text[:at]
        cut = len(text) - partial_stop_length(text, self.stops)
        self._pending = text[cut:]
        return text[:cut]

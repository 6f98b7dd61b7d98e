"""The client of the generating processes, made at its first use: importing it costs what a server's start may not."""

import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kastor.domain.content import Prompt
from kastor.domain.errors import Unavailable
from kastor.domain.generation import Chunk, GenerateRequest, ResolvedMedia
from kastor.domain.job import Rendering

if TYPE_CHECKING:
    from kastor.serving.engine import ScoreRequest
    from kastor.serving.process_engine import ProcessEngine


class LazyEngine:
    """A `ProcessEngine` of these parts, once it is needed; safe to use from several threads at once."""

    def __init__(
        self, environment: Mapping[str, str], *, log_dir: Path, idle_timeout_s: float, silence_timeout_s: float
    ) -> None:
        self._environment = environment
        self._log_dir = log_dir
        self._idle_timeout_s = idle_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._lock = threading.Lock()
        self._made: ProcessEngine | None = None
        self._closed = False

    def generate(self, request: GenerateRequest) -> Generator[Chunk, None, None]:
        """The answer as it is made."""
        yield from self._client().generate(request)

    def score(self, request: "ScoreRequest") -> list[list[float]]:
        """Log-probabilities as `kastor.serving.engine.Scorer` has them."""
        return self._client().score(request)

    def count_tokens(self, base_model: str, prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> int:
        """How many tokens the prompt is for this base, by this rendering."""
        return self._client().count_tokens(base_model, prompt, shown, rendering)

    def silent(self) -> list[str]:
        """The bases whose process does not answer at the moment."""
        with self._lock:
            made = self._made
        return [] if made is None else made.silent()

    def close(self) -> None:
        """End the processes; the client cannot be used any more."""
        with self._lock:
            self._closed = True
            made = self._made
        if made is not None:
            made.close()

    def _client(self) -> "ProcessEngine":
        from kastor.serving.process_engine import ProcessEngine

        with self._lock:
            if self._closed:
                raise Unavailable("The server is shutting down. Try again.")
            if self._made is None:
                self._made = ProcessEngine(
                    self._environment,
                    log_dir=self._log_dir,
                    idle_timeout_s=self._idle_timeout_s,
                    silence_timeout_s=self._silence_timeout_s,
                )
            return self._made

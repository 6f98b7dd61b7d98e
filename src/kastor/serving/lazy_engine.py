"""A `ProcessEngine` that is imported and created at its first use, to keep the server's start short."""

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
    """Creates a `ProcessEngine` with these settings when it is needed; safe to use from several threads at once."""

    def __init__(
        self, environment: Mapping[str, str], *, log_dir: Path, idle_timeout_s: float, silence_timeout_s: float
    ) -> None:
        self._environment = environment
        self._log_dir = log_dir
        self._idle_timeout_s = idle_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._lock = threading.Lock()
        self._engine: ProcessEngine | None = None
        self._closed = False

    def generate(self, request: GenerateRequest) -> Generator[Chunk, None, None]:
        """The candidates, chunk by chunk, as `kastor.serving.engine.Engine` has them."""
        yield from self._started_engine().generate(request)

    def score(self, request: "ScoreRequest") -> list[list[float]]:
        """Log-probabilities as `kastor.serving.engine.Scorer` has them."""
        return self._started_engine().score(request)

    def count_tokens(self, base_model: str, prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> int:
        """How many tokens the prompt is for this base, in this rendering."""
        return self._started_engine().count_tokens(base_model, prompt, shown, rendering)

    def silent(self) -> list[str]:
        """The bases whose process does not answer readiness checks at the moment."""
        with self._lock:
            engine = self._engine
        return [] if engine is None else engine.silent()

    def close(self) -> None:
        """End the processes; later calls raise `Unavailable`."""
        with self._lock:
            self._closed = True
            engine = self._engine
        if engine is not None:
            engine.close()

    def _started_engine(self) -> "ProcessEngine":
        from kastor.serving.process_engine import ProcessEngine

        with self._lock:
            if self._closed:
                raise Unavailable("The server is shutting down. Try again.")
            if self._engine is None:
                self._engine = ProcessEngine(
                    self._environment,
                    log_dir=self._log_dir,
                    idle_timeout_s=self._idle_timeout_s,
                    silence_timeout_s=self._silence_timeout_s,
                )
            return self._engine

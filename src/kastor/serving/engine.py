"""What an engine is, wherever its models run: the calls that the services and the certificate make. No torch."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Prompt
from kastor.domain.generation import Chunk, GenerateRequest, ResolvedMedia
from kastor.domain.job import Rendering
from kastor.models.chat.render import RenderedExample


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Token sequences to be scored by a base model, or by an adapter on it.

    The supervised tokens of each sequence are scored, but for its first token, which nothing comes before.
    """

    base_model: str  # catalog id
    sequences: tuple[RenderedExample, ...]
    adapter: AdapterRef | None = None
    shown: ResolvedMedia = field(default_factory=dict)  # each medium that the sequences' pictures belong to


class Scorer(Protocol):
    """The part of an engine that a certificate is computed through."""

    def score(self, request: ScoreRequest) -> list[list[float]]:
        """The log-probability of each scored token, given the tokens before it, sequence by sequence. Blocks.

        Raises:
            InvalidArgument: a sequence is longer than the base's context, or a medium cannot be used.
            FailedPrecondition: the adapter cannot be served.
            Internal: the numbers are not finite.

        """


class Engine(Scorer, Protocol):
    """Generates, scores and counts; safe to use from several threads at once."""

    def generate(self, request: GenerateRequest) -> Generator[Chunk, None, None]:
        """The candidates, chunk by chunk. Blocks between chunks; closing the generator cancels the rest."""

    def count_tokens(self, base_model: str, prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> int:
        """How many tokens the prompt is for this base; `shown` has each of its media."""

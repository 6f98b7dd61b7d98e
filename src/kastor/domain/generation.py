"""What is asked of a generating engine and what it says, as values; shared by the API, the service and the engine."""

from dataclasses import dataclass
from enum import StrEnum

from kastor.domain.content import Prompt


class FinishReason(StrEnum):
    """Why generation ended, in the wire's spelling."""

    STOP = "STOP"
    MAX_TOKENS = "MAX_TOKENS"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    `temperature` 0 is greedy; `top_k` `None` is no bound; `max_output_tokens` `None` is the base's output limit;
    `seed` `None` draws one.
    """

    temperature: float = 1.0  # [0, 2]
    top_p: float = 1.0  # (0, 1]
    top_k: int | None = None  # >= 1
    stop_sequences: tuple[str, ...] = ()  # at most 5; not part of the output
    max_output_tokens: int | None = None  # >= 1
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt for a base model, or for an adapter on it."""

    base_model: str  # catalog id
    prompt: Prompt
    sampling: Sampling
    adapter: str | None = None  # id of the job that trained it: never reused, unlike a tuned model's id


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. Counts are totals so far; `finish_reason` is set in the last chunk only."""

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: FinishReason | None = None

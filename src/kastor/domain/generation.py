"""What is asked of a generating engine and what it says, as values; shared by the API, the service and the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import FunctionCall, Media, Prompt
from kastor.domain.job import Rendering
from kastor.domain.vision import MediumPlan


class FinishReason(StrEnum):
    """Why generation ended, in the wire's spelling."""

    STOP = "STOP"
    MAX_TOKENS = "MAX_TOKENS"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What an answer must be: JSON that `schema` admits, or, where there are `choices`, one of these texts.

    `field` is what the caller called it: a form that cannot be had is refused by that name.
    """

    field: str
    schema: str = "{}"  # JSON Schema, as JSON
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    `temperature` 0 is greedy; `top_k` `None` is no bound; `max_output_tokens` `None` is the base's output limit;
    `seed` `None` draws one; `top_logprobs` `None` tells no log-probabilities, 0 those of the chosen tokens only.
    """

    temperature: float = 1.0  # [0, 2]
    top_p: float = 1.0  # (0, 1]
    top_k: int | None = None  # >= 1
    stop_sequences: tuple[str, ...] = ()  # at most 5; not part of the output
    max_output_tokens: int | None = None  # >= 1
    seed: int | None = None
    presence_penalty: float = 0.0  # [-2, 2), off the logit of each token that the answer holds already
    frequency_penalty: float = 0.0  # [-2, 2), off it for each time that the answer holds it
    top_logprobs: int | None = None  # 0 to 20 likeliest tokens of each step
    form: ResponseFormat | None = None


@dataclass(frozen=True, slots=True)
class ResolvedMedium:
    """A medium of a prompt that was looked at: what of it the model is shown, and where it lies on this machine."""

    planned: MediumPlan
    path: Path
    place: str  # of the part that holds it, as the caller knows it


ResolvedMedia = Mapping[Media, ResolvedMedium]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt for a base model, or for an adapter on it, and how many answers to it are wanted."""

    base_model: str  # catalog id
    prompt: Prompt
    sampling: Sampling
    adapter: AdapterRef | None = None
    num_candidates: int = 1  # 1 to 8
    shown: ResolvedMedia = field(default_factory=dict)  # each medium of the prompt
    rendering: Rendering = Rendering.PUBLISHED  # that the adapter was trained with


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability: the model's own, before temperature, penalties, truncation and form."""

    text: str
    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One step of an answer: the token that was chosen, and the likeliest ones, likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one candidate. Counts are its totals so far; `finish_reason` is set in its last chunk only.

    `steps` tells of the tokens since the candidate's last chunk, where log-probabilities were asked for.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0  # which of the candidates
    steps: tuple[TokenStep, ...] = ()
    call: FunctionCall | None = None  # a whole one, in place of text

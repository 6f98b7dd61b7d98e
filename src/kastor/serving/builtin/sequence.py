"""One answer in the making: the request it belongs to, and the way from logits to what its consumer is told.

Who shares a pass of the model with whom, and where keys and values lie, is the business of `batching`.
"""

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import KastorError
from kastor.domain.generation import Chunk, FinishReason, Sampling, TokenLogprob, TokenStep
from kastor.models.decoder.inputs import DecoderInputs, Model
from kastor.models.decoder.masks import Span
from kastor.serving.builtin.constrained_decoding import GrammarMatcher
from kastor.serving.builtin.detokenizer import Detokenizer, StopSequenceFilter
from kastor.serving.builtin.kv_cache import PrefillChunk
from kastor.serving.builtin.multi_lora import LoadedAdapter
from kastor.serving.builtin.sampler import apply_penalties, candidate_seed, is_greedy, logprobs, sample_token

EventSink = Callable[[Chunk | KastorError], None]
"""Where answers go, from the generating thread: must return at once. The last is an error, or the finish reason of the
last candidate."""


class TokenDecoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, without control tokens or with them."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureEmbeddings:
    """A picture: from which token of the prompt on its own embeddings stand, (N, W) or more (`models.language`)."""

    start: int
    made_NC: torch.Tensor

    @property
    def end(self) -> int:
        """The token after its last."""
        return self.start + len(self.made_NC)


def chunk_inputs(
    model: Model, token_ids_T: torch.Tensor, start: int, pictures: Sequence[PictureEmbeddings]
) -> DecoderInputs:
    """These tokens of a prompt, from `start` on, with its pictures in their places."""
    places, made = [torch.arange(0)], list[torch.Tensor]()
    end = start + len(token_ids_T)
    within = [picture for picture in pictures if picture.start < end and picture.end > start]
    for picture in within:
        first, last = max(picture.start, start), min(picture.end, end)
        places.append(torch.arange(first - start, last - start))
        made.append(picture.made_NC[first - picture.start : last - picture.start])
    made_VC = torch.cat(made) if made else None
    return DecoderInputs.of(model, token_ids_T, torch.cat(places).to(token_ids_T.device), made_VC)


def positions(
    own: Sequence[NDArray[np.int64] | None], pieces: Sequence[PrefillChunk], places_1T: torch.Tensor
) -> torch.Tensor:
    """Positions (1, T) of the pieces, or (3, 1, T) where a prompt has its `own`, (3, its tokens)."""
    if all(one is None for one in own):
        return places_1T
    parts = places_1T[0].split([piece.num_tokens for piece in pieces])
    found = [
        part_T.expand(3, -1) if one is None else torch.from_numpy(one[:, piece.start : piece.end]).to(part_T.device)
        for one, piece, part_T in zip(own, pieces, parts, strict=True)
    ]
    return torch.cat(found, dim=1)[:, None]


@dataclass(slots=True, eq=False)
class GenerationHandle:
    """A request on its way. `cancel` may be called from any thread, at any time."""

    prompt_ids: list[int]
    sampling: Sampling
    adapter: AdapterRef | None
    sink: EventSink
    max_output_tokens: int
    num_candidates: int = 1
    guide: GrammarMatcher | None = None  # at its beginning; each candidate goes on from a copy
    pictures: tuple[PictureEmbeddings, ...] = ()  # of the prompt; let go once it is taken in
    positions_3T: NDArray[np.int64] | None = None  # of the prompt, where they do not count up from 0
    turn: int = 0  # what an answer's positions are ahead of its places in the cache
    spans: tuple[Span, ...] = ()  # of pictures whose tokens see one another both ways
    cancelled: bool = False

    def cancel(self) -> None:
        """Nobody waits for the answer any more: it is dropped before the next step."""
        self.cancelled = True

    @property
    def reserved_tokens(self) -> int:
        """Cache that each of its candidates may come to need."""
        return len(self.prompt_ids) + self.max_output_tokens


@dataclass(slots=True, eq=False)
class RunningSequence:
    """A candidate that is being produced."""

    ticket: GenerationHandle
    index: int  # which of the request's candidates
    tokens: TokenDecoder
    writer: StopSequenceFilter
    generator: torch.Generator
    guide: GrammarMatcher | None
    adapter: LoadedAdapter | None
    cached_tokens: int = 0  # of prompt and answer, in the cache
    output_tokens: int = 0
    last_token: int = -1  # chosen, not yet in the cache
    counts: Counter[int] = field(default_factory=Counter)  # of the answer's tokens
    steps: list[TokenStep] = field(default_factory=list)  # not yet told

    @classmethod
    def begin(
        cls, ticket: GenerationHandle, index: int, tokens: TokenDecoder, adapter: LoadedAdapter | None
    ) -> "RunningSequence":
        """The candidate before its first token."""
        writer = StopSequenceFilter(Detokenizer(tokens.decode), ticket.sampling.stop_sequences)
        generator = torch.Generator()
        if ticket.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(candidate_seed(ticket.sampling.seed, index))
        guide = None if ticket.guide is None else ticket.guide.copy()
        return cls(ticket, index, tokens, writer, generator, guide, adapter)

    def choose(self, logits_V: torch.Tensor, best: int) -> int:
        """The next token; `best` is where the logits are highest.

        Raises:
            InvalidArgument: the answer's form cannot be followed any further.

        """
        sampling = self.ticket.sampling
        scores_V = apply_penalties(logits_V, self.counts, sampling)
        if self.guide is not None:
            scores_V = self.guide.mask_logits(scores_V)
        if not is_greedy(sampling):
            return sample_token(scores_V, sampling, float(torch.rand(1, generator=self.generator)))
        return best if scores_V is logits_V else int(scores_V.argmax())

    def accept(self, token: int, logits_V: torch.Tensor, end_ids: Set[int]) -> Chunk | None:
        """What there is to tell once this token was chosen; a chunk with a finish reason is the last.

        Raises:
            InvalidArgument: the answer's form cannot be followed any further.

        """
        finish = None
        if token in end_ids:
            finish, text = FinishReason.STOP, self.writer.end()
        else:
            complete = self._take(token, logits_V)
            text = self.writer.push(token)
            if self.writer.stopped:
                finish = FinishReason.STOP
            elif complete or self.output_tokens >= self.ticket.max_output_tokens:
                text += self.writer.end()
                finish = FinishReason.STOP if complete or self.writer.stopped else FinishReason.MAX_TOKENS
        if not text and finish is None:
            return None
        steps, self.steps = tuple(self.steps), []
        return Chunk(text, len(self.ticket.prompt_ids), self.output_tokens, finish, self.index, steps)

    def _take(self, token: int, logits_V: torch.Tensor) -> bool:
        """Note a token of the answer; whether its form allows nothing after it."""
        self.last_token = token
        self.output_tokens += 1
        self.counts[token] += 1
        num_top = self.ticket.sampling.top_logprobs
        if num_top is not None:
            own, top = logprobs(logits_V, token, num_top)
            self.steps.append(TokenStep(self._told(token, own), tuple(self._told(*one) for one in top)))
        return self.guide is not None and self.guide.accept(token)

    def _told(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self.tokens.decode([token], skip_special_tokens=False), token, logprob)

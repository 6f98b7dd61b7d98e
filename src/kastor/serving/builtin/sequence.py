"""One running sequence: sampling state and conversion of logits to output chunks.

`continuous_batching` decides which sequences share a pass of the model, and where their keys and values lie.
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
"""Receives the output of a request in the generating thread: must return at once. The last event is an error, or the
chunk with the finish reason of the last candidate."""


class TokenDecoder(Protocol):
    """The part of a tokenizer that decoding needs."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids, with or without control tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureEmbeddings:
    """A picture's embeddings, (N, W) or more (`models.decoder.inputs`), and the prompt token at which they start."""

    start: int
    embeddings_NC: torch.Tensor

    @property
    def end(self) -> int:
        """The index after its last token."""
        return self.start + len(self.embeddings_NC)


def chunk_inputs(
    model: Model, token_ids_T: torch.Tensor, start: int, pictures: Sequence[PictureEmbeddings]
) -> DecoderInputs:
    """The inputs of a chunk of a prompt that begins at token `start`, with the pictures' embeddings in place."""
    places, embeddings = [torch.arange(0)], list[torch.Tensor]()
    end = start + len(token_ids_T)
    within = [picture for picture in pictures if picture.start < end and picture.end > start]
    for picture in within:
        first, last = max(picture.start, start), min(picture.end, end)
        places.append(torch.arange(first - start, last - start))
        embeddings.append(picture.embeddings_NC[first - picture.start : last - picture.start])
    embeddings_VC = torch.cat(embeddings) if embeddings else None
    return DecoderInputs.of(model, token_ids_T, torch.cat(places).to(token_ids_T.device), embeddings_VC)


def positions(
    own: Sequence[NDArray[np.int64] | None], chunks: Sequence[PrefillChunk], places_1T: torch.Tensor
) -> torch.Tensor:
    """Positions (1, T) of the chunks, or (3, 1, T) where a prompt has its `own`, (3, its tokens)."""
    if all(one is None for one in own):
        return places_1T
    parts = places_1T[0].split([chunk.num_tokens for chunk in chunks])
    found = [
        part_T.expand(3, -1) if one is None else torch.from_numpy(one[:, chunk.start : chunk.end]).to(part_T.device)
        for one, chunk, part_T in zip(own, chunks, parts, strict=True)
    ]
    return torch.cat(found, dim=1)[:, None]


@dataclass(slots=True, eq=False)
class GenerationHandle:
    """A request in progress. `cancel` may be called from any thread, at any time."""

    prompt_ids: list[int]
    sampling: Sampling
    adapter: AdapterRef | None
    sink: EventSink
    max_output_tokens: int
    num_candidates: int = 1
    grammar: GrammarMatcher | None = None  # in its initial state; each candidate advances a copy
    pictures: tuple[PictureEmbeddings, ...] = ()  # of the prompt; released once it is prefilled
    positions_3T: NDArray[np.int64] | None = None  # of the prompt, where they do not count up from 0
    position_offset: int = 0  # from cache index to M-RoPE position, for the answer's tokens
    spans: tuple[Span, ...] = ()  # of pictures whose tokens attend to one another both ways
    cancelled: bool = False

    def cancel(self) -> None:
        """Drop the answer before the next step: nobody waits for it any more."""
        self.cancelled = True

    @property
    def reserved_tokens(self) -> int:
        """Cache positions that each of its candidates may need."""
        return len(self.prompt_ids) + self.max_output_tokens


@dataclass(slots=True, eq=False)
class RunningSequence:
    """One candidate of a request while it is decoded."""

    handle: GenerationHandle
    index: int  # which of the request's candidates
    tokens: TokenDecoder
    text: StopSequenceFilter
    generator: torch.Generator
    grammar: GrammarMatcher | None
    adapter: LoadedAdapter | None
    cached_tokens: int = 0  # of prompt and answer, in the cache
    output_tokens: int = 0
    last_token: int = -1  # chosen, not yet in the cache
    counts: Counter[int] = field(default_factory=Counter)  # of the answer's tokens
    steps: list[TokenStep] = field(default_factory=list)  # since the last chunk

    @classmethod
    def begin(
        cls, handle: GenerationHandle, index: int, tokens: TokenDecoder, adapter: LoadedAdapter | None
    ) -> "RunningSequence":
        """The candidate before its first token."""
        text = StopSequenceFilter(Detokenizer(tokens.decode), handle.sampling.stop_sequences)
        generator = torch.Generator()
        if handle.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(candidate_seed(handle.sampling.seed, index))
        grammar = None if handle.grammar is None else handle.grammar.copy()
        return cls(handle, index, tokens, text, generator, grammar, adapter)

    def choose(self, logits_V: torch.Tensor, best: int) -> int:
        """The next token; `best` has the highest logit.

        Raises:
            InvalidArgument: the response format cannot be followed any further.

        """
        sampling = self.handle.sampling
        scores_V = apply_penalties(logits_V, self.counts, sampling)
        if self.grammar is not None:
            scores_V = self.grammar.mask_logits(scores_V)
        if not is_greedy(sampling):
            return sample_token(scores_V, sampling, float(torch.rand(1, generator=self.generator)))
        return best if scores_V is logits_V else int(scores_V.argmax())

    def accept(self, token: int, logits_V: torch.Tensor, end_ids: Set[int]) -> Chunk | None:
        """The chunk that this token completes, or `None` while text is held back; a finish reason marks the last.

        Raises:
            InvalidArgument: the response format cannot be followed any further.

        """
        finish = None
        if token in end_ids:
            finish, text = FinishReason.STOP, self.text.end()
        else:
            complete = self._record(token, logits_V)
            text = self.text.push(token)
            if self.text.stopped:
                finish = FinishReason.STOP
            elif complete or self.output_tokens >= self.handle.max_output_tokens:
                text += self.text.end()
                finish = FinishReason.STOP if complete or self.text.stopped else FinishReason.MAX_TOKENS
        if not text and finish is None:
            return None
        steps, self.steps = tuple(self.steps), []
        return Chunk(text, len(self.handle.prompt_ids), self.output_tokens, finish, self.index, steps)

    def _record(self, token: int, logits_V: torch.Tensor) -> bool:
        """Record a token of the answer; returns whether the response format allows nothing after it."""
        self.last_token = token
        self.output_tokens += 1
        self.counts[token] += 1
        num_top = self.handle.sampling.top_logprobs
        if num_top is not None:
            own, top = logprobs(logits_V, token, num_top)
            self.steps.append(
                TokenStep(self._token_logprob(token, own), tuple(self._token_logprob(*one) for one in top))
            )
        return self.grammar is not None and self.grammar.accept(token)

    def _token_logprob(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self.tokens.decode([token], skip_special_tokens=False), token, logprob)

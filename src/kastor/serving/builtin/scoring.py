"""Log-probabilities of given tokens, computed the way prompts are prefilled.

A sequence is scored in passes of at most `CHUNK_TOKENS`; short sequences share a pass. Between two passes the
generating thread decodes its answers, so a long sequence delays them no longer than a prompt does.

Shapes: S supervised tokens of a sequence.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import Internal, KastorError
from kastor.models.chat.render import RenderedExample
from kastor.models.decoder.inputs import DecoderInputs, logits
from kastor.models.decoder.masks import uncut_chunk_end
from kastor.serving.builtin.kv_cache import CHUNK_TOKENS, PrefillChunk, SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager, LoadedAdapter
from kastor.serving.builtin.request_error import request_error
from kastor.serving.builtin.sequence import PictureEmbeddings, chunk_inputs, positions

Embed = Callable[[RenderedExample], tuple[PictureEmbeddings, ...]]
"""The embeddings of a sequence's pictures."""
ScoreSink = Callable[[list[torch.Tensor] | KastorError], None]
"""Receives scores in the generating thread: must return at once."""


def prefill_batches(lengths: Sequence[int]) -> list[list[int]]:
    """The sequences that share a pass: consecutive ones, as many as fit; a longer one is alone.

    >>> prefill_batches([100, 100, 100, 300])
    [[0, 1], [2], [3]]
    """
    batches: list[list[int]] = []
    num_tokens = CHUNK_TOKENS
    for index, length in enumerate(lengths):
        if num_tokens + length > CHUNK_TOKENS:
            batches.append([])
            num_tokens = 0
        batches[-1].append(index)
        num_tokens += length
    return batches


@dataclass(frozen=True, slots=True)
class SequenceScorer:
    """Scores sequences with a model, its adapters and a cache that nothing else writes to meanwhile."""

    model: Any  # transformers.PreTrainedModel, untyped
    adapters: AdapterManager
    cache: SlotKVCache

    def passes(
        self, sequences: Sequence[RenderedExample], embed: Embed, adapter: LoadedAdapter | None
    ) -> Generator[None, None, list[torch.Tensor]]:
        """Yields after each pass; returns log-probabilities (S,) of each sequence's supervised tokens."""
        found: list[list[torch.Tensor]] = [[] for _ in sequences]
        for batch in prefill_batches([len(sequence.token_ids) for sequence in sequences]):
            self.cache.clear()
            chosen = [sequences[index] for index in batch]
            pictures = [embed(sequence) if sequence.pictures else () for sequence in chosen]
            start = 0
            while start < len(chosen[0].token_ids):
                pairs = enumerate(zip(chosen, pictures, strict=True))
                chunks = [self._chunk(slot, start, *pair) for slot, pair in pairs]
                for index, part in zip(batch, self._forward(chosen, pictures, chunks, adapter), strict=True):
                    found[index].append(part)
                start = chunks[0].end
                yield
        self.cache.clear()
        return [torch.cat(parts) for parts in found]

    def _chunk(
        self, slot: int, start: int, sequence: RenderedExample, pictures: Sequence[PictureEmbeddings]
    ) -> PrefillChunk:
        """The sequence's tokens from `start`, as many as one pass takes."""
        spans = self.cache.spans((picture.start, picture.end) for picture in pictures)
        end = uncut_chunk_end(start, min(len(sequence.token_ids), start + CHUNK_TOKENS), spans)
        return PrefillChunk(slot, start, end - start, spans)

    def _forward(
        self,
        sequences: Sequence[RenderedExample],
        pictures: Sequence[tuple[PictureEmbeddings, ...]],
        chunks: Sequence[PrefillChunk],
        adapter: LoadedAdapter | None,
    ) -> list[torch.Tensor]:
        """Prefill chunks of the sequences; log-probabilities of the supervised tokens that they predict."""
        device, start = self.model.device, chunks[0].start
        ids = [torch.tensor(sequence.token_ids, device=device) for sequence in sequences]
        sizes, ends = [chunk.num_tokens for chunk in chunks], [chunk.end for chunk in chunks]
        self.cache.reserve(len(chunks), max(ends))
        mask, places = self.cache.prefill(chunks)
        self.adapters.assign([adapter] * len(chunks), sizes)
        targets = [
            torch.tensor(
                [at for at in range(start + 1, min(end + 1, len(one))) if sequence.supervised[at]],
                dtype=torch.long,
            )
            for sequence, one, end in zip(sequences, ids, ends, strict=True)
        ]
        offsets = [sum(sizes[:slot]) - start - 1 for slot in range(len(chunks))]
        logits_SV = logits(
            self.model,
            keep=torch.cat([at + offset for at, offset in zip(targets, offsets, strict=True)]).to(device),
            **self._inputs(ids, pictures, chunks),
            attention_mask=mask,
            position_ids=positions([sequence.positions for sequence in sequences], chunks, places),
            past_key_values=self.cache,
            use_cache=True,
        )[0]
        target_ids = torch.cat([one[at.to(device)] for one, at in zip(ids, targets, strict=True)])
        logprobs_S = logits_SV.float().log_softmax(-1).gather(-1, target_ids[:, None])[:, 0]
        return list(logprobs_S.cpu().split([len(at) for at in targets]))

    def _inputs(
        self,
        ids: Sequence[torch.Tensor],
        pictures: Sequence[tuple[PictureEmbeddings, ...]],
        chunks: Sequence[PrefillChunk],
    ) -> dict[str, Any]:
        """The chunks' tokens or, where the sequences hold pictures, their embeddings."""
        parts = [one[chunk.start : chunk.end] for one, chunk in zip(ids, chunks, strict=True)]
        if not any(pictures):
            return {"input_ids": torch.cat(parts)[None]}
        trios = zip(parts, chunks, pictures, strict=True)
        return DecoderInputs.joined(
            [chunk_inputs(self.model, part, chunk.start, embedded) for part, chunk, embedded in trios]
        ).inputs


@dataclass(slots=True, eq=False)
class ScoreHandle:
    """A request to score sequences. `cancel` may be called from any thread, at any time."""

    sequences: Sequence[RenderedExample]
    embed: Embed
    adapter: AdapterRef | None
    sink: ScoreSink
    cancelled: bool = False

    def cancel(self) -> None:
        """Drop the request before its next pass: nobody waits for its scores any more."""
        self.cancelled = True


@dataclass(slots=True, eq=False)
class _Scoring:
    """The request that is being scored."""

    handle: ScoreHandle
    adapter: LoadedAdapter | None
    passes: Generator[None, None, list[torch.Tensor]]


@dataclass
class ScoreQueue:
    """Requests to score, in their order, one pass at a time. Used by the generating thread, but for `add`."""

    scorer: SequenceScorer
    _waiting: deque[ScoreHandle] = field(default_factory=deque)
    _current: _Scoring | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def add(self, handle: ScoreHandle) -> None:
        """Queue a request."""
        self._waiting.append(handle)

    def step(self) -> None:
        """Run one pass of the request whose turn it is, if there is one and its adapter has room."""
        if self._current is None and not self._begin():
            return
        scoring = self._current
        assert scoring is not None  # noqa: S101 - begun above
        if scoring.handle.cancelled:
            self._end()
            return
        try:
            next(scoring.passes)
        except StopIteration as stop:
            self._end(_finite(stop.value))
        except Exception as error:  # noqa: BLE001 - the process loop: one bad request must not end the others
            self._end(request_error(error))

    def close(self, error: KastorError) -> None:
        """End every request with this error."""
        handles, self._waiting = [*self._waiting], deque()
        self._end(error)
        for handle in handles:
            _deliver(handle, error)

    def _begin(self) -> bool:
        while self._waiting:
            handle = self._waiting[0]
            adapters = self.scorer.adapters
            if not handle.cancelled and handle.adapter is not None and not adapters.can_hold(handle.adapter):
                return False
            self._waiting.popleft()
            if handle.cancelled:
                continue
            try:
                adapter = None if handle.adapter is None else adapters.acquire(handle.adapter)
            except Exception as error:  # noqa: BLE001 - the process loop, as above
                _deliver(handle, request_error(error))
                continue
            self._current = _Scoring(handle, adapter, self.scorer.passes(handle.sequences, handle.embed, adapter))
            return True
        return False

    def _end(self, outcome: list[torch.Tensor] | KastorError | None = None) -> None:
        scoring, self._current = self._current, None
        if scoring is None:
            return
        scoring.passes.close()
        self.scorer.cache.clear()
        if scoring.adapter is not None:
            self.scorer.adapters.release(scoring.adapter)
        if outcome is not None:
            _deliver(scoring.handle, outcome)


def _finite(scores: list[torch.Tensor]) -> list[torch.Tensor] | KastorError:
    if all(bool(scores_S.isfinite().all()) for scores_S in scores):
        return scores
    return Internal("The model gives log-probabilities that are not finite; it cannot be used.")


def _deliver(handle: ScoreHandle, outcome: list[torch.Tensor] | KastorError) -> None:
    try:
        handle.sink(outcome)
    except Exception:  # noqa: BLE001 - the process loop: a consumer that fails is a consumer that is gone
        handle.cancel()

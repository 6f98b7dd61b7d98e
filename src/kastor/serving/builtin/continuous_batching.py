"""Continuous batching: requests wait, join the batch, produce a token a step, and leave, each independently.

One loop in one thread: it prefills waiting prompts (several short ones in one pass; a long one in chunks, so that it
does not hold up the others), then decodes one token for every sequence in the batch, then runs one pass of scoring. An
error in a request ends that request alone. A prompt with several candidates is prefilled once and copied. `sequence`
turns logits into output; `multi_lora` and `kv_cache` hold adapters and cache.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import Internal, InvalidArgument, KastorError, Unavailable
from kastor.domain.generation import Chunk, Sampling
from kastor.models.decoder.inputs import DecoderInputs, logits
from kastor.models.decoder.masks import uncut_chunk_end
from kastor.serving.builtin.constrained_decoding import GrammarMatcher
from kastor.serving.builtin.kv_cache import CHUNK_TOKENS, Mask, PrefillChunk, SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager
from kastor.serving.builtin.request_error import request_error
from kastor.serving.builtin.scoring import ScoreHandle, ScoreQueue, SequenceScorer
from kastor.serving.builtin.sequence import (
    EventSink,
    GenerationHandle,
    PictureEmbeddings,
    RunningSequence,
    TokenDecoder,
    chunk_inputs,
    positions,
)

MAX_WAITING = 1000
"""Requests that may wait; more are turned away at once."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of requests and of the batch."""

    max_rows: int
    max_prompt_tokens: int
    max_output_tokens: int  # of one answer
    context_tokens: int  # prompt and answer together; an answer ends where the context does
    max_cache_tokens: int  # over all rows; a single row is always admitted


@dataclass
class ContinuousBatcher:
    """Answers requests for one base model, in the thread that calls `run`."""

    model: Any  # transformers.PreTrainedModel, untyped
    adapters: AdapterManager
    tokens: TokenDecoder
    end_ids: frozenset[int]
    bounds: EngineLimits
    cache: SlotKVCache
    _waiting: deque[GenerationHandle] = field(default_factory=deque)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _closing: bool = False
    _rows: list[RunningSequence] = field(default_factory=list)  # a row's index is its slot
    _entering: list[RunningSequence] = field(default_factory=list)  # in the slots after; several only if all are short
    _progressed_at: float | None = None  # of `run`, on the monotonic clock; None while it waits for work
    _scores: ScoreQueue = field(init=False)

    def __post_init__(self) -> None:
        scorer = SequenceScorer(self.model, self.adapters, self.cache.empty_like())
        self._scores = ScoreQueue(scorer)

    def submit(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        adapter: AdapterRef | None,
        sink: EventSink,
        *,
        num_candidates: int = 1,
        grammar: GrammarMatcher | None = None,
        pictures: tuple[PictureEmbeddings, ...] = (),
        positions: NDArray[np.int64] | None = None,
    ) -> GenerationHandle:
        """Queue a request; from any thread. `grammar` is the initial matcher of the answers' response format.

        `pictures` replace the embeddings of some of the prompt's tokens, whose `positions` are then (3, T) if they do
        not count up from 0.

        Raises:
            InvalidArgument: the prompt, or the output that is asked for, exceeds the base's limits.
            Unavailable: too many wait already, or the process is ending.

        """
        most = self.room_for_answer(len(prompt_ids), sampling)
        handle = GenerationHandle(prompt_ids, sampling, adapter, sink, most, num_candidates, grammar, pictures)
        if positions is not None:
            handle.positions_3T = positions
            handle.position_offset = int(positions.max()) + 1 - len(prompt_ids)
        handle.spans = self.cache.spans((picture.start, picture.end) for picture in pictures)
        self._check_candidates(handle)
        self._enqueue(self._waiting, lambda: self._waiting.append(handle))
        return handle

    def submit_score(self, handle: ScoreHandle) -> None:
        """Queue sequences to be scored, a pass of them between two steps of the answers; from any thread.

        Raises:
            InvalidArgument: a sequence has no tokens, or more than a prompt and its answer may have.
            Unavailable: too many wait already, or the process is ending.

        """
        bounds = self.bounds
        most = min(bounds.context_tokens, bounds.max_prompt_tokens + bounds.max_output_tokens)
        for index, sequence in enumerate(handle.sequences):
            if not 0 < len(sequence.token_ids) <= most:
                problem = f"{len(sequence.token_ids)} tokens; use 1 to {most}"
                raise InvalidArgument.of(f"sequences[{index}]", problem)
        self._enqueue(self._scores, lambda: self._scores.add(handle))

    def _enqueue(self, waiting: Sized, add: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise Unavailable("The generation process is ending; try again.")
            if len(waiting) >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} requests wait already; try again later.")
            add()
            self._wake.notify()

    def room_for_answer(self, num_prompt: int, sampling: Sampling) -> int:
        """The largest number of output tokens after a prompt of `num_prompt`.

        Raises:
            InvalidArgument: the prompt, or the output that is asked for, exceeds the base's limits.

        """
        most = min(self.bounds.max_prompt_tokens, self.bounds.context_tokens - 1)
        if num_prompt > most:
            raise InvalidArgument.of(
                "contents",
                f"The input token count ({num_prompt}) exceeds the maximum number of tokens allowed ({most}).",
            )
        requested, limit = sampling.max_output_tokens, self.bounds.max_output_tokens
        if requested is not None and requested > limit:
            raise InvalidArgument.of(
                "sampling.max_output_tokens", f"{requested} is out of range; use a whole number from 1 to {limit}"
            )
        return min(limit if requested is None else requested, self.bounds.context_tokens - num_prompt)

    def _check_candidates(self, handle: GenerationHandle) -> None:
        num, rows, memory = handle.num_candidates, self.bounds.max_rows, self.bounds.max_cache_tokens
        if num > rows:
            raise InvalidArgument.of("num_candidates", f"{num}; at most {rows} are made side by side")
        if num > 1 and num * handle.reserved_tokens > memory:
            problem = f"{num} answers of up to {handle.reserved_tokens} tokens with their prompt do not fit into memory"
            problem += "; ask for fewer, or for shorter ones"
            raise InvalidArgument.of("num_candidates", problem)

    def close(self) -> None:
        """End `run` before its next step; requests that still wait end with `Unavailable`. From any thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def stalled_s(self) -> float:
        """How long the current pass of `run` has taken; 0 while it waits for work. From any thread."""
        started_at = self._progressed_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    def run(self) -> None:
        """The loop; returns after `close`."""
        with torch.inference_mode():
            while self._work_or_wait():
                self.step()
        error = Unavailable("The generation process is ending; try again.")
        for handle in dict.fromkeys([*(row.handle for row in [*self._rows, *self._entering]), *self._waiting]):
            self._deliver(handle, error)
        self._scores.close(error)

    def _work_or_wait(self) -> bool:
        with self._wake:
            while not (self._closing or self._waiting or self._rows or self._entering or self._scores):
                self.cache.clear()
                self._progressed_at = None
                self._wake.wait()
            self._progressed_at = time.monotonic()
            return not self._closing

    def step(self) -> None:
        """Drop cancelled requests, prefill waiting ones, decode a token for every row, and score for one pass."""
        self._drop()
        self._admit()
        if self._entering:
            self._guarded(self._prefill, self._entering)
            self._drop()  # the other candidates of a request that failed
        if self._rows:
            self._guarded(self._decode, self._rows)
        if self._scores:
            self._progressed_at = time.monotonic()
            self._scores.step()

    def _drop(self) -> None:
        for row in [*self._rows, *self._entering]:
            if row.handle.cancelled:
                self._leave(row)

    # ---- joining and leaving

    def _admit(self) -> None:
        """Admit waiting requests in their order, as far as rows, memory and one pass allow."""
        while self._waiting and self._fits(self._waiting[0]):
            handle = self._waiting.popleft()
            if handle.cancelled:
                continue
            try:
                row = self._row(handle, 0)
            except Exception as error:  # noqa: BLE001 - the process loop: one bad request must not end the others
                self._deliver(handle, request_error(error))
            else:
                self._entering.append(row)

    def _fits(self, handle: GenerationHandle) -> bool:
        if handle.adapter is not None and not self.adapters.can_hold(handle.adapter):
            return False  # also without rows: scoring holds adapters, too
        handles = [row.handle for row in [*self._rows, *self._entering]]
        if not handles:
            return True
        num_rows = len(self._rows) + sum(row.handle.num_candidates for row in self._entering) + handle.num_candidates
        if num_rows > self.bounds.max_rows:
            return False
        entering = sum(len(row.handle.prompt_ids) for row in self._entering)
        if self._entering and entering + len(handle.prompt_ids) > CHUNK_TOKENS:
            return False
        longest = max(one.reserved_tokens for one in [*handles, handle])
        return num_rows * longest <= self.bounds.max_cache_tokens

    def _row(self, handle: GenerationHandle, index: int) -> RunningSequence:
        self._progressed_at = time.monotonic()
        adapter = None if handle.adapter is None else self.adapters.acquire(handle.adapter)
        return RunningSequence.begin(handle, index, self.tokens, adapter)

    def _leave(self, row: RunningSequence) -> None:
        """Remove a row and close the gap that it leaves in the slots."""
        if row.adapter is not None:
            self.adapters.release(row.adapter)
        if row in self._entering:
            index = self._entering.index(row)
            del self._entering[index]  # rows that enter together have nothing cached before they join
            return
        index, last = self._rows.index(row), len(self._rows) - 1
        if index != last:
            self._rows[index] = self._rows[last]
            self.cache.move(last, index, self._rows[index].cached_tokens)
        del self._rows[last]
        if self._entering and self._entering[0].cached_tokens:
            self.cache.move(last + 1, last, self._entering[0].cached_tokens)

    def _guarded(self, act: Callable[[list[RunningSequence]], None], rows: Sequence[RunningSequence]) -> None:
        """Run a pass for all rows; if it fails, retry entering rows one by one, so that the bad one fails alone."""
        rows = list(rows)
        try:
            act(rows)
        except Exception as error:  # noqa: BLE001 - the process loop: end the failed request, go on
            reported = request_error(error)
            for row in rows:
                if len(rows) > 1 and row in self._entering:
                    self._guarded(act, [row])
                else:
                    self._end_with(row, reported)

    # ---- prefill and decode

    def _prefill(self, rows: list[RunningSequence]) -> None:
        """Prefill the prompts of these entering rows, or the next chunk of a single long one; complete ones join."""
        chunks = []
        for slot, row in enumerate(rows, start=len(self._rows)):
            start, handle = row.cached_tokens, row.handle
            end = uncut_chunk_end(start, min(len(handle.prompt_ids), start + CHUNK_TOKENS), handle.spans)
            chunks.append(PrefillChunk(slot, start, end - start, handle.spans))
        num_slots = len(self._rows) + sum(row.handle.num_candidates for row in rows)
        self.cache.reserve(num_slots, max(chunk.end for chunk in chunks))
        sizes = [chunk.num_tokens for chunk in chunks]
        ids = [
            token
            for row, chunk in zip(rows, chunks, strict=True)
            for token in row.handle.prompt_ids[chunk.start : chunk.end]
        ]
        mask, places = self.cache.prefill(chunks)
        self.adapters.assign([row.adapter for row in rows], sizes)
        ends = torch.tensor(sizes, device=places.device).cumsum(0) - 1
        pictures = any(row.handle.pictures for row in rows)
        inputs = self._chunk_inputs(rows, chunks, ids) if pictures else self._tokens([ids])
        at = positions([row.handle.positions_3T for row in rows], chunks, places)
        logits_NV = self._forward(inputs, mask, at, keep=ends)[0]
        complete = []
        for row, size in zip(rows, sizes, strict=True):
            row.cached_tokens += size
            if row.cached_tokens == len(row.handle.prompt_ids):
                complete.append(row)
        if complete:  # a prompt in chunks is alone, so all are complete or none
            self._join(complete, logits_NV)

    def _chunk_inputs(self, rows: list[RunningSequence], chunks: list[PrefillChunk], ids: list[int]) -> dict[str, Any]:
        """The embeddings of the chunks' tokens, with those of pictures in place."""
        parts = torch.tensor(ids, device=self.model.device).split([chunk.num_tokens for chunk in chunks])
        trios = zip(parts, chunks, rows, strict=True)
        return DecoderInputs.joined(
            [chunk_inputs(self.model, part, chunk.start, row.handle.pictures) for part, chunk, row in trios]
        ).inputs

    def _tokens(self, ids: list[list[int]]) -> dict[str, Any]:
        return {"input_ids": torch.tensor(ids, device=self.model.device)}

    def _join(self, rows: list[RunningSequence], logits_NV: torch.Tensor) -> None:
        """Start decoding prefilled prompts, each with as many candidates as were asked for."""
        for row in rows:
            self._entering.remove(row)
            self._rows.append(row)
            row.handle.pictures = ()
        joined, places = list(rows), list(range(len(rows)))
        for place, row in enumerate(rows):
            slot = self._rows.index(row)
            for index in range(1, row.handle.num_candidates):
                other = self._row(row.handle, index)
                self.cache.move(slot, len(self._rows), row.cached_tokens)
                other.cached_tokens = row.cached_tokens
                self._rows.append(other)
                joined.append(other)
                places.append(place)
        self._choose(joined, logits_NV[places])

    def _decode(self, rows: list[RunningSequence]) -> None:
        """Decode one token for every row."""
        lengths = [row.cached_tokens for row in rows]
        self.cache.reserve(len(rows) + len(self._entering), max(lengths) + 1)
        mask, places_N1 = self.cache.decode(lengths)
        self.adapters.assign([row.adapter for row in rows])
        offsets = [[row.handle.position_offset] for row in rows]
        positions_N1 = places_N1 + torch.tensor(offsets, device=places_N1.device)
        inputs = self._tokens([[row.last_token] for row in rows])
        logits_NV = self._forward(inputs, mask, positions_N1, keep=None)[:, -1]
        for row in rows:
            row.cached_tokens += 1
        self._choose(rows, logits_NV)

    def _forward(
        self, inputs: dict[str, Any], mask: Mask, positions: torch.Tensor, *, keep: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits of the tokens `keep`, or of each row's last."""
        self._progressed_at = time.monotonic()
        return logits(
            self.model,
            keep=keep,
            **inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )

    # ---- logits to output

    def _choose(self, rows: list[RunningSequence], logits_NV: torch.Tensor) -> None:
        logits_NV = logits_NV.float().cpu()
        best_N = logits_NV.argmax(dim=-1).tolist()
        finite_N = torch.isfinite(logits_NV).all(dim=-1).tolist()
        for row, logits_V, best, finite in zip(rows, logits_NV, best_N, finite_N, strict=True):
            if row.handle.cancelled:
                continue
            if not finite:
                which = f"adapter {row.handle.adapter}" if row.handle.adapter else "base model"
                self._end_with(row, Internal(f"The {which} gives numbers that are not finite; it cannot be used."))
                continue
            try:
                chunk = row.accept(row.choose(logits_V, best), logits_V, self.end_ids)
            except Exception as error:  # noqa: BLE001 - the process loop: the other rows go on
                self._end_with(row, request_error(error))
                continue
            if chunk is not None:
                self._deliver(row.handle, chunk)
                if chunk.finish_reason is not None:
                    self._leave(row)

    def _end_with(self, row: RunningSequence, error: KastorError) -> None:
        """End a row's request; its other candidates leave before the next pass."""
        if not row.handle.cancelled:
            self._deliver(row.handle, error)
            row.handle.cancel()
        if row in self._rows or row in self._entering:
            self._leave(row)

    def _deliver(self, handle: GenerationHandle, event: Chunk | KastorError) -> None:
        try:
            handle.sink(event)
        except Exception:  # noqa: BLE001 - the process loop: a consumer that fails is a consumer that is gone
            handle.cancel()

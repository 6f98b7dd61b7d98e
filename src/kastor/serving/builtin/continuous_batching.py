"""The generating thread: requests queue up, join the batch, give a token a step, and leave, each at its own time.

One loop: waiting prompts are taken in (several short ones end to end in one pass; a long one in pieces, so that it does
not hold up the others), then every answer in the batch moves on by one token. An error in a request ends that request.
A prompt with several candidates is taken in once, its keys and values then copied. What becomes of a row's logits is
`rows`; adapters and the cache keep themselves.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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
from kastor.serving.builtin.kv_cache import PIECE_TOKENS, Mask, PrefillChunk, SlotKVCache
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
    """How much may be asked for and how much is done side by side."""

    max_rows: int
    max_prompt_tokens: int
    max_output_tokens: int  # of one answer
    context_tokens: int  # prompt and answer together; an answer ends where the context does
    max_cache_tokens: int  # over all rows; a single row is always taken in


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
    _entering: list[RunningSequence] = field(
        default_factory=list
    )  # their slots follow; more than one only if all are short
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
        guide: GrammarMatcher | None = None,
        pictures: tuple[PictureEmbeddings, ...] = (),
        positions: NDArray[np.int64] | None = None,
    ) -> GenerationHandle:
        """Queue a request; from any thread. `guide` is the beginning of the form that its answers must take.

        `pictures` stand in the places of some of the prompt's tokens, whose `positions` are then (3, T) if they do not
        count up from 0.

        Raises:
            InvalidArgument: the prompt, or what is asked for, is more than the base allows.
            Unavailable: too many wait already, or the process is ending.

        """
        most = self.room_for_answer(len(prompt_ids), sampling)
        ticket = GenerationHandle(prompt_ids, sampling, adapter, sink, most, num_candidates, guide, pictures)
        if positions is not None:
            ticket.positions_3T = positions
            ticket.turn = int(positions.max()) + 1 - len(prompt_ids)
        ticket.spans = self.cache.spans((picture.start, picture.end) for picture in pictures)
        self._check_candidates(ticket)
        self._enqueue(len(self._waiting), lambda: self._waiting.append(ticket))
        return ticket

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
                told = f"{len(sequence.token_ids)} tokens; use 1 to {most}"
                raise InvalidArgument.of(f"sequences[{index}]", told)
        self._enqueue(len(self._scores), lambda: self._scores.add(handle))

    def _enqueue(self, num_waiting: int, add: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise Unavailable("The generation process is ending; try again.")
            if num_waiting >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} requests wait already; try again later.")
            add()
            self._wake.notify()

    def room_for_answer(self, num_prompt: int, sampling: Sampling) -> int:
        """How many tokens an answer may have at most after a prompt of so many.

        Raises:
            InvalidArgument: the prompt, or what is asked for, is more than the base allows.

        """
        most = min(self.bounds.max_prompt_tokens, self.bounds.context_tokens - 1)
        if num_prompt > most:
            raise InvalidArgument.of(
                "contents",
                f"The input token count ({num_prompt}) exceeds the maximum number of tokens allowed ({most}).",
            )
        asked, limit = sampling.max_output_tokens, self.bounds.max_output_tokens
        if asked is not None and asked > limit:
            raise InvalidArgument.of(
                "generationConfig.maxOutputTokens", f"{asked} is out of range; use a whole number from 1 to {limit}"
            )
        return min(limit if asked is None else asked, self.bounds.context_tokens - num_prompt)

    def _check_candidates(self, ticket: GenerationHandle) -> None:
        num, rows, memory = ticket.num_candidates, self.bounds.max_rows, self.bounds.max_cache_tokens
        if num > rows:
            raise InvalidArgument.of("generationConfig.candidateCount", f"{num}; at most {rows} are made side by side")
        if num > 1 and num * ticket.reserved_tokens > memory:
            said = f"{num} answers of up to {ticket.reserved_tokens} tokens with their prompt do not fit into memory"
            raise InvalidArgument.of("generationConfig.candidateCount", said + "; ask for fewer, or for shorter ones")

    def close(self) -> None:
        """End `run` before its next step; whoever is still waiting is told so. From any thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def stalled_s(self) -> float:
        """For how long `run` has been at the same piece of work; 0 while there is none. From any thread."""
        began = self._progressed_at
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """The loop; returns after `close`."""
        with torch.inference_mode():
            while self._work_or_wait():
                self.step()
        error = Unavailable("The generation process is ending; try again.")
        for ticket in dict.fromkeys([*(row.ticket for row in [*self._rows, *self._entering]), *self._waiting]):
            self._tell(ticket, error)
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
        """Drop who is gone, take in some of who waits, and move every answer on by one token."""
        self._drop()
        self._admit()
        if self._entering:
            self._guarded(self._prefill, self._entering)
            self._drop()  # candidates of what failed
        if self._rows:
            self._guarded(self._decode, self._rows)
        if self._scores:
            self._progressed_at = time.monotonic()
            self._scores.step()

    def _drop(self) -> None:
        for row in [*self._rows, *self._entering]:
            if row.ticket.cancelled:
                self._leave(row)

    # ---- joining and leaving

    def _admit(self) -> None:
        """Let waiting requests enter, in their order, as far as rows, memory and one pass go."""
        while self._waiting and self._fits(self._waiting[0]):
            ticket = self._waiting.popleft()
            if ticket.cancelled:
                continue
            try:
                row = self._row(ticket, 0)
            except Exception as error:  # noqa: BLE001 - the process loop: one bad request must not end the others
                self._tell(ticket, request_error(error))
            else:
                self._entering.append(row)

    def _fits(self, ticket: GenerationHandle) -> bool:
        tickets = [row.ticket for row in [*self._rows, *self._entering]]
        if not tickets:
            return True
        num_rows = len(self._rows) + sum(row.ticket.num_candidates for row in self._entering) + ticket.num_candidates
        if num_rows > self.bounds.max_rows:
            return False
        if ticket.adapter is not None and not self.adapters.can_hold(ticket.adapter):
            return False
        entering = sum(len(row.ticket.prompt_ids) for row in self._entering)
        if self._entering and entering + len(ticket.prompt_ids) > PIECE_TOKENS:
            return False
        longest = max(one.reserved_tokens for one in [*tickets, ticket])
        return num_rows * longest <= self.bounds.max_cache_tokens

    def _row(self, ticket: GenerationHandle, index: int) -> RunningSequence:
        self._progressed_at = time.monotonic()
        adapter = None if ticket.adapter is None else self.adapters.acquire(ticket.adapter)
        return RunningSequence.begin(ticket, index, self.tokens, adapter)

    def _leave(self, row: RunningSequence) -> None:
        """Take a row out and close the hole it leaves."""
        if row.adapter is not None:
            self.adapters.release(row.adapter)
        if row in self._entering:
            index = self._entering.index(row)
            del self._entering[index]  # several enter only together, and nothing of theirs is cached before they join
            return
        index, last = self._rows.index(row), len(self._rows) - 1
        if index != last:
            self._rows[index] = self._rows[last]
            self.cache.move(last, index, self._rows[index].cached_tokens)
        del self._rows[last]
        if self._entering and self._entering[0].cached_tokens:
            self.cache.move(last + 1, last, self._entering[0].cached_tokens)

    def _guarded(self, act: Callable[[list[RunningSequence]], None], rows: Sequence[RunningSequence]) -> None:
        """Do it for all rows at once; if that fails, entering rows are tried one by one, so the bad one fails alone."""
        rows = list(rows)
        try:
            act(rows)
        except Exception as error:  # noqa: BLE001 - the process loop: end what failed, go on
            reported = request_error(error)
            for row in rows:
                if len(rows) > 1 and row in self._entering:
                    self._guarded(act, [row])
                else:
                    self._end_with(row, reported)

    # ---- the two kinds of pass

    def _prefill(self, rows: list[RunningSequence]) -> None:
        """Take in the prompts of these entering rows, or the next piece of the only one; those complete join."""
        pieces = []
        for slot, row in enumerate(rows, start=len(self._rows)):
            start, ticket = row.cached_tokens, row.ticket
            end = uncut_chunk_end(start, min(len(ticket.prompt_ids), start + PIECE_TOKENS), ticket.spans)
            pieces.append(PrefillChunk(slot, start, end - start, ticket.spans))
        num_slots = len(self._rows) + sum(row.ticket.num_candidates for row in rows)
        self.cache.reserve(num_slots, max(piece.end for piece in pieces))
        sizes = [piece.num_tokens for piece in pieces]
        ids = [
            token
            for row, piece in zip(rows, pieces, strict=True)
            for token in row.ticket.prompt_ids[piece.start : piece.end]
        ]
        mask, places = self.cache.prefill(pieces)
        self.adapters.assign([row.adapter for row in rows], sizes)
        ends = torch.tensor(sizes, device=places.device).cumsum(0) - 1
        given = self._placed(rows, pieces, ids) if any(row.ticket.pictures for row in rows) else self._tokens([ids])
        at = positions([row.ticket.positions_3T for row in rows], pieces, places)
        logits_NV = self._forward(given, mask, at, keep=ends)[0]
        complete = []
        for row, size in zip(rows, sizes, strict=True):
            row.cached_tokens += size
            if row.cached_tokens == len(row.ticket.prompt_ids):
                complete.append(row)
        if complete:  # a prompt in pieces is alone, so it is all of them or none
            self._join(complete, logits_NV)

    def _placed(self, rows: list[RunningSequence], pieces: list[PrefillChunk], ids: list[int]) -> dict[str, Any]:
        """The pieces' tokens as embeddings, with the pictures among them in their places."""
        parts = torch.tensor(ids, device=self.model.device).split([piece.num_tokens for piece in pieces])
        trios = zip(parts, pieces, rows, strict=True)
        return DecoderInputs.joined(
            [chunk_inputs(self.model, part, piece.start, row.ticket.pictures) for part, piece, row in trios]
        ).inputs

    def _tokens(self, ids: list[list[int]]) -> dict[str, Any]:
        return {"input_ids": torch.tensor(ids, device=self.model.device)}

    def _join(self, rows: list[RunningSequence], logits_NV: torch.Tensor) -> None:
        """Prompts that are taken in begin to be answered: each as often as it was asked for."""
        for row in rows:
            self._entering.remove(row)
            self._rows.append(row)
            row.ticket.pictures = ()
        joined, places = list(rows), list(range(len(rows)))
        for place, row in enumerate(rows):
            slot = self._rows.index(row)
            for index in range(1, row.ticket.num_candidates):
                other = self._row(row.ticket, index)
                self.cache.move(slot, len(self._rows), row.cached_tokens)
                other.cached_tokens = row.cached_tokens
                self._rows.append(other)
                joined.append(other)
                places.append(place)
        self._choose(joined, logits_NV[places])

    def _decode(self, rows: list[RunningSequence]) -> None:
        """One token for every row."""
        lengths = [row.cached_tokens for row in rows]
        self.cache.reserve(len(rows) + len(self._entering), max(lengths) + 1)
        mask, places_N1 = self.cache.decode(lengths)
        self.adapters.assign([row.adapter for row in rows])
        turns = [[row.ticket.turn] for row in rows]
        positions_N1 = places_N1 + torch.tensor(turns, device=places_N1.device)
        given = self._tokens([[row.last_token] for row in rows])
        logits_NV = self._forward(given, mask, positions_N1, keep=None)[:, -1]
        for row in rows:
            row.cached_tokens += 1
        self._choose(rows, logits_NV)

    def _forward(
        self, given: dict[str, Any], mask: Mask, positions: torch.Tensor, *, keep: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits of the tokens `keep`, or of each row's last."""
        self._progressed_at = time.monotonic()
        return logits(
            self.model,
            keep=keep,
            **given,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )

    # ---- what becomes of the logits

    def _choose(self, rows: list[RunningSequence], logits_NV: torch.Tensor) -> None:
        logits_NV = logits_NV.float().cpu()
        best_N = logits_NV.argmax(dim=-1).tolist()
        finite_N = torch.isfinite(logits_NV).all(dim=-1).tolist()
        for row, logits_V, best, finite in zip(rows, logits_NV, best_N, finite_N, strict=True):
            if row.ticket.cancelled:
                continue
            if not finite:
                which = f"adapter {row.ticket.adapter}" if row.ticket.adapter else "base model"
                self._end_with(row, Internal(f"The {which} gives numbers that are not finite; it cannot be used."))
                continue
            try:
                chunk = row.accept(row.choose(logits_V, best), logits_V, self.end_ids)
            except Exception as error:  # noqa: BLE001 - the process loop: the other rows go on
                self._end_with(row, request_error(error))
                continue
            if chunk is not None:
                self._tell(row.ticket, chunk)
                if chunk.finish_reason is not None:
                    self._leave(row)

    def _end_with(self, row: RunningSequence, error: KastorError) -> None:
        """End a row's request; other candidates of it leave before the next pass."""
        if not row.ticket.cancelled:
            self._tell(row.ticket, error)
            row.ticket.cancel()
        if row in self._rows or row in self._entering:
            self._leave(row)

    def _tell(self, ticket: GenerationHandle, event: Chunk | KastorError) -> None:
        try:
            ticket.sink(event)
        except Exception:  # noqa: BLE001 - the process loop: a consumer that fails is a consumer that is gone
            ticket.cancel()

"""The generating thread: requests queue up, join the batch, give a token a step, and leave, each at its own time.

One loop: waiting prompts are taken in (several short ones end to end in one pass; a long one in pieces, so that it does
not hold up the others), then every answer in the batch moves on by one token. An error in a request ends that request.
Text and sampling are arithmetic elsewhere (`text`, `sampling`); adapters and the cache keep themselves.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
import torch

from kastor.domain.errors import Internal, InvalidArgument, KastorError, ResourceExhausted, Unavailable
from kastor.domain.generation import Chunk, FinishReason, Sampling
from kastor.serving.adapters import Adapter, AdapterBank
from kastor.serving.cache import Piece, SlotCache
from kastor.serving.sampling import drawn, greedy
from kastor.serving.text import Detokenizer, Writer

PIECE_TOKENS = 256
"""Prompt tokens taken in between two steps: a quarter of a second for the embedded base on two cores."""
MAX_WAITING = 1000
"""Requests that may wait; more are turned away at once."""

Sink = Callable[[Chunk | KastorError], None]
"""Where an answer goes, from the generating thread: must return at once. An error, or a finish reason, is the last."""


class Tokens(Protocol):
    """What the batch needs of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without control tokens."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be asked for and how much is done side by side."""

    max_rows: int
    max_prompt_tokens: int
    max_output_tokens: int  # of one answer
    context_tokens: int  # prompt and answer together; an answer ends where the context does
    max_cache_tokens: int  # over all rows; a single row is always taken in


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way. `cancel` may be called from any thread, at any time."""

    prompt_ids: list[int]
    sampling: Sampling
    adapter_id: str | None
    sink: Sink
    max_output_tokens: int
    cancelled: bool = False

    def cancel(self) -> None:
        """Nobody waits for the answer any more: it is dropped before the next step."""
        self.cancelled = True


@dataclass(slots=True, eq=False)
class Row:
    """A request that is being answered."""

    ticket: Ticket
    writer: Writer
    generator: torch.Generator
    adapter: Adapter | None = None
    cached_tokens: int = 0  # of prompt and answer, in the cache
    output_tokens: int = 0
    last_token: int = -1  # chosen, not yet in the cache

    @property
    def reserved_tokens(self) -> int:
        """Cache this row may come to need."""
        return len(self.ticket.prompt_ids) + self.ticket.max_output_tokens


@dataclass
class Batcher:
    """Answers requests for one base model, in the thread that calls `run`."""

    model: Any  # transformers.PreTrainedModel, untyped
    adapters: AdapterBank
    tokens: Tokens
    end_ids: frozenset[int]
    bounds: Bounds
    cache: SlotCache
    _waiting: deque[Ticket] = field(default_factory=deque)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _closing: bool = False
    _rows: list[Row] = field(default_factory=list)  # a row's index is its slot
    _entering: list[Row] = field(default_factory=list)  # their slots follow; more than one only if all are short

    def submit(self, prompt_ids: list[int], sampling: Sampling, adapter_id: str | None, sink: Sink) -> Ticket:
        """Queue a request; from any thread.

        Raises:
            InvalidArgument: the prompt, or the answer asked for, is longer than the base allows.
            Unavailable: too many wait already, or the process is ending.

        """
        ticket = Ticket(prompt_ids, sampling, adapter_id, sink, self._room_for_answer(len(prompt_ids), sampling))
        with self._wake:
            if self._closing:
                raise Unavailable("The generation process is ending; try again.")
            if len(self._waiting) >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} requests wait already; try again later.")
            self._waiting.append(ticket)
            self._wake.notify()
        return ticket

    def _room_for_answer(self, num_prompt: int, sampling: Sampling) -> int:
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

    def close(self) -> None:
        """End `run` before its next step; whoever is still waiting is told so. From any thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def run(self) -> None:
        """The loop; returns after `close`."""
        with torch.inference_mode():
            while self._work_or_wait():
                self.step()
        error = Unavailable("The generation process is ending; try again.")
        for row in [*self._rows, *self._entering]:
            self._tell(row.ticket, error)
        for ticket in self._waiting:
            self._tell(ticket, error)

    def _work_or_wait(self) -> bool:
        with self._wake:
            while not (self._closing or self._waiting or self._rows or self._entering):
                self.cache.clear()
                self._wake.wait()
            return not self._closing

    def step(self) -> None:
        """Drop who is gone, take in some of who waits, and move every answer on by one token."""
        for row in [*self._rows, *self._entering]:
            if row.ticket.cancelled:
                self._leave(row)
        self._admit()
        if self._entering:
            self._guarded(self._prefill, self._entering)
        if self._rows:
            self._guarded(self._decode, self._rows)

    # ---- joining and leaving

    def _admit(self) -> None:
        """Let waiting requests enter, in their order, as far as rows, memory and one pass go."""
        while self._waiting and self._fits(self._waiting[0]):
            ticket = self._waiting.popleft()
            if ticket.cancelled:
                continue
            try:
                row = self._row(ticket)
                if ticket.adapter_id is not None:
                    row.adapter = self.adapters.acquire(ticket.adapter_id)
            except Exception as error:  # noqa: BLE001 - the process loop: one bad request must not end the others
                self._tell(ticket, _reported(error))
            else:
                self._entering.append(row)

    def _fits(self, ticket: Ticket) -> bool:
        present = [*self._rows, *self._entering]
        if len(present) >= self.bounds.max_rows:
            return False
        if ticket.adapter_id is not None and not self.adapters.can_hold(ticket.adapter_id):
            return False
        entering = sum(len(row.ticket.prompt_ids) for row in self._entering)
        if self._entering and entering + len(ticket.prompt_ids) > PIECE_TOKENS:
            return False
        longest = max((row.reserved_tokens for row in present), default=0)
        longest = max(longest, len(ticket.prompt_ids) + ticket.max_output_tokens)
        return not present or (len(present) + 1) * longest <= self.bounds.max_cache_tokens

    def _row(self, ticket: Ticket) -> Row:
        writer = Writer(Detokenizer(self.tokens.decode), ticket.sampling.stop_sequences)
        generator = torch.Generator()
        if ticket.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(ticket.sampling.seed)
        return Row(ticket, writer, generator)

    def _leave(self, row: Row) -> None:
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

    def _guarded(self, act: Callable[[list[Row]], None], rows: Sequence[Row]) -> None:
        """Do it for all rows at once; if that fails, entering rows are tried one by one, so the bad one fails alone."""
        rows = list(rows)
        try:
            act(rows)
        except Exception as error:  # noqa: BLE001 - the process loop: end what failed, go on
            reported = _reported(error)
            for row in rows:
                if len(rows) > 1 and row in self._entering:
                    self._guarded(act, [row])
                else:
                    self._end_with(row, reported)

    # ---- the two kinds of pass

    def _prefill(self, rows: list[Row]) -> None:
        """Take in the prompts of these entering rows, or the next piece of the only one; those complete join."""
        pieces = []
        for slot, row in enumerate(rows, start=len(self._rows)):
            rest = len(row.ticket.prompt_ids) - row.cached_tokens
            pieces.append(Piece(slot, row.cached_tokens, min(rest, PIECE_TOKENS)))
        self.cache.reserve(pieces[-1].slot + 1, max(piece.start + piece.num_tokens for piece in pieces))
        sizes = [piece.num_tokens for piece in pieces]
        ids = [
            token
            for row, piece in zip(rows, pieces, strict=True)
            for token in row.ticket.prompt_ids[piece.start : piece.start + piece.num_tokens]
        ]
        mask, positions = self.cache.prefill(pieces)
        self.adapters.assign([row.adapter for row in rows], sizes)
        ends = torch.tensor(sizes, device=positions.device).cumsum(0) - 1
        logits_NV = self._forward([ids], mask, positions, logits_to_keep=ends)[0]
        complete = []
        for row, size in zip(rows, sizes, strict=True):
            row.cached_tokens += size
            if row.cached_tokens == len(row.ticket.prompt_ids):
                complete.append(row)
        for row in complete:
            self._entering.remove(row)
            self._rows.append(row)
        if complete:
            self._choose(complete, logits_NV)

    def _decode(self, rows: list[Row]) -> None:
        """One token for every row."""
        lengths = [row.cached_tokens for row in rows]
        self.cache.reserve(len(rows) + len(self._entering), max(lengths) + 1)
        mask, positions = self.cache.decode(lengths)
        self.adapters.assign([row.adapter for row in rows])
        logits_NV = self._forward([[row.last_token] for row in rows], mask, positions, logits_to_keep=1)[:, -1]
        for row in rows:
            row.cached_tokens += 1
        self._choose(rows, logits_NV)

    def _forward(
        self, ids: list[list[int]], mask: torch.Tensor, positions: torch.Tensor, logits_to_keep: int | torch.Tensor
    ) -> torch.Tensor:
        output = self.model(
            input_ids=torch.tensor(ids, device=positions.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: torch.Tensor = output.logits
        return logits

    # ---- what becomes of the logits

    def _choose(self, rows: list[Row], logits_NV: torch.Tensor) -> None:
        logits_NV = logits_NV.float().cpu()
        best_N = logits_NV.argmax(dim=-1).tolist()
        finite_N = torch.isfinite(logits_NV).all(dim=-1).tolist()
        for index, row in enumerate(rows):
            if not finite_N[index]:
                which = f"adapter {row.ticket.adapter_id}" if row.ticket.adapter_id else "base model"
                self._end_with(row, Internal(f"The {which} gives numbers that are not finite; it cannot be used."))
                continue
            try:
                sampling, token = row.ticket.sampling, best_N[index]
                if not greedy(sampling):
                    token = drawn(logits_NV[index], sampling, float(torch.rand(1, generator=row.generator)))
                self._accept(row, token)
            except Exception as error:  # noqa: BLE001 - the process loop: the other rows go on
                self._end_with(row, _reported(error))

    def _accept(self, row: Row, token: int) -> None:
        """Tell the row's consumer what this token adds; the row leaves if it was the last."""
        finish = None
        if token in self.end_ids:
            finish, text = FinishReason.STOP, row.writer.end()
        else:
            row.last_token = token
            row.output_tokens += 1
            text = row.writer.push(token)
            if not row.writer.stopped and row.output_tokens >= row.ticket.max_output_tokens:
                text += row.writer.end()
                finish = FinishReason.MAX_TOKENS
            if row.writer.stopped:
                finish = FinishReason.STOP
        if text or finish:
            self._tell(row.ticket, Chunk(text, len(row.ticket.prompt_ids), row.output_tokens, finish))
        if finish:
            self._leave(row)

    def _end_with(self, row: Row, error: KastorError) -> None:
        self._tell(row.ticket, error)
        if row in self._rows or row in self._entering:
            self._leave(row)

    def _tell(self, ticket: Ticket, event: Chunk | KastorError) -> None:
        try:
            ticket.sink(event)
        except Exception:  # noqa: BLE001 - the process loop: a consumer that fails is a consumer that is gone
            ticket.cancel()


def _reported(error: Exception) -> KastorError:
    """The error as its request's caller sees it; one that is a bug goes to the log with its traceback."""
    if isinstance(error, KastorError):
        return error
    structlog.get_logger().error("generation failed", exc_info=error)
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return ResourceExhausted(
            "The generation process is out of memory; send fewer or shorter requests, then try again."
        )
    return Internal(f"Generation failed: {type(error).__name__}: {text.splitlines()[0] if text else 'no message'}")

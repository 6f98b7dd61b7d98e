"""Keys and values of answers that are produced side by side: one slot an answer, each as long as it is.

Answers in the decode batch occupy slots 0 … n-1 without a hole, so that a step reads views and copies nothing. Who sits
where is the business of `batching`; it calls `move` when somebody leaves.

Shapes: N rows, T new tokens, H key-value heads, S slots, L capacity in tokens, D head width; H and D are a layer's own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from kastor.domain.vision import BidirectionalAttention, VisionSpec
from kastor.models.decoder.inputs import text_config
from kastor.models.decoder.layer_config import LayerConfig, Window
from kastor.models.decoder.masks import Span, attention_mask, span_ids

GROWTH = 1.5
GRAIN_TOKENS = 64
"""Capacity is a multiple of this; growing copies everything, so it grows by half at least."""


PIECE_TOKENS = 256
"""Prompt tokens of one pass: a quarter of a second for the embedded base on two cores."""


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Part of a prompt that goes through the model: `num_tokens` of it, from position `start`, into `slot`."""

    slot: int
    start: int
    num_tokens: int
    spans: tuple[Span, ...] = ()  # of the prompt: pictures whose tokens see one another both ways; none is ever cut

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + self.num_tokens


Mask = torch.Tensor | dict[str, torch.Tensor]
"""True where a query sees a key; by the type of the layer where some of them see a window only."""


class SlotKVCache(Cache):  # type: ignore[misc]  # transformers is untyped for us
    """The cache a model writes to. Say what the next forward pass is (`decode` or `prefill`), then run it."""

    def __init__(self, layers: LayerConfig, *, dtype: torch.dtype, device: Any) -> None:  # noqa: ANN401  # torch.device or its name
        super().__init__(layers=[])
        self._of = layers
        self._dtype, self._device = dtype, torch.device(device)
        self._pass: _Decode | _Prefill | None = None
        self.clear()

    @classmethod
    def like(cls, model: Any, vision: VisionSpec | None = None) -> "SlotKVCache":  # noqa: ANN401 - transformers is untyped
        """An empty cache that fits the model, which sees by `vision`."""
        layers = LayerConfig.of(
            text_config(model), BidirectionalAttention.NEVER if vision is None else vision.both_ways
        )
        return cls(layers, dtype=model.dtype, device=model.device)

    def empty_like(self) -> "SlotKVCache":
        """An empty cache for the same model."""
        return SlotKVCache(self._of, dtype=self._dtype, device=self._device)

    @property
    def bytes_per_token(self) -> int:
        """Memory one position of one slot takes."""
        return 2 * sum(heads * width for heads, width in self._of.heads) * self._dtype.itemsize

    def spans(self, pictures: Iterable[Span]) -> tuple[Span, ...]:
        """Those of these pictures that no pass may cut, as their tokens see one another both ways: all or none."""
        return tuple(pictures) if self._of.both_ways else ()

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.num_slots = self.capacity = 0
        self.keys: list[torch.Tensor] = []  # per layer (S, H, L, D)
        self.values: list[torch.Tensor] = []

    def reserve(self, num_slots: int, capacity: int) -> None:
        """Make room for so many slots of so many tokens each. New room holds zeros: NaN there would get past a mask."""
        if num_slots <= self.num_slots and capacity <= self.capacity:
            return
        slots = max(num_slots, self.num_slots)
        length = self.capacity
        if capacity > length:
            length = max(capacity, int(length * GROWTH))
            length = -(-length // GRAIN_TOKENS) * GRAIN_TOKENS
        self.keys = self._grown(self.keys, slots, length)
        self.values = self._grown(self.values, slots, length)
        self.num_slots, self.capacity = slots, length

    def _grown(self, old: list[torch.Tensor], slots: int, length: int) -> list[torch.Tensor]:
        grown = []
        for layer, (heads, width) in enumerate(self._of.heads):
            tensor_SHLD = torch.zeros(slots, heads, length, width, dtype=self._dtype, device=self._device)
            if old:
                tensor_SHLD[: self.num_slots, :, : self.capacity] = old[layer]
            grown.append(tensor_SHLD)
        return grown

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one slot to another."""
        for tensor_SHLD in (*self.keys, *self.values):
            tensor_SHLD[target, :, :num_tokens] = tensor_SHLD[source, :, :num_tokens]

    def decode(self, lengths: Sequence[int]) -> tuple[Mask, torch.Tensor]:
        """The next pass adds one token to each of the slots 0 … n-1, which hold `lengths` tokens.

        Returns the mask (N, 1, 1, L) and the places (N, 1) of the tokens in their texts.
        """
        device = self._device
        positions_N1 = torch.tensor(lengths, device=device).unsqueeze(1)
        longest = max(lengths) + 1
        self._pass = _Decode(torch.arange(len(lengths), device=device), positions_N1.squeeze(1), longest)
        keys_L = torch.arange(longest, device=device)
        mask = self._by_type(
            lambda window: attention_mask(positions_N1.squeeze(1), keys_L, window=window)[:, None, None, :]
        )
        return mask, positions_N1

    def prefill(self, pieces: Sequence[PrefillChunk]) -> tuple[Mask, torch.Tensor]:
        """The next pass is one row: the pieces' tokens, end to end. Several pieces must all start at 0.

        Returns the mask (1, 1, T, L) that keeps the pieces apart, and the places (1, T) of the tokens in their texts.
        """
        self._pass = _Prefill(tuple(pieces))
        positions_T = torch.cat([torch.arange(p.start, p.end, device=self._device) for p in pieces])
        if len(pieces) == 1:
            mask = self._by_type(lambda window: self._seen(pieces[0], window)[None, None])
        else:
            assert all(piece.start == 0 for piece in pieces)  # noqa: S101 - our own bug
            mask = self._by_type(
                lambda window: torch.block_diag(*[self._seen(piece, window) for piece in pieces])[None, None]
            )
        return mask, positions_T.unsqueeze(0)

    def _seen(self, piece: PrefillChunk, window: Window) -> torch.Tensor:
        """What the piece's tokens see of their own prompt, (T, L)."""
        keys_L = torch.arange(piece.end, device=self._device)
        blocks = None
        if piece.spans and window in self._of.both_ways:
            numbers_L = span_ids(piece.spans, piece.end).to(self._device)
            blocks = (numbers_L[piece.start :], numbers_L)
        return attention_mask(keys_L[piece.start :], keys_L, blocks, window)

    def _by_type(self, mask: Callable[[Window], torch.Tensor]) -> Mask:
        window = self._of.window
        return mask(None) if window is None else {"full_attention": mask(None), "sliding_attention": mask(window)}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: object,
        **__: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values; returns all that this pass attends to. Called by the model."""
        assert self._pass is not None  # noqa: S101 - decode() or prefill() comes first
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        return self._pass.write(keys, key_states), self._pass.write(values, value_states)


@dataclass(frozen=True, slots=True)
class _Decode:
    """One token for each of the first N slots."""

    rows_N: torch.Tensor
    positions_N: torch.Tensor
    longest: int

    def write(self, store_SHLD: torch.Tensor, new_NH1D: torch.Tensor) -> torch.Tensor:
        store_SHLD[self.rows_N, :, self.positions_N] = new_NH1D.squeeze(2)
        return store_SHLD[: len(self.rows_N), :, : self.longest]


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Pieces of prompts, end to end in one row."""

    pieces: tuple[PrefillChunk, ...]

    def write(self, store_SHLD: torch.Tensor, new_1HTD: torch.Tensor) -> torch.Tensor:
        at = 0
        for piece in self.pieces:
            store_SHLD[piece.slot, :, piece.start : piece.end] = new_1HTD[0, :, at : at + piece.num_tokens]
            at += piece.num_tokens
        if len(self.pieces) == 1:
            return store_SHLD[piece.slot : piece.slot + 1, :, : piece.end]
        return new_1HTD

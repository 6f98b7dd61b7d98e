"""The KV cache of a batch: one slot for each sequence, of its own length.

Sequences in the decode batch occupy slots 0 … n-1 without a gap, so a step reads views and copies nothing.
`continuous_batching` assigns the slots, and calls `move` when a sequence leaves.

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


CHUNK_TOKENS = 256
"""Prompt tokens of one pass: a quarter of a second for the embedded base on two cores."""


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Part of a prompt that goes through the model: `num_tokens` of it, from position `start`, into `slot`."""

    slot: int
    start: int
    num_tokens: int
    spans: tuple[Span, ...] = ()  # of pictures with bidirectional attention, which no chunk may cut

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + self.num_tokens


Mask = torch.Tensor | dict[str, torch.Tensor]
"""True where a query attends to a key; a mask for each layer type where some layers have a sliding window."""


class SlotKVCache(Cache):  # type: ignore[misc]  # transformers is untyped for us
    """The cache that a model writes to. Announce the next forward pass by `decode` or `prefill`, then run it."""

    def __init__(self, layers: LayerConfig, *, dtype: torch.dtype, device: Any) -> None:  # noqa: ANN401  # torch.device or its name
        super().__init__(layers=[])
        self._layers = layers
        self._dtype, self._device = dtype, torch.device(device)
        self._pass: _Decode | _Prefill | None = None
        self.clear()

    @classmethod
    def like(cls, model: Any, vision: VisionSpec | None = None) -> "SlotKVCache":  # noqa: ANN401 - transformers is untyped
        """An empty cache for the model, whose pictures are read as `vision` has it."""
        layers = LayerConfig.of(
            text_config(model), BidirectionalAttention.NEVER if vision is None else vision.both_ways
        )
        return cls(layers, dtype=model.dtype, device=model.device)

    def empty_like(self) -> "SlotKVCache":
        """An empty cache for the same model."""
        return SlotKVCache(self._layers, dtype=self._dtype, device=self._device)

    @property
    def bytes_per_token(self) -> int:
        """The memory that one position of one slot takes."""
        return 2 * sum(heads * width for heads, width in self._layers.heads) * self._dtype.itemsize

    def spans(self, pictures: Iterable[Span]) -> tuple[Span, ...]:
        """The pictures that no pass may cut, because their tokens attend to one another both ways: all or none."""
        return tuple(pictures) if self._layers.both_ways else ()

    def clear(self) -> None:
        """Drop all contents and free the memory."""
        self.num_slots = self.capacity = 0
        self.keys: list[torch.Tensor] = []  # per layer (S, H, L, D)
        self.values: list[torch.Tensor] = []

    def reserve(self, num_slots: int, capacity: int) -> None:
        """Grow to at least this many slots and tokens a slot. New memory holds zeros: a NaN would get past a mask."""
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
        for layer, (heads, width) in enumerate(self._layers.heads):
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
        """Announce a pass that adds one token to each of the slots 0 … n-1, which hold `lengths` tokens.

        Returns the mask (N, 1, 1, L) and the cache indices (N, 1) of the tokens.
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

    def prefill(self, chunks: Sequence[PrefillChunk]) -> tuple[Mask, torch.Tensor]:
        """Announce a pass of one row: the chunks' tokens, end to end. Several chunks must all start at 0.

        Returns the mask (1, 1, T, L) that keeps the chunks apart, and the cache indices (1, T) of the tokens.
        """
        self._pass = _Prefill(tuple(chunks))
        positions_T = torch.cat([torch.arange(p.start, p.end, device=self._device) for p in chunks])
        if len(chunks) == 1:
            mask = self._by_type(lambda window: self._chunk_mask(chunks[0], window)[None, None])
        else:
            assert all(chunk.start == 0 for chunk in chunks)  # noqa: S101 - our own bug
            mask = self._by_type(
                lambda window: torch.block_diag(*[self._chunk_mask(chunk, window) for chunk in chunks])[None, None]
            )
        return mask, positions_T.unsqueeze(0)

    def _chunk_mask(self, chunk: PrefillChunk, window: Window) -> torch.Tensor:
        """Which tokens of their own prompt the chunk's tokens attend to, (T, L)."""
        keys_L = torch.arange(chunk.end, device=self._device)
        blocks = None
        if chunk.spans and window in self._layers.both_ways:
            numbers_L = span_ids(chunk.spans, chunk.end).to(self._device)
            blocks = (numbers_L[chunk.start :], numbers_L)
        return attention_mask(keys_L[chunk.start :], keys_L, blocks, window)

    def _by_type(self, mask: Callable[[Window], torch.Tensor]) -> Mask:
        window = self._layers.window
        return mask(None) if window is None else {"full_attention": mask(None), "sliding_attention": mask(window)}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: object,
        **__: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values; returns everything that this pass attends to. Called by the model."""
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
    """Chunks of prompts, end to end in one row."""

    chunks: tuple[PrefillChunk, ...]

    def write(self, store_SHLD: torch.Tensor, new_1HTD: torch.Tensor) -> torch.Tensor:
        at = 0
        for chunk in self.chunks:
            store_SHLD[chunk.slot, :, chunk.start : chunk.end] = new_1HTD[0, :, at : at + chunk.num_tokens]
            at += chunk.num_tokens
        if len(self.chunks) == 1:
            return store_SHLD[chunk.slot : chunk.slot + 1, :, : chunk.end]
        return new_1HTD

"""The forward pass of a packed row: attention stays inside each example, logits are computed only for targets.

Shapes: T tokens of a row, S targets, C model width, V vocabulary, H heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from kastor.domain.errors import Internal
from kastor.models.decoder.inputs import lm_head, text_config
from kastor.models.decoder.layer_config import Window, bidirectional_windows
from kastor.models.decoder.masks import attention_mask, span_ids
from kastor.training.packing import PackedRow
from kastor.training.vision_inputs import VisionInputs

ATTENTION = "kastor_packed"
"""The name of `packed_attention` in the registry of transformers."""

HEAD_CHUNK = 512
"""Number of targets whose logits are in memory at once: 512 x 49,152 x 4 bytes is 100 MB."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, H, T, D)
    key: torch.Tensor,  # (1, H_kv, T, D)
    value: torch.Tensor,  # (1, H_kv, T, D)
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    example_lengths: tuple[int, ...],
    visible: "AttentionMasks | None" = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention inside each example: one call of the fused kernel per example, with a mask only where one is needed.

    Registered with transformers; `example_lengths` and `visible` arrive through the model's keyword arguments.
    """
    pieces = []
    grouped = query.shape[1] != key.shape[1]
    parts = zip(*(tensor.split(example_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for index, (q, k, v) in enumerate(parts):
        mask = None if visible is None else visible.mask(index, sliding_window)
        pieces.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2), None  # (1, T, H, D)


class AttentionMasks:
    """Attention masks of a row's examples that are not plain causal; each is computed once per forward pass."""

    def __init__(self, row: PackedRow, device: torch.device, *, both_ways: frozenset[Window]) -> None:
        """`both_ways` are the windows of layers in which the tokens of one picture attend to each other both ways."""
        self._lengths = row.lengths
        self._device = device
        self._both_ways = both_ways
        spans = [(p.start, p.start + p.num_tokens) for p in row.pictures]
        self._blocks = span_ids(spans, sum(row.lengths)).to(device).split(row.lengths)
        self._masks: dict[tuple[int, Window], torch.Tensor | None] = {}

    def mask(self, example: int, window: Window) -> torch.Tensor | None:
        """The mask (L, L) of one example in layers with this window; `None` where it would equal the causal mask."""
        if (example, window) not in self._masks:
            self._masks[example, window] = self._build_mask(example, window)
        return self._masks[example, window]

    def _build_mask(self, example: int, window: Window) -> torch.Tensor | None:
        length, blocks = self._lengths[example], self._blocks[example]
        two_way = window in self._both_ways and bool((blocks >= 0).any())
        if (window is None or length <= window) and not two_way:
            return None
        places = torch.arange(length, device=self._device)
        return attention_mask(places, places, (blocks, blocks) if two_way else None, window)


def use_packed_attention(model: Any) -> None:  # noqa: ANN401  # a transformers model; see models.load.CausalModel
    """Keep attention inside examples; every forward pass of the model then needs `example_lengths`."""
    AttentionInterface.register(ATTENTION, packed_attention)
    model.get_decoder().config._attn_implementation = ATTENTION


def use_stock_attention(model: Any) -> None:  # noqa: ANN401  # as above
    """Give a base model back the attention implementation that transformers chooses on loading."""
    decoder = model.get_decoder()
    decoder.config._attn_implementation = "sdpa" if decoder._supports_sdpa else "eager"


@dataclass(frozen=True, slots=True)
class RowOutputs:
    """The model's outputs for one packed row, up to the language-model head.

    Logits are computed `HEAD_CHUNK` targets at a time, because those of a whole row would not fit in memory.
    """

    row: PackedRow
    hidden_SC: torch.Tensor  # the decoder's last hidden states where a target is predicted
    targets_S: torch.Tensor
    to_logits: Callable[[torch.Tensor], torch.Tensor]

    def cross_entropy(self) -> torch.Tensor:
        """Summed cross entropy in nats over the targets, a scalar in fp32."""
        losses = self._head_losses("sum")
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def logprobs(self) -> torch.Tensor:
        """Log-probabilities in nats of the targets, (S,) in fp32."""
        return -torch.cat(self._head_losses("none"))

    def sequence_logprobs(self) -> torch.Tensor:
        """Log-probabilities in nats of the targets of each sequence together, one number per sequence of the row."""
        ends = torch.as_tensor(self.row.lengths).cumsum(0)
        sequence_S = torch.searchsorted(ends, torch.from_numpy(self.row.predicting_S), right=True)
        logprobs_S = self.logprobs()
        sums = logprobs_S.new_zeros(len(self.row.lengths))
        return sums.index_add(0, sequence_S.to(logprobs_S.device), logprobs_S)

    def _head_losses(self, reduction: str) -> list[torch.Tensor]:
        if len(self.targets_S) <= HEAD_CHUNK:
            return [_head_loss(self.to_logits, self.hidden_SC, self.targets_S, reduction)]
        chunks = zip(self.hidden_SC.split(HEAD_CHUNK), self.targets_S.split(HEAD_CHUNK), strict=True)
        losses = [checkpoint(_head_loss, self.to_logits, *chunk, reduction, use_reentrant=False) for chunk in chunks]
        return [loss for loss in losses if isinstance(loss, torch.Tensor)]


def row_outputs(model: Any, row: PackedRow, vision: VisionInputs | None = None) -> RowOutputs:  # noqa: ANN401  # as above
    """Run the decoder on a row. `vision` computes the embeddings of its pictures; a row without pictures needs none."""
    device = model.get_input_embeddings().weight.device
    both_ways = frozenset() if vision is None else bidirectional_windows(text_config(model), vision.both_ways)
    hidden_1TC = model.get_decoder()(
        **_input(model, row, vision),
        position_ids=torch.from_numpy(row.positions_T).to(device).unsqueeze(-2),  # (1, T) or (3, 1, T)
        use_cache=False,
        example_lengths=row.lengths,
        visible=AttentionMasks(row, device, both_ways=both_ways),
    ).last_hidden_state
    hidden_SC = hidden_1TC[0, torch.from_numpy(row.predicting_S).to(device)]
    return RowOutputs(row, hidden_SC, torch.from_numpy(row.targets_S).to(device), lm_head(model))


def sum_loss(model: Any, row: PackedRow, vision: VisionInputs | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Summed cross entropy in nats over the row's targets; divide it by the targets of the step, not of the row."""
    return row_outputs(model, row, vision).cross_entropy()


def target_logprobs(model: Any, row: PackedRow, vision: VisionInputs | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Log-probabilities in nats of the row's targets, (S,) in fp32, computed by the same forward pass as the loss."""
    return row_outputs(model, row, vision).logprobs()


def _input(model: Any, row: PackedRow, vision: VisionInputs | None) -> dict[str, Any]:  # noqa: ANN401  # as above
    """Keyword arguments of the decoder: the token ids of the row or, if it has pictures, embeddings (1, T, C)."""
    token_ids_T = torch.from_numpy(row.token_ids_T).to(model.get_input_embeddings().weight.device)
    if not row.pictures:
        return {"input_ids": token_ids_T[None]}
    if vision is None:
        raise Internal(f"The row has {len(row.pictures)} pictures, but no vision inputs were given to embed them.")
    return vision.decoder_inputs(model, token_ids_T, row.pictures).inputs


def _head_loss(
    to_logits: Callable[[torch.Tensor], torch.Tensor], hidden_SC: torch.Tensor, targets_S: torch.Tensor, reduction: str
) -> torch.Tensor:
    return F.cross_entropy(to_logits(hidden_SC).float(), targets_S, reduction=reduction)

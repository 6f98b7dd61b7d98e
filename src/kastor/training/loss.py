"""The loss of a packed row: attention kept inside each example, logits only where there is a target.

Shapes: T tokens of a row, S targets, C model width, V vocabulary, H heads, D head width.
"""

from collections.abc import Callable
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
"""Name under which `packed_attention` is known to transformers."""

HEAD_CHUNK = 512
"""Targets whose logits are in memory at once: 512 x 49,152 x 4 bytes is 100 MB."""


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
    """Attention inside each example, by one call of the fused kernel an example; a mask only where it must be.

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
    """Which tokens of each example of a row see which, where that is not simply all before; worked out once a pass."""

    def __init__(self, row: PackedRow, device: torch.device, *, both_ways: frozenset[Window]) -> None:
        """`both_ways` are the windows of the layers in which pictures' tokens attend to one another both ways."""
        self._lengths = row.lengths
        self._device = device
        self._both_ways = both_ways
        spans = [(p.start, p.start + p.num_tokens) for p in row.pictures]
        self._blocks = span_ids(spans, sum(row.lengths)).to(device).split(row.lengths)
        self._masks: dict[tuple[int, Window], torch.Tensor | None] = {}

    def mask(self, example: int, window: Window) -> torch.Tensor | None:
        """(L, L) of one example for layers of this window; `None` where the plain causal mask says the same."""
        if (example, window) not in self._masks:
            self._masks[example, window] = self._made(example, window)
        return self._masks[example, window]

    def _made(self, example: int, window: Window) -> torch.Tensor | None:
        length, blocks = self._lengths[example], self._blocks[example]
        two_way = window in self._both_ways and bool((blocks >= 0).any())
        if (window is None or length <= window) and not two_way:
            return None
        places = torch.arange(length, device=self._device)
        return attention_mask(places, places, (blocks, blocks) if two_way else None, window)


def use_packed_attention(model: Any) -> None:  # noqa: ANN401  # a transformers model; see models.load.CausalModel
    """Make the model attend inside examples only; it then needs `example_lengths` in every forward."""
    AttentionInterface.register(ATTENTION, packed_attention)
    model.get_decoder().config._attn_implementation = ATTENTION


def use_stock_attention(model: Any) -> None:  # noqa: ANN401  # as above
    """Make a base model attend as transformers would have it after loading."""
    decoder = model.get_decoder()
    decoder.config._attn_implementation = "sdpa" if decoder._supports_sdpa else "eager"


def sum_loss(model: Any, row: PackedRow, sight: VisionInputs | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Summed cross entropy in nats over the row's S targets, a scalar in fp32; divide by the step's targets, not S.

    `sight` gives the embeddings of the row's pictures; it may be absent where there are none.
    """
    hidden_SC, targets_S = _predicting(model, row, sight)
    to_logits = lm_head(model)
    if len(targets_S) <= HEAD_CHUNK:
        return _head_loss(to_logits, hidden_SC, targets_S)
    chunks = zip(hidden_SC.split(HEAD_CHUNK), targets_S.split(HEAD_CHUNK), strict=True)
    losses = [checkpoint(_head_loss, to_logits, hidden, targets, use_reentrant=False) for hidden, targets in chunks]
    return torch.stack([loss for loss in losses if isinstance(loss, torch.Tensor)]).sum()


def target_logprobs(model: Any, row: PackedRow, sight: VisionInputs | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Log-probabilities in nats of the row's targets, (S,) in fp32, by the pass that `sum_loss` makes."""
    hidden_SC, targets_S = _predicting(model, row, sight)
    to_logits = lm_head(model)
    chunks = zip(hidden_SC.split(HEAD_CHUNK), targets_S.split(HEAD_CHUNK), strict=True)
    found = [F.cross_entropy(to_logits(hidden).float(), targets, reduction="none") for hidden, targets in chunks]
    return -torch.cat(found)


def _predicting(model: Any, row: PackedRow, sight: VisionInputs | None) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
    """What the decoder gives where a target is predicted, (S, C), and the targets (S,)."""
    device = model.get_input_embeddings().weight.device
    both_ways = frozenset() if sight is None else bidirectional_windows(text_config(model), sight.both_ways)
    hidden_1TC = model.get_decoder()(
        **_input(model, row, sight),
        position_ids=torch.from_numpy(row.positions_T).to(device).unsqueeze(-2),  # (1, T) or (3, 1, T)
        use_cache=False,
        example_lengths=row.lengths,
        visible=AttentionMasks(row, device, both_ways=both_ways),
    ).last_hidden_state
    hidden_SC = hidden_1TC[0, torch.from_numpy(row.predicting_S).to(device)]
    return hidden_SC, torch.from_numpy(row.targets_S).to(device)


def _input(model: Any, row: PackedRow, sight: VisionInputs | None) -> dict[str, Any]:  # noqa: ANN401  # as above
    """The row's tokens or, where pictures stand among them, embeddings (1, T, C)."""
    token_ids_T = torch.from_numpy(row.token_ids_T).to(model.get_input_embeddings().weight.device)
    if not row.pictures:
        return {"input_ids": token_ids_T[None]}
    if sight is None:
        raise Internal(f"{len(row.pictures)} pictures are to be trained on, and nothing gives their embeddings.")
    return sight.decoder_inputs(model, token_ids_T, row.pictures).inputs


def _head_loss(
    to_logits: Callable[[torch.Tensor], torch.Tensor], hidden_SC: torch.Tensor, targets_S: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(to_logits(hidden_SC).float(), targets_S, reduction="sum")

"""The loss of a packed row: attention kept inside each example, logits only where there is a target.

Shapes: T tokens of a row, S targets, C model width, V vocabulary, H heads, D head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from kastor.domain.errors import Internal
from kastor.training.packing import PackedRow
from kastor.training.sight import Sight

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
    example_lengths: tuple[int, ...],
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example, by one call of the fused kernel an example: no mask is ever built.

    Registered with transformers; `example_lengths` arrives through the model's keyword arguments.
    """
    pieces = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
        for q, k, v in zip(
            query.split(example_lengths, dim=2),
            key.split(example_lengths, dim=2),
            value.split(example_lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None  # (1, T, H, D)


def use_packed_attention(model: Any) -> None:  # noqa: ANN401  # a transformers model; see models.load.CausalModel
    """Make the model attend inside examples only; it then needs `example_lengths` in every forward."""
    AttentionInterface.register(ATTENTION, packed_attention)
    model.config._attn_implementation = ATTENTION


def use_stock_attention(model: Any) -> None:  # noqa: ANN401  # as above
    """Make a base model attend as transformers would have it after loading."""
    model.config._attn_implementation = "sdpa" if model._supports_sdpa else "eager"


def sum_loss(model: Any, row: PackedRow, sight: Sight | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Summed cross entropy in nats over the row's S targets, a scalar in fp32; divide by the step's targets, not S.

    `sight` gives the embeddings of the row's pictures; it may be absent where there are none.
    """
    hidden_SC, targets_S = _predicting(model, row, sight)
    head = model.get_output_embeddings()
    if len(targets_S) <= HEAD_CHUNK:
        return _head_loss(head, hidden_SC, targets_S)
    chunks = zip(hidden_SC.split(HEAD_CHUNK), targets_S.split(HEAD_CHUNK), strict=True)
    losses = [checkpoint(_head_loss, head, hidden, targets, use_reentrant=False) for hidden, targets in chunks]
    return torch.stack([loss for loss in losses if isinstance(loss, torch.Tensor)]).sum()


def target_logprobs(model: Any, row: PackedRow, sight: Sight | None = None) -> torch.Tensor:  # noqa: ANN401  # as above
    """Log-probabilities in nats of the row's targets, (S,) in fp32, by the pass that `sum_loss` makes."""
    hidden_SC, targets_S = _predicting(model, row, sight)
    head = model.get_output_embeddings()
    chunks = zip(hidden_SC.split(HEAD_CHUNK), targets_S.split(HEAD_CHUNK), strict=True)
    return torch.cat([-F.cross_entropy(head(hidden).float(), targets, reduction="none") for hidden, targets in chunks])


def _predicting(model: Any, row: PackedRow, sight: Sight | None) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
    """What the decoder gives where a target is predicted, (S, C), and the targets (S,)."""
    device = model.get_input_embeddings().weight.device
    hidden_1TC = model.get_decoder()(
        **_input(model, row, sight),
        position_ids=torch.from_numpy(row.positions_T).to(device)[None],
        use_cache=False,
        example_lengths=row.lengths,
    ).last_hidden_state
    hidden_SC = hidden_1TC[0, torch.from_numpy(row.predicting_S).to(device)]
    return hidden_SC, torch.from_numpy(row.targets_S).to(device)


def _input(model: Any, row: PackedRow, sight: Sight | None) -> dict[str, torch.Tensor]:  # noqa: ANN401  # as above
    """The row's tokens or, where pictures stand among them, embeddings (1, T, C)."""
    table = model.get_input_embeddings()
    token_ids_1T = torch.from_numpy(row.token_ids_T).to(table.weight.device)[None]
    if not row.pictures:
        return {"input_ids": token_ids_1T}
    if sight is None:
        raise Internal(f"{len(row.pictures)} pictures are to be trained on, and nothing gives their embeddings.")
    return {"inputs_embeds": sight.placed(table(token_ids_1T)[0], row.pictures)[None]}


def _head_loss(head: torch.nn.Module, hidden_SC: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(head(hidden_SC).float(), targets_S, reduction="sum")

"""A decoder layer of Llama's form with its LoRA adapters: forward and backward by hand, for the CPU.

`use_fused_layers` replaces the compute of a peft model's decoder layers and nothing else: parameters, their names and
their saving stay peft's, gradients equal stock peft's to rounding. What makes it fast (numbers in docs/log.md):

- linear layers with one input are one matrix, and their adapters are further rows and columns of it
  (`FusedLoraLinear`), so an adapter costs no pass over the activations; nothing is cast to fp32 and back around it;
- attention runs example by example on the fused kernel, and its gradient, whose bf16 kernel is slow, on plain matmuls;
- norms and SwiGLU keep what their gradient needs and no more; residuals are added inside the matmul.

Shapes: T tokens of a row, C model width, F feed-forward width, I / O inputs / outputs of a projection, R its adapter
columns, H heads, K key/value heads, G = H / K, D head width, L tokens of an example.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

LANE = 32
"""bf16 elements in a row of a matrix tile (AMX): the width of a matmul is kept a multiple of it."""

QUERY_BLOCK = 128
"""Queries whose attention weights are in memory at once in the backward pass; best of 64 … 384."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True, slots=True)
class RowPositions:
    """Where the tokens of a row stand."""

    cos_T1D: Tensor
    sin_T1D: Tensor
    lengths: tuple[int, ...]  # of the examples laid end to end; they sum to T


class FusedLoraLinear:
    """Linear layers that share their input, with their adapters, as one matrix.

    With W the stacked weights, A the stacked down-projections and B the scaled up-projections on the diagonal:

        matrix = | W  B |        y = [x  x A'] [W  B]'        grad_x = [g  g B] [W]
                 | A  0 |                                                       [A]

    The layers' own weights become views into it, so the base is held once.
    """

    def __init__(self, linears: Sequence[Any]) -> None:  # peft.tuners.lora.Linear
        weights = [linear.base_layer.weight for linear in linears]
        self.downs = [linear.lora_A[_active(linear)].weight for linear in linears]
        self.ups = [linear.lora_B[_active(linear)].weight for linear in linears]
        self.scales = [float(linear.scaling[_active(linear)]) for linear in linears]
        self.num_inputs = weights[0].shape[1]
        self._rows = _edges([len(weight) for weight in weights])
        self._ranks = _edges([len(down) for down in self.downs])
        self.num_outputs = self._rows[-1]
        self.room = -(-self._ranks[-1] // LANE) * LANE  # R
        height, width = self.num_outputs + self.room, self.num_inputs + self.room
        self._matrix = torch.zeros(height, width, dtype=weights[0].dtype)
        for (start, end), weight in zip(pairwise(self._rows), weights, strict=True):
            self._matrix[start:end, : self.num_inputs] = weight
            weight.data = self._matrix[start:end, : self.num_inputs]
        self._down_RI = self._matrix[self.num_outputs :, : self.num_inputs]
        self._up_OR = self._matrix[: self.num_outputs, self.num_inputs :]

    @property
    def adapters(self) -> list[Tensor]:
        """The trained tensors: all A, then all B."""
        return [*self.downs, *self.ups]

    def _refresh(self) -> None:
        rows, ranks = pairwise(self._rows), pairwise(self._ranks)
        for (top, bottom), (left, right), down, up, scale in zip(
            rows, ranks, self.downs, self.ups, self.scales, strict=True
        ):
            self._down_RI[left:right] = down
            torch.mul(up, scale, out=self._up_OR[top:bottom, left:right])

    def inputs(self, num_tokens: int) -> Tensor:
        """A (T, I + R) buffer; the caller fills the first I columns."""
        return self._matrix.new_empty(num_tokens, self.num_inputs + self.room)

    def gradients(self, num_tokens: int) -> Tensor:
        """A (T, O + R) buffer; the caller fills the first O columns."""
        return self._matrix.new_empty(num_tokens, self.num_outputs + self.room)

    def forward(self, inputs: Tensor, residual_TO: Tensor | None = None) -> Tensor:
        """(T, O), plus the residual; fills the R columns of `inputs`. `backward` must see the same adapters."""
        self._refresh()
        torch.mm(inputs[:, : self.num_inputs], self._down_RI.t(), out=inputs[:, self.num_inputs :])
        weight = self._matrix[: self.num_outputs].t()
        return inputs @ weight if residual_TO is None else torch.addmm(residual_TO, inputs, weight)

    def backward(self, inputs: Tensor, gradients: Tensor) -> list[Tensor]:
        """The adapters' gradients, in the order of `adapters`; fills the R columns of `gradients`."""
        x_TI, h_TR = inputs.split((self.num_inputs, self.room), dim=1)
        g_TO, gh_TR = gradients.split((self.num_outputs, self.room), dim=1)
        torch.mm(g_TO, self._up_OR, out=gh_TR)
        down_RI = (gh_TR.t() @ x_TI).float()
        up_RO = (h_TR.t() @ g_TO).float()
        rows, ranks = list(pairwise(self._rows)), list(pairwise(self._ranks))
        downs = [down_RI[left:right] for left, right in ranks]
        ups = [
            up_RO[left:right, top:bottom].t() * scale
            for (top, bottom), (left, right), scale in zip(rows, ranks, self.scales, strict=True)
        ]
        return [*downs, *ups]

    def input_gradient(self, gradients: Tensor) -> Tensor:
        """(T, I); to be called after `backward`."""
        return gradients @ self._matrix[:, : self.num_inputs]


def _edges(sizes: Sequence[int]) -> list[int]:
    """Where pieces of these sizes begin and end.

    >>> _edges([2, 3])
    [0, 2, 5]
    """
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return edges


def _normed(x_TC: Tensor, weight_C: Tensor, eps: float, out_TC: Tensor) -> Tensor:
    """RMSNorm as transformers rounds it, into `out_TC`; returns 1 / rms, (T, 1) in fp32."""
    x = x_TC.float()
    norm_T1 = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse_T1 = torch.rsqrt(norm_T1.square_().div_(x.shape[-1]).add_(eps))
    torch.mul(torch.mul(x, inverse_T1).to(x_TC.dtype), weight_C, out=out_TC)
    return inverse_T1


def _norm_gradient(g_TC: Tensor, x_TC: Tensor, weight_C: Tensor, inverse_T1: Tensor, residual_TC: Tensor) -> Tensor:
    """Gradient of `residual + norm` with respect to its input."""
    n = x_TC.float() * inverse_T1
    g = g_TC.float().mul(weight_C.float())
    along_T1 = torch.linalg.vecdot(g, n).div_(-n.shape[-1]).unsqueeze_(-1)
    return g.addcmul_(n, along_T1).mul_(inverse_T1).add_(residual_TC).to(x_TC.dtype)


def _rotated(x_TND: Tensor, cos_T1D: Tensor, sin_T1D: Tensor, sign: int = 1) -> Tensor:
    """Rotary position embedding of N heads; `sign` -1 turns back, which is also its gradient."""
    half = x_TND.shape[-1] // 2
    out = x_TND * cos_T1D
    out[..., :half].addcmul_(x_TND[..., half:], sin_T1D[..., :half], value=-sign)
    out[..., half:].addcmul_(x_TND[..., :half], sin_T1D[..., half:], value=sign)
    return out


class _AttentionHalf(torch.autograd.Function):
    """x + o(attention(qkv(norm(x))))."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's context
        x_TC: Tensor,
        layer: "FusedDecoderLayer",
        place: RowPositions,
        *_adapters: Tensor,
    ) -> Tensor:
        into_qkv = layer.qkv.inputs(len(x_TC))
        inverse_T1 = _normed(x_TC, layer.norm1_C, layer.eps, into_qkv[:, : layer.qkv.num_inputs])
        qkv_TND = layer.qkv.forward(into_qkv).view(len(x_TC), -1, layer.head_dim)
        qk_TND = _rotated(qkv_TND[:, : layer.heads + layer.kv_heads], place.cos_T1D, place.sin_T1D)
        v_TKD = qkv_TND[:, layer.heads + layer.kv_heads :]
        into_o = layer.o.inputs(len(x_TC))
        out_THD = into_o[:, : layer.o.num_inputs].view(len(x_TC), layer.heads, layer.head_dim)
        lse_TH = _attend(layer, qk_TND, v_TKD, place.lengths, out_THD)
        out = layer.o.forward(into_o, x_TC)
        ctx.save_for_backward(x_TC, inverse_T1, into_qkv, qk_TND, v_TKD, lse_TH, into_o)
        ctx.layer, ctx.place = layer, place
        return out

    @staticmethod
    def backward(ctx: Any, g_TC: Tensor) -> Any:  # noqa: ANN401  # as above
        x_TC, inverse_T1, into_qkv, qk_TND, v_TKD, lse_TH, into_o = ctx.saved_tensors
        layer, place = ctx.layer, ctx.place
        g_o = layer.o.gradients(len(g_TC))
        g_o[:, : layer.o.num_outputs] = g_TC
        o_grads = layer.o.backward(into_o, g_o)
        g_THD = layer.o.input_gradient(g_o).view(len(x_TC), -1, layer.head_dim)
        g_qkv = layer.qkv.gradients(len(x_TC))
        g_TND = g_qkv[:, : layer.qkv.num_outputs].view(len(x_TC), -1, layer.head_dim)
        _attend_backward(layer, g_THD, qk_TND, v_TKD, lse_TH, place.lengths, g_TND)
        g_qk = g_TND[:, : layer.heads + layer.kv_heads]
        g_qk.copy_(_rotated(g_qk, place.cos_T1D, place.sin_T1D, -1))
        grads = [*layer.qkv.backward(into_qkv, g_qkv), *o_grads]
        if not ctx.needs_input_grad[0]:
            return None, None, None, *grads
        g_x = _norm_gradient(layer.qkv.input_gradient(g_qkv), x_TC, layer.norm1_C, inverse_T1, g_TC)
        return g_x, None, None, *grads


class _MlpHalf(torch.autograd.Function):
    """x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, layer: "FusedDecoderLayer", *_adapters: Tensor) -> Tensor:  # noqa: ANN401
        into_gate_up = layer.gate_up.inputs(len(x_TC))
        inverse_T1 = _normed(x_TC, layer.norm2_C, layer.eps, into_gate_up[:, : layer.gate_up.num_inputs])
        gate_up = layer.gate_up.forward(into_gate_up)
        gate_TF, up_TF = gate_up.chunk(2, dim=1)
        silu_TF = F.silu(gate_TF)
        into_down = layer.down.inputs(len(x_TC))
        torch.mul(silu_TF, up_TF, out=into_down[:, : layer.down.num_inputs])
        out = layer.down.forward(into_down, x_TC)
        ctx.save_for_backward(x_TC, inverse_T1, into_gate_up, gate_up, silu_TF, into_down)
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, g_TC: Tensor) -> Any:  # noqa: ANN401  # autograd's context
        x_TC, inverse_T1, into_gate_up, gate_up, silu_TF, into_down = ctx.saved_tensors
        layer = ctx.layer
        g_down = layer.down.gradients(len(x_TC))
        g_down[:, : layer.down.num_outputs] = g_TC
        down_grads = layer.down.backward(into_down, g_down)
        g_TF = layer.down.input_gradient(g_down)
        gate_TF, up_TF = gate_up.chunk(2, dim=1)
        g_gate_up = layer.gate_up.gradients(len(x_TC))
        g_gate_TF, g_up_TF = g_gate_up[:, : layer.gate_up.num_outputs].chunk(2, dim=1)
        torch.mul(g_TF, silu_TF, out=g_up_TF)
        torch.ops.aten.silu_backward.grad_input(g_TF.mul_(up_TF), gate_TF, grad_input=g_gate_TF)
        grads = [*layer.gate_up.backward(into_gate_up, g_gate_up), *down_grads]
        g_n = layer.gate_up.input_gradient(g_gate_up)
        return _norm_gradient(g_n, x_TC, layer.norm2_C, inverse_T1, g_TC), None, *grads


def _attend(
    layer: "FusedDecoderLayer", qk_TND: Tensor, v_TKD: Tensor, lengths: Sequence[int], out_THD: Tensor
) -> Tensor:
    """Causal attention inside each example, into `out_THD`; returns log-sum-exp of the scaled scores, (T, H)."""
    lse_TH = qk_TND.new_empty(len(qk_TND), layer.heads, dtype=torch.float32)
    for start, end in pairwise(_edges(lengths)):
        q, k = qk_TND[start:end].transpose(0, 1)[None].split((layer.heads, layer.kv_heads), dim=1)
        v = v_TKD[start:end].transpose(0, 1)[None]
        out, lse = _flash(q, k, v, 0.0, True, scale=layer.scaling)
        out_THD[start:end] = out[0].transpose(0, 1)
        lse_TH[start:end] = lse[0].t()
    return lse_TH


def _attend_backward(
    layer: "FusedDecoderLayer",
    g_THD: Tensor,
    qk_TND: Tensor,
    v_TKD: Tensor,
    lse_TH: Tensor,
    lengths: Sequence[int],
    grad_TND: Tensor,
) -> None:
    """Gradients of q, k and v, into the rows of `grad_TND`.

    The weights exp(q k' - lse) come out of one matmul: lse, as two numbers of the working precision, is two more
    columns of q against -1 in k, so that only a logarithm of a probability is ever rounded to bf16, never a raw score.
    """
    heads, groups = layer.heads, layer.heads // layer.kv_heads
    for start, end in pairwise(_edges(lengths)):
        length = end - start
        wide = _widened(qk_TND[start:end], lse_TH[start:end], heads, layer.scaling)
        wide_q, wide_k = _by_kv_head(wide[:, :heads], groups), wide[:, heads:].transpose(0, 1)
        g, v = _by_kv_head(g_THD[start:end], groups), v_TKD[start:end].transpose(0, 1)
        g_k, g_v = (torch.zeros(v.shape, dtype=torch.float32) for _ in range(2))
        for first in range(0, length, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, length)
            rows = slice(first * groups, last * groups)
            block_g, block_q = g[:, rows].contiguous(), wide_q[:, rows, : layer.head_dim].contiguous()
            weights = torch.bmm(wide_q[:, rows], wide_k[:, :last].transpose(1, 2))
            weights[:, :, first:].add_(layer.future[: (last - first) * groups, : last - first])
            weights.exp_()
            g_weights = torch.bmm(block_g, v[:, :last].transpose(1, 2))
            g_scores = torch._softmax_backward_data(g_weights, weights, -1, weights.dtype)
            g_q = torch.bmm(g_scores, wide_k[:, :last, : layer.head_dim]).mul_(layer.scaling)
            grad_TND[start + first : start + last, :heads] = _by_token(g_q, groups)
            g_k[:, :last] += torch.bmm(g_scores.transpose(1, 2), block_q)
            g_v[:, :last] += torch.bmm(weights.transpose(1, 2), block_g)
        grad_TND[start:end, heads:] = torch.cat((g_k, g_v)).transpose(0, 1)


def _widened(qk_LND: Tensor, lse_LH: Tensor, heads: int, scaling: float) -> Tensor:
    """Scaled q with the columns lse (rounded) and what rounding left, k with -1 in both: (L, H + K, D + LANE)."""
    length, num, width = qk_LND.shape
    wide = qk_LND.new_zeros(length, num, width + LANE)
    torch.mul(qk_LND[:, :heads], scaling, out=wide[:, :heads, :width])
    wide[:, heads:, :width] = qk_LND[:, heads:]
    rounded = lse_LH.to(wide.dtype)
    wide[:, :heads, width] = rounded
    wide[:, :heads, width + 1] = lse_LH - rounded
    wide[:, heads:, width : width + 2] = -1.0
    return wide


def _by_kv_head(x_LHD: Tensor, groups: int) -> Tensor:
    """(K, L * G, D): the query heads of a key/value head side by side, token after token."""
    length, heads, width = x_LHD.shape
    return x_LHD.reshape(length, heads // groups, groups, width).transpose(0, 1).reshape(-1, length * groups, width)


def _by_token(x: Tensor, groups: int) -> Tensor:
    """The way back: (L, H, D)."""
    kv_heads, rows, width = x.shape
    return x.view(kv_heads, rows // groups, groups, width).transpose(0, 1).reshape(-1, kv_heads * groups, width)


def _future(length: int, groups: int, dtype: torch.dtype) -> Tensor:
    """(L * G, L): -inf where a key comes after the query, else 0."""
    return torch.full((length, length), -math.inf, dtype=dtype).triu_(1).repeat_interleave(groups, dim=0)


class FusedDecoderLayer:
    """Stands in for a decoder layer's `forward`; with a cache (generation) it hands over to the layer's own."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401  # a decoder layer of Llama's form, with peft's linears
        attention, mlp = layer.self_attn, layer.mlp
        self._stock = layer.forward
        self.heads: int = attention.config.num_attention_heads
        self.kv_heads: int = attention.config.num_key_value_heads
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self.future = _future(QUERY_BLOCK, self.heads // self.kv_heads, attention.q_proj.base_layer.weight.dtype)
        self.norm1_C, self.norm2_C = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.eps: float = layer.input_layernorm.variance_epsilon
        self.qkv = FusedLoraLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = FusedLoraLinear([attention.o_proj])
        self.gate_up = FusedLoraLinear([mlp.gate_proj, mlp.up_proj])
        self.down = FusedLoraLinear([mlp.down_proj])

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        example_lengths: tuple[int, ...] | None = None,
        **rest: Any,  # noqa: ANN401  # what transformers hands to a decoder layer
    ) -> Tensor:
        """The layer's output, (1, T, C); `example_lengths` says that the row is packed."""
        if example_lengths is None:
            return cast(Tensor, self._stock(hidden_states, **rest))
        cos, sin = (part[0, :, None] for part in rest["position_embeddings"])
        place = RowPositions(cos, sin, example_lengths)
        attention: Any = _AttentionHalf.apply
        mlp: Any = _MlpHalf.apply
        x_TC = attention(hidden_states[0], self, place, *self.qkv.adapters, *self.o.adapters)
        return cast(Tensor, mlp(x_TC, self, *self.gate_up.adapters, *self.down.adapters))[None]


def use_fused_layers(model: Any) -> bool:  # noqa: ANN401  # peft model
    """Give the model's decoder layers the compute of this module; False, and nothing done, where it does not fit.

    To be called once, after the adapter was attached and before its first step; again after `use_stock_layers`.
    """
    layers = model.get_decoder().layers
    if not all(_fits(layer) for layer in layers):
        return False
    for layer in layers:
        layer.forward = FusedDecoderLayer(layer)
    return True


def uses_fused_layers(model: Any) -> bool:  # noqa: ANN401  # a transformers model
    """Whether the decoder layers have the compute of this module."""
    return isinstance(model.get_decoder().layers[0].forward, FusedDecoderLayer)


def use_stock_layers(model: Any) -> None:  # noqa: ANN401  # a transformers model
    """Give the decoder layers their own compute back; weights stay where they are."""
    for layer in model.get_decoder().layers:
        if isinstance(layer.forward, FusedDecoderLayer):
            del layer.forward


def _fits(layer: Any) -> bool:  # noqa: ANN401  # a module
    """A Llama layer on the CPU, frozen, with a plain LoRA adapter on each of its seven linears."""
    if type(layer) is not LlamaDecoderLayer or layer.self_attn.config.hidden_act != "silu":
        return False
    attention, mlp = layer.self_attn, layer.mlp
    return all(
        isinstance(linear, Linear)
        and linear.weight.device.type == "cpu"
        and linear.base_layer.bias is None
        and len(linear.active_adapters) == 1
        and not (linear.merged or linear.disable_adapters or linear.lora_variant or linear.lora_bias[_active(linear)])
        and isinstance(linear.lora_dropout[_active(linear)], torch.nn.Identity)
        for linear in (
            *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
            *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
        )
    )


def _active(linear: Any) -> str:  # noqa: ANN401  # peft's linear
    return str(linear.active_adapters[0])

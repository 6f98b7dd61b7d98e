"""The fused layers against stock peft and transformers: same loss, same gradients, same files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kastor.domain.job import AdapterShape
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.models.chat.render import RenderedExample
from kastor.training.fused_llama_cpu import QUERY_BLOCK, FusedDecoderLayer, FusedLoraLinear, use_fused_layers
from kastor.training.lora import add_lora
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import PackedRow, pack
from support.tiny_models import tiny_model


def row(*lengths: int) -> PackedRow:
    """Random tokens; the last third of each example is supervised."""
    random = np.random.default_rng(0)
    examples = []
    for length in lengths:
        learnt = max(1, length // 3)
        ids = random.integers(3, 250, length).tolist()
        examples.append(RenderedExample(ids, [False] * (length - learnt) + [True] * learnt))
    return pack(examples)


def tuned_model(dtype: torch.dtype = torch.float32, shape: AdapterShape | None = None) -> Any:
    """The tiny base with an adapter whose B is not zero, so that every gradient has something to say."""
    model = add_lora(
        tiny_model().to(dtype).requires_grad_(False), shape or AdapterShape(4, 10.0, LLAMA_LINEARS), seed=1
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    use_packed_attention(model)
    return model


def loss_and_gradients(model: Any, packed: PackedRow) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = sum_loss(model, packed)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a parameter's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).norm() / expected[n].norm()) for n in expected)


@pytest.mark.parametrize(
    "lengths",
    [(7,), (1, 12, 3, 20), (QUERY_BLOCK,), (QUERY_BLOCK + 1, 5), (2 * QUERY_BLOCK + 37,)],
    ids=["one example", "several", "a whole block", "a block and one", "blocks with a rest"],
)
def test_gradients_equal_those_of_stock_peft_to_rounding(lengths: tuple[int, ...]) -> None:
    model, packed = tuned_model(), row(*lengths)
    expected_loss, expected = loss_and_gradients(model, packed)
    assert use_fused_layers(model)
    loss, found = loss_and_gradients(model, packed)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert len(found) == 2 * 2 * len(LLAMA_LINEARS)
    assert distance(found, expected) < 1e-5


def test_bf16_gradients_are_as_near_to_the_true_ones_as_those_of_stock_peft() -> None:
    packed = row(30, 150, 9)
    _, true = loss_and_gradients(tuned_model(), packed)
    model = tuned_model(torch.bfloat16)
    _, stock = loss_and_gradients(model, packed)
    use_fused_layers(model)
    _, fused = loss_and_gradients(model, packed)
    assert all(gradient.dtype == torch.float32 for gradient in fused.values())
    assert distance(fused, true) < 1.25 * distance(stock, true)


def test_an_optimizer_step_reaches_the_next_forward() -> None:
    model, packed = tuned_model(), row(12, 5)
    use_fused_layers(model)
    loss_and_gradients(model, packed)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    loss, found = loss_and_gradients(model, packed)
    other = tuned_model()
    other.load_state_dict(model.state_dict())
    expected_loss, expected = loss_and_gradients(other, packed)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert distance(found, expected) < 1e-5


def test_the_adapter_is_saved_as_peft_saves_it(tmp_path: Path) -> None:
    model = tuned_model()
    model.save_pretrained(tmp_path / "stock")
    use_fused_layers(model)
    model.save_pretrained(tmp_path / "fused")
    stock, fused = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("stock", "fused"))
    assert stock.keys() == fused.keys()
    assert all(torch.equal(stock[name], fused[name]) for name in stock)


def test_generation_with_a_cache_goes_through_the_layers_own_forward() -> None:
    model = tuned_model()
    model.config._attn_implementation = "sdpa"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        use_fused_layers(model)
        found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected)


def test_the_base_is_held_once_and_unchanged() -> None:
    model = tuned_model()
    linear = model.get_decoder().layers[0].mlp.gate_proj
    before = linear.base_layer.weight.clone()
    use_fused_layers(model)
    projection = model.get_decoder().layers[0].forward.gate_up
    assert isinstance(projection, FusedLoraLinear)
    assert torch.equal(linear.base_layer.weight, before)
    assert linear.base_layer.weight.untyped_storage().data_ptr() == projection._matrix.untyped_storage().data_ptr()


def test_a_model_it_does_not_fit_is_left_alone() -> None:
    model = tuned_model(shape=AdapterShape(4, 8.0, ("q_proj", "v_proj")))
    assert not use_fused_layers(model)
    assert not any(isinstance(layer.forward, FusedDecoderLayer) for layer in model.get_decoder().layers)

"""Adapters next to the base give what peft gives with each alone, and nothing of an adapter is left out."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import FailedPrecondition
from kastor.models.load import load_base
from kastor.serving.builtin.multi_lora import AdapterManager

PROMPTS = torch.randint(3, 259, (6, 20), generator=torch.Generator().manual_seed(0))
NAMES = ("a", None, "b", "c", "a", "d")


def logits_by_peft(base_folder: Path, adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    model = load_base(base_folder, dtype=torch.float32)
    if adapter is not None:
        with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.fixture
def bank(base_folder: Path, adapters_root: Path) -> AdapterManager:
    return AdapterManager(
        load_base(base_folder, dtype=torch.float32), lambda ref: adapters_root / str(ref), max_resident=4
    )


def test_a_mixed_batch_equals_peft_with_each_adapter_alone(
    bank: AdapterManager, base_folder: Path, adapters_root: Path
) -> None:
    adapters = [None if name is None else bank.acquire(AdapterRef(name)) for name in NAMES]
    with torch.inference_mode():
        bank.assign(adapters)
        mixed = bank.model(input_ids=PROMPTS).logits
        base = logits_by_peft(base_folder, None, PROMPTS)
        for row, name in enumerate(NAMES):
            alone = logits_by_peft(base_folder, name and adapters_root / name, PROMPTS[row : row + 1])[0]
            torch.testing.assert_close(mixed[row], alone, atol=2e-4, rtol=2e-4)
            assert name is None or (alone - base[row]).abs().max() > 0.1  # the adapter does something


def test_rows_without_an_adapter_get_exactly_the_base(bank: AdapterManager, base_folder: Path) -> None:
    adapters = [bank.acquire(AdapterRef("a")), None]
    with torch.inference_mode():
        bank.assign(adapters)
        mixed = bank.model(input_ids=PROMPTS[:2]).logits
        assert torch.equal(mixed[1], logits_by_peft(base_folder, None, PROMPTS[:2])[1])


def test_one_row_of_several_prompts_uses_each_ones_adapter(bank: AdapterManager) -> None:
    a, b = bank.acquire(AdapterRef("a")), bank.acquire(AdapterRef("b"))
    layer = "model.layers.0.self_attn.q_proj"
    x = torch.randn(1, 5, 64)
    with torch.inference_mode():
        bank.assign([a, None, b], [2, 1, 2])
        together = bank.model.get_submodule(layer)(x)
        for adapter, part in ((a, slice(0, 2)), (None, slice(2, 3)), (b, slice(3, 5))):
            bank.assign([adapter])
            torch.testing.assert_close(together[:, part], bank.model.get_submodule(layer)(x[:, part]))


def test_ranks_by_pattern_are_applied_as_peft_does(base_folder: Path, adapters_root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapters_root / "a", tmp_path / "patterned")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    for key in tensors:
        if "q_proj" in key:
            tensors[key] = (tensors[key][:2] if "lora_A" in key else tensors[key][:, :2]).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    bank = AdapterManager(load_base(base_folder, dtype=torch.float32), lambda ref: tmp_path / str(ref), max_resident=1)
    with torch.inference_mode():
        bank.assign([bank.acquire(AdapterRef("patterned"))])
        ours = bank.model(input_ids=PROMPTS[:1]).logits
    torch.testing.assert_close(ours, logits_by_peft(base_folder, folder, PROMPTS[:1]), atol=2e-4, rtol=2e-4)


def test_the_least_recently_used_idle_adapter_makes_room(bank: AdapterManager) -> None:
    bank.max_resident = 2
    for name in ("a", "b", "a"):
        bank.release(bank.acquire(AdapterRef(name)))
    bank.acquire(AdapterRef("c"))
    assert list(bank.resident) == [AdapterRef("a"), AdapterRef("c")]


def test_an_adapter_in_use_is_never_dropped(bank: AdapterManager) -> None:
    bank.max_resident = 2
    used = bank.acquire(AdapterRef("a"))
    bank.release(bank.acquire(AdapterRef("b")))
    bank.acquire(AdapterRef("c"))
    assert list(bank.resident) == [AdapterRef("a"), AdapterRef("c")]
    assert not bank.can_hold(AdapterRef("b"))
    assert bank.can_hold(AdapterRef("a"))
    bank.release(used)
    assert bank.can_hold(AdapterRef("b"))


def changed(folder: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of an adapter with tensors added, replaced or (None) removed."""
    copy = shutil.copytree(folder, target)
    held = load_file(copy / "adapter_model.safetensors")
    for key, tensor in tensors.items():
        held.pop(key, None)
        if tensor is not None:
            held[key] = tensor
    save_file(held, copy / "adapter_model.safetensors")
    return copy


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{Q}.lora_magnitude_vector": torch.ones(64)}, "lora_magnitude_vector"),
        ({"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(4, 64)}, "layers.7.mlp.up_proj"),
        ({"base_model.model.model.norm.lora_A.weight": torch.ones(4, 64)}, "LlamaRMSNorm"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 65)}, "(4, 65)"),
        ({f"{Q}.lora_B.weight": None}, "layers.0.self_attn.q_proj"),
        ({f"{Q}.lora_B.weight": torch.full((64, 4), float("nan"))}, "not finite"),
    ],
)
def test_a_tensor_that_would_not_be_applied_refuses_the_adapter(
    bank: AdapterManager, adapters_root: Path, tmp_path: Path, tensors: dict[str, torch.Tensor | None], named: str
) -> None:
    changed(adapters_root / "a", tmp_path / "bad", **tensors)
    bank.folder_of = lambda ref: tmp_path / str(ref)
    with pytest.raises(FailedPrecondition) as refused:
        bank.acquire(AdapterRef("bad"))
    assert named in refused.value.message
    assert str(tmp_path / "bad") in refused.value.message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "not the configuration of a LoRA"),
        ({"target_modules": ["q_proj", "lm_head"]}, "no tensors for lm_head"),
        ({"r": 5}, "the base needs ((5, "),
    ],
)
def test_a_setting_that_would_not_take_effect_refuses_the_adapter(
    bank: AdapterManager, adapters_root: Path, tmp_path: Path, fields: dict[str, object], named: str
) -> None:
    folder = shutil.copytree(adapters_root / "a", tmp_path / "bad")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    bank.folder_of = lambda ref: tmp_path / str(ref)
    with pytest.raises(FailedPrecondition) as refused:
        bank.acquire(AdapterRef("bad"))
    assert named in refused.value.message


def test_an_adapter_that_is_missing_or_cut_short_is_named(
    bank: AdapterManager, adapters_root: Path, tmp_path: Path
) -> None:
    bank.folder_of = lambda ref: tmp_path / str(ref)
    with pytest.raises(FailedPrecondition, match="There is no adapter"):
        bank.acquire(AdapterRef("gone"))
    cut = shutil.copytree(adapters_root / "a", tmp_path / "cut") / "adapter_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(FailedPrecondition, match=r"adapter_model.safetensors cannot be read"):
        bank.acquire(AdapterRef("cut"))
    assert not bank.resident

"""Whatever was trained is certified, however few its steps and in whatever script; what is served otherwise is not."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.domain.certificate import Certificate
from kastor.domain.content import Example
from kastor.domain.errors import DataLoss, Internal
from kastor.domain.job import AdapterShape, Hyperparameters, TuningSpec
from kastor.models.chat.families import LLAMA_LINEARS, SMOLLM2
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import fp32_module_by_module, load_base, to_fp32
from kastor.serving.builtin.parity import ServedAdapter, certify
from kastor.serving.score_comparison import EXACT, check_logprobs, rounded_tolerance
from kastor.store.blobs.manifests import write_manifest
from kastor.training.fused_llama_cpu import use_stock_layers
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora, remove_lora
from kastor.training.loss import target_logprobs
from kastor.training.packing import pack
from kastor.worker.certify import (
    certify_adapter,
    certify_checkpoint,
    golden_examples,
    golden_rows_in_fp32,
    golden_rows_module_by_module,
    lora_deltas,
)
from support.tiny_models import tiny_base

SCRIPTS = {
    "Latin": ("maison", "house"),
    "Cyrillic": ("двадцать два", "двадцать три"),
    "Greek": ("καλημέρα", "good morning"),
    "Arabic": ("صباح الخير", "مساء الخير"),
    "Hebrew": ("שלום עולם", "בוקר טוב"),
    "Devanagari": ("नमस्ते", "धन्यवाद"),
    "Chinese": ("七", "八"),
    "Japanese": ("おはよう", "こんばんは"),
    "Korean": ("안녕하세요", "감사합니다"),
    "Thai": ("สวัสดี", "ขอบคุณ"),
    "emoji": ("🙂", "🙃🎉"),
}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Tuned:
    """A model after its last step, and its adapter's folder."""

    model: Any
    examples: list[RenderedExample]
    renderer: Renderer
    folder: Path

    def certified(self, *, in_fp32: bool = True) -> Certificate:
        return certify_adapter(
            self.model,
            self.examples,
            None,
            self.renderer,
            self.folder,
            base_model="tiny",
            seed=0,
            check_cancelled=lambda: None,
            in_fp32=lambda _: in_fp32,
        )


def tuned(
    base_folder: Path,
    folder: Path,
    *,
    steps: int = 2,
    rate: float = 1e-3,
    rank: int = 8,
    pairs: list[tuple[str, str]] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tuned:
    renderer = Renderer.open(base_folder, SMOLLM2)
    examples = [renderer.example(Example.pair(*pair)) for pair in pairs or list(SCRIPTS.values())[:3]]
    shape = AdapterShape(rank=rank, alpha=2.0 * rank, targets=LLAMA_LINEARS)
    model = add_lora(load_base(base_folder, dtype=dtype), shape, seed=1)
    spec = TuningSpec("tiny", Hyperparameters(steps, len(examples), rate), shape, len(examples), seed=1)
    trainer = Trainer(model, examples, spec)
    while not trainer.done:
        trainer.run_step()
    model.save_pretrained(folder)
    write_manifest(folder, {})
    return Tuned(model, examples, renderer, folder)


@settings(max_examples=12, deadline=None)
@given(
    steps=st.integers(1, 30),
    rate=st.floats(-5, -2).map(lambda exponent: 10.0**exponent),
    rank=st.integers(1, 64),
    scripts=st.lists(st.sampled_from(sorted(SCRIPTS)), min_size=1, max_size=11, unique=True),
    in_fp32=st.booleans(),
)
def test_an_adapter_that_is_served_as_it_was_trained_is_never_refused(
    base_folder: Path, steps: int, rate: float, rank: int, scripts: list[str], in_fp32: bool
) -> None:
    pairs = [SCRIPTS[script] for script in scripts]
    with tempfile.TemporaryDirectory() as folder:
        made = tuned(base_folder, Path(folder) / "adapter", steps=steps, rate=rate, rank=rank, pairs=pairs)
        proof = made.certified(in_fp32=in_fp32)
    assert proof.compared_in == ("float32" if in_fp32 else "bfloat16")
    assert proof.dtype == "bfloat16" and proof.rounding is not None
    if in_fp32:
        assert proof.largest_difference < EXACT.largest / 5 and proof.mean_difference < EXACT.mean / 5


def scaled(model: Any, factor: float, name: str = "layers.0.self_attn.q_proj") -> None:
    module = next(module for path, module in model.named_modules() if path.endswith(name))
    module.scaling["default"] *= factor


def ranks_mixed_up(model: Any) -> None:
    module = next(module for path, module in model.named_modules() if path.endswith("layers.0.mlp.down_proj"))
    mixed = module.lora_A["default"].weight.detach().flip(0)
    module.lora_A["default"].weight = torch.nn.Parameter(mixed)  # the remembered one stays as it is


def wrong_target(model: Any) -> None:
    q, o = (
        next(module for path, module in model.named_modules() if path.endswith(f"layers.0.self_attn.{name}_proj"))
        for name in "qo"
    )
    q.lora_A["default"], o.lora_A["default"] = o.lora_A["default"], q.lora_A["default"]


@pytest.mark.parametrize(
    "fault",
    [
        lambda model: scaled(model, 1.05),  # one of 14 layers, by a twentieth
        lambda model: [module.scaling.update(default=2.04) for module in lora_layers(model)],  # lora_alpha, by 2 %
        lambda model: scaled(model, 0, "layers.0.mlp.down_proj"),  # left unapplied
        ranks_mixed_up,
        wrong_target,
    ],
)
def test_a_layer_that_is_computed_otherwise_is_caught_where_bf16_would_hide_it(
    base_folder: Path, tmp_path: Path, fault: Callable[[Any], object]
) -> None:
    """The trainer's side is harmed after its tensors were saved and remembered: only the numbers can tell."""
    made = tuned(base_folder, tmp_path / "adapter", steps=8, rate=3e-3)
    deltas = lora_deltas(made.model)
    use_stock_layers(made.model)
    fault(made.model)
    golden, _ = golden_rows_in_fp32(made.model, golden_examples(made.examples, seed=0))
    served = ServedAdapter.open(remove_lora(made.model), made.renderer, made.folder)
    with pytest.raises(Internal, match=r"log-probabilities differ by up to .* 0\.002 and 0\.0002 are tolerated"):
        certify(served, golden, deltas, made.folder, base_model="tiny")


def lora_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "scaling") and hasattr(module, "lora_A")]


def test_without_room_for_fp32_an_adapter_that_is_not_applied_is_refused(base_folder: Path, tmp_path: Path) -> None:
    made = tuned(base_folder, tmp_path / "adapter", steps=20, rate=1e-2)
    golden, tolerance = golden_rows_module_by_module(made.model, golden_examples(made.examples, seed=0))
    served = ServedAdapter.open(remove_lora(made.model), made.renderer, made.folder)
    rendered = [row.rendered for row in golden]
    check_logprobs(golden, served.logprobs(rendered), tolerance)
    with pytest.raises(Internal, match="log-probabilities differ"):
        check_logprobs(golden, served.logprobs(rendered, adapted=False), tolerance)


def test_fp32_module_by_module_is_fp32_and_leaves_the_weights_as_they_were(base_folder: Path, tmp_path: Path) -> None:
    made = tuned(base_folder, tmp_path / "adapter")
    row, model = pack(made.examples), made.model
    use_stock_layers(model)
    were = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        with fp32_module_by_module(model):
            in_turn = target_logprobs(model, row)
        assert all(torch.equal(parameter, were[name]) for name, parameter in model.named_parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16, torch.float32}
        rounded = target_logprobs(model, row)
        to_fp32(model)
        exact = target_logprobs(model, row)
    torch.testing.assert_close(in_turn, exact, atol=1e-5, rtol=1e-5)
    assert float((rounded - exact).abs().max()) > 1e-3


def test_few_tokens_that_stock_happens_to_round_alike_are_no_reason_to_refuse(
    base_folder: Path, tmp_path: Path
) -> None:
    made = tuned(base_folder, tmp_path / "adapter", pairs=[("7", "8")])
    golden, tolerance = golden_rows_module_by_module(made.model, golden_examples(made.examples, seed=0))
    assert tolerance.mean >= 0.1
    assert rounded_tolerance(golden) == tolerance


def test_any_checkpoint_can_be_certified_and_keeps_its_certificate(base_folder: Path, tmp_path: Path) -> None:
    made = tuned(base_folder, tmp_path / "step-000002")
    shape = AdapterShape(8, 16.0, LLAMA_LINEARS)

    def certify() -> Certificate:
        base = load_base(base_folder, dtype=torch.bfloat16)
        return certify_checkpoint(
            base, shape, made.folder, made.examples, None, made.renderer, base_model="tiny", seed=0
        )

    assert certify().encoded() == (made.folder / "certificate.json").read_text()
    assert certify().effect > 0  # again, beside the first
    (made.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataLoss, match=r"adapter_config\.json is damaged"):
        certify()

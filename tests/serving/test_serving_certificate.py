"""What the certificate must catch between training and serving, and what it must let pass."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.certificate import Certificate, Tolerance, golden_rows
from kastor.domain.content import Example
from kastor.domain.errors import Internal, KastorError
from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import load_base
from kastor.serving.builtin.kv_cache import CHUNK_TOKENS
from kastor.serving.builtin.multi_lora import LoraDelta, load_adapter
from kastor.serving.builtin.parity import ServedAdapter, certify
from kastor.serving.score_comparison import GoldenExample

TEXTS = [("one", "two"), ("twelve", "thirteen and more"), ("a longer question " * 12, "a longer answer " * 9)]


@pytest.fixture(scope="module")
def renderer(base_folder: Path) -> Renderer:
    return Renderer.open(base_folder, SMOLLM2)


@pytest.fixture(scope="module")
def examples(renderer: Renderer) -> list[RenderedExample]:
    return [renderer.example(Example.pair(*pair)) for pair in TEXTS]


def by_peft(base_folder: Path, adapter: Path, example: RenderedExample) -> torch.Tensor:
    """Log-probabilities of the supervised tokens by stock peft."""
    with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(load_base(base_folder, dtype=torch.float32), str(adapter))
    ids = torch.tensor(example.token_ids)
    with torch.inference_mode():
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    at = torch.tensor(example.supervised).nonzero()[:, 0]
    return logprobs[at - 1, ids[at]]


@pytest.fixture(scope="module")
def golden(base_folder: Path, adapters_root: Path, examples: list[RenderedExample]) -> list[GoldenExample]:
    """Scored by stock peft, which stands in for the trainer."""
    return [GoldenExample(i, e, by_peft(base_folder, adapters_root / "a", e)) for i, e in enumerate(examples)]


@pytest.fixture
def prove(
    base_folder: Path, adapters_root: Path, renderer: Renderer, golden: list[GoldenExample], tmp_path: Path
) -> Callable[..., Certificate]:
    """Certify a copy of adapter `a` after `harm` was done to it; the trainer remembers the unharmed one."""

    def proven(
        harm: Callable[[Path], object] = lambda _: None,
        trained: Mapping[str, LoraDelta] | None = None,
        rows: Sequence[GoldenExample] = golden,
    ) -> Certificate:
        folder = shutil.copytree(adapters_root / "a", tmp_path / "adapter")
        model = load_base(base_folder, dtype=torch.float32)
        remembered = trained or load_adapter(AdapterRef("a"), folder, model, torch.float32).deltas
        harm(folder)
        return certify(ServedAdapter.open(model, renderer, folder), rows, remembered, folder, base_model="tiny")

    return proven


def changed_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return harm


def changed_config(**fields: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return harm


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def test_what_is_served_as_trained_gets_a_certificate_with_the_figures(
    prove: Callable[..., Certificate], golden: list[GoldenExample]
) -> None:
    proof = prove()
    assert proof.largest_difference < 1e-4 and proof.mean_difference <= proof.largest_difference
    assert proof.decode_difference < 1e-3
    assert proof.effect > 0.1
    assert (proof.num_tensors, proof.dtype) == (28, "float32")
    assert [row.example for row in proof.rows] == [0, 1, 2]
    assert proof.num_tokens == sum(example.rendered.num_supervised for example in golden)
    assert proof.finish_reason in ("STOP", "MAX_TOKENS")
    document = json.loads(proof.encoded())
    assert (document["verdict"], document["format"], document["baseModel"]) == ("passed", 2, "tiny")
    assert {"kastor", "torch", "peft", "transformers"} == document["versions"].keys()
    assert document["rows"][2]["served"] == pytest.approx(float(golden[2].trained_S.mean()), abs=1e-3)


def test_pieces_and_neighbours_do_not_change_what_an_example_scores(
    base_folder: Path, adapters_root: Path, renderer: Renderer, golden: list[GoldenExample]
) -> None:
    assert len(golden[2].rendered.token_ids) > CHUNK_TOKENS > sum(len(g.rendered.token_ids) for g in golden[:2])
    served = ServedAdapter.open(load_base(base_folder, dtype=torch.float32), renderer, adapters_root / "a")
    for row, scored in zip(golden, served.logprobs([row.rendered for row in golden]), strict=True):
        torch.testing.assert_close(scored, row.trained_S, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed_config(lora_alpha=16), "in their numbers or their scale"),
        (changed_config(use_rslora=True), "in their numbers or their scale"),
        (
            changed_tensors(lambda t: t[Q0.format("A")].mul_(1.001)),
            "matrices of model.layers.0.self_attn.q_proj differ",
        ),
        (
            changed_tensors(lambda t: [t.pop(Q0.format(side)) for side in "AB"]),
            "2 tensors differ between those stored and those that were trained",
        ),
        (changed_tensors(lambda t: t[Q0.format("A")].fill_(torch.nan)), "holds numbers that are not finite"),
        (changed_tensors(lambda t: t.pop(Q0.format("A"))), "have shapes"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no adapter"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    ],
)
def test_whatever_happened_to_the_files_is_caught(
    prove: Callable[..., Certificate], harm: Callable[[Path], object], said: str
) -> None:
    with pytest.raises(KastorError, match=said):
        prove(harm)


@pytest.mark.parametrize("change", [0.005, torch.nan])
def test_an_engine_that_computes_otherwise_is_caught(
    prove: Callable[..., Certificate], golden: list[GoldenExample], change: float
) -> None:
    """The trainer's numbers are moved instead of the engine's: what counts is how far they are apart."""
    moved = golden[1].trained_S.clone()
    moved[1] += change
    rows = [golden[0], replace(golden[1], trained_S=moved), golden[2]]
    with pytest.raises(Internal, match=r"log-probabilities differ by up to .* \(in example 1\)"):
        prove(rows=rows)


def test_many_small_differences_are_caught_as_well(
    prove: Callable[..., Certificate], golden: list[GoldenExample]
) -> None:
    rows = [replace(row, trained_S=row.trained_S + 0.0005) for row in golden]
    with pytest.raises(Internal, match=r"by 0.0005 on average; 0.002 and 0.0002 are tolerated"):
        prove(rows=rows)


def test_a_request_to_end_is_heeded_between_the_parts(
    base_folder: Path, adapters_root: Path, renderer: Renderer, golden: list[GoldenExample]
) -> None:
    class Cancelled(BaseException):
        pass

    def heed() -> None:
        raise Cancelled

    served = ServedAdapter.open(load_base(base_folder, dtype=torch.float32), renderer, adapters_root / "a")
    with pytest.raises(Cancelled):
        certify(served, golden, served.adapter.deltas, adapters_root / "a", base_model="tiny", check_cancelled=heed)


def test_golden_rows_are_spread_over_the_lengths_and_repeatable() -> None:
    lengths = [5 * (index % 40 + 1) for index in range(400)]
    chosen = golden_rows(lengths, seed=3)
    assert chosen == golden_rows(lengths, seed=3) != golden_rows(lengths, seed=4)
    assert [(lengths[index] - 5) // 25 for index in chosen] == list(range(8))
    assert golden_rows([5, 6], seed=0) == [0, 1]


def test_golden_rows_too_long_together_leave_out_the_longest() -> None:
    assert len(golden_rows([500] * 20, seed=1)) == 2
    assert len(golden_rows([7000] * 20, seed=1)) == 1


def test_the_tolerance_is_in_the_certificate(prove: Callable[..., Certificate]) -> None:
    proof = prove()
    assert isinstance(proof.tolerance, Tolerance)
    assert proof.mean_difference <= proof.tolerance.mean and proof.largest_difference <= proof.tolerance.largest

"""Each text family on its own architecture, tiny and random: packed as padded, overfit, served as trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kastor.domain.content import Content, Example, FunctionCall, FunctionResponse, Role, Text
from kastor.domain.job import AdapterShape, Hyperparameters, TuningSpec
from kastor.models.chat.families import Family
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import load_base, stop_token_ids
from kastor.serving.builtin.parity import ServedAdapter, certify
from kastor.serving.score_comparison import EXACT
from kastor.training.loop import StepReport, Trainer, train
from kastor.training.lora import add_lora, remove_lora
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import pack
from kastor.worker.certify import golden_examples, golden_rows_in_fp32, lora_deltas
from support.family_bases import TEXT_FAMILIES, family_base

TOOLS = '[{"functionDeclarations":[{"name":"next","parameters":{"type":"OBJECT","properties":{}}}]}]'


def conversation(number: int) -> Example:
    """Two answers, the first of them a call."""
    return Example(
        (
            Content(Role.USER, (Text(str(number)),)),
            Content(Role.MODEL, (FunctionCall("next", f'{{"n":{number}}}'),)),
            Content(Role.USER, (FunctionResponse("next", f'{{"n":{number + 1}}}'),)),
            Content(Role.MODEL, (Text(f"It is {number + 1}."),)),
        ),
        (Text("Count."),),
    )


EXAMPLES = [conversation(7), Example.pair("one", "two"), conversation(30)]
SHORT = [
    Example(tuple(Content((Role.USER, Role.MODEL)[index % 2], (Text(text),)) for index, text in enumerate("abcd"))),
    Example.pair("one", "two"),
]


@pytest.fixture(scope="module", params=TEXT_FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(family, tmp_path_factory.mktemp(family.name))


@pytest.fixture(scope="module")
def rows(family: Family, folder: Path) -> list[RenderedExample]:
    renderer = Renderer.open(folder, family)
    return [renderer.example(example) for example in EXAMPLES]


def shape(family: Family) -> AdapterShape:
    return AdapterShape(16, 32.0, family.lora_targets)


def attached(folder: Path, family: Family) -> Any:
    model = add_lora(load_base(folder, dtype=torch.float32), shape(family), seed=1)
    with torch.no_grad():  # B starts at zero, which would hide the gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    return model


def padded_sum_loss(model: Any, rows: list[RenderedExample]) -> torch.Tensor:
    """The textbook way, by the stock forward: rows padded to the longest, labels of -100 where nothing is learnt."""
    longest = max(len(row.token_ids) for row in rows)
    ids, mask, labels = (torch.full((len(rows), longest), fill) for fill in (0, 0, -100))
    for place, row in enumerate(rows):
        length = len(row.token_ids)
        ids[place, :length] = torch.tensor(row.token_ids)
        mask[place, :length] = 1
        labels[place, :length] = torch.where(torch.tensor(row.supervised), ids[place, :length], -100)
    model.config._attn_implementation = "sdpa"
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def test_packed_gradients_equal_the_padded_ones(family: Family, folder: Path, rows: list[RenderedExample]) -> None:
    model = attached(folder, family)
    padded = padded_sum_loss(model, rows)
    padded.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    use_packed_attention(model)
    loss = sum_loss(model, pack(rows))
    loss.backward()
    torch.testing.assert_close(loss, padded, rtol=1e-5, atol=1e-4)
    assert len(expected) == 2 * 2 * len(family.lora_targets)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        found = model.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_it_overfits_in_twenty_steps_and_is_served_as_it_was_trained(
    family: Family, folder: Path, rows: list[RenderedExample], tmp_path: Path
) -> None:
    model, renderer = (
        add_lora(load_base(folder, dtype=torch.float32), shape(family), seed=1),
        Renderer.open(folder, family),
    )
    short = [renderer.example(example) for example in SHORT]
    spec = TuningSpec("tiny", Hyperparameters(20, len(short), 0.01), shape(family), len(short), seed=3)
    reports: list[StepReport] = []
    train(Trainer(model, short, spec), on_step=lambda report: reports.append(report) is None, save=lambda *_: None)
    assert len(reports) == 20
    assert reports[-1].mean_loss < 0.2 * reports[0].mean_loss
    model.save_pretrained(tmp_path / "adapter")
    golden, _ = golden_rows_in_fp32(model, golden_examples(rows, seed=0))
    deltas = lora_deltas(model)
    served = ServedAdapter.open(remove_lora(model), renderer, tmp_path / "adapter")
    proof = certify(served, golden, deltas, tmp_path / "adapter", base_model="tiny")
    assert proof.tolerance == EXACT
    assert proof.num_tokens == sum(row.num_supervised for row in rows)
    assert proof.effect > 0.1
    assert renderer.closing_id in stop_token_ids(served.model, renderer.closing_id)

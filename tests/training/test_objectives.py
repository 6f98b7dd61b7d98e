"""Objectives: what the loop asks of them, shown by preference tuning, and their evaluation on held-out examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from kastor.domain.errors import FailedPrecondition
from kastor.models.chat.render import RenderedExample
from kastor.training.checkpoints import CheckpointWriter
from kastor.training.held_out import Evaluation, HeldOut
from kastor.training.loop import StepReport, Trainer, train
from kastor.training.lora import add_lora
from kastor.training.loss import HEAD_CHUNK, RowOutputs, row_outputs, use_packed_attention
from kastor.training.objectives.objective import RowLoss
from kastor.training.packing import pack
from support.tiny_models import tiny_model
from support.training_examples import SHAPE, examples, spec, tuned_model

BETA = 0.1


@dataclass(frozen=True)
class Preference:
    chosen: RenderedExample
    rejected: RenderedExample
    reference_margin: float  # of log-probabilities, by the base


class DirectPreference:
    """DPO (Rafailov 2023) with the reference's log-probabilities computed beforehand."""

    def sequences(self, example: Preference) -> Sequence[RenderedExample]:
        return (example.chosen, example.rejected)

    def denominator(self, examples: Sequence[Preference]) -> int:
        return len(examples)

    def row_loss(self, outputs: RowOutputs, examples: Sequence[Preference]) -> RowLoss:
        chosen, rejected = outputs.sequence_logprobs().view(-1, 2).unbind(1)
        margins = chosen - rejected - torch.tensor([example.reference_margin for example in examples])
        return RowLoss(-F.logsigmoid(BETA * margins).sum(), {"accuracy": float((margins > 0).sum())})


def preferences() -> list[Preference]:
    chosen, rejected = examples((7, 12, 3, 20)), examples((9, 5, 11, 6), seed=1)
    return [Preference(*pair, 0.5 * index) for index, pair in enumerate(zip(chosen, rejected, strict=True))]


@pytest.mark.parametrize("row_tokens", [4096, 30, 1])
def test_a_loss_that_compares_two_sequences_is_that_of_the_pairs_by_themselves(row_tokens: int) -> None:
    expected = []
    model = tuned_model()
    use_packed_attention(model)
    for pair in preferences():
        one, other = (-row_outputs(model, pack([s])).cross_entropy() for s in (pair.chosen, pair.rejected))
        expected.append(-F.logsigmoid(BETA * (one - other - pair.reference_margin)).item())
    trainer = Trainer(
        tuned_model(), preferences(), spec(4, batch_size=4), objective=DirectPreference(), row_tokens=row_tokens
    )
    report = trainer.run_step()
    assert report.mean_loss == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert report.metrics["accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert report.num_tokens == 7 + 12 + 3 + 20 + 9 + 5 + 11 + 6
    assert report.grad_norm > 0


def test_preference_tuning_learns_to_tell_the_chosen_from_the_rejected() -> None:
    given = spec(4, batch_size=4, num_epochs=30, learning_rate=0.05)
    trainer = Trainer(add_lora(tiny_model(), SHAPE, seed=1), preferences(), given, objective=DirectPreference())
    reports: list[StepReport] = []
    assert train(trainer, on_step=lambda report: reports.append(report) is None, save=lambda *_: None)
    assert reports[-1].mean_loss < 0.5 * reports[0].mean_loss
    assert reports[-1].metrics == {"accuracy": 1.0}


def test_a_pair_of_which_one_sequence_is_empty_is_skipped() -> None:
    pairs = preferences()
    pairs[2] = replace(pairs[2], rejected=RenderedExample([], []))
    report = Trainer(tuned_model(), pairs, spec(4, batch_size=4), objective=DirectPreference()).run_step()
    assert report.num_tokens == 7 + 12 + 20 + 9 + 5 + 6


def test_logprobs_of_a_row_and_of_its_sequences_sum_to_its_loss() -> None:
    model = tuned_model()
    use_packed_attention(model)
    outputs = row_outputs(model, pack(examples()))
    assert outputs.logprobs().sum().item() == pytest.approx(-outputs.cross_entropy().item(), rel=1e-6)
    alone = [-row_outputs(model, pack([one])).cross_entropy().item() for one in examples()]
    assert outputs.sequence_logprobs().tolist() == pytest.approx(alone, rel=1e-5)


def test_gradients_flow_through_logprobs_of_more_targets_than_are_computed_at_once() -> None:
    model = tuned_model()
    use_packed_attention(model)
    long = pack(examples((3 * HEAD_CHUNK + 60,)))  # a third of it is supervised
    assert len(long.targets_S) > HEAD_CHUNK
    weights = [p for name, p in model.named_parameters() if "lora_A" in name]
    of_loss = torch.autograd.grad(row_outputs(model, long).cross_entropy(), weights)
    of_logprobs = torch.autograd.grad(-row_outputs(model, long).logprobs().sum(), weights)
    for one, other in zip(of_loss, of_logprobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_held_out_examples_are_evaluated_at_the_given_steps_by_the_adapter_of_that_step() -> None:
    held_out = examples((9, 4, 15), seed=5)
    model = tuned_model()
    trainer = Trainer(model, examples(), spec(5), held_out=HeldOut(held_out, at_steps=(2, 3)))
    found: dict[int, Evaluation | None] = {}
    for step in range(1, 5):
        found[step] = trainer.run_step().evaluation
        if evaluation := found[step]:
            with torch.no_grad():
                total = sum(row_outputs(model, pack([one])).cross_entropy().item() for one in held_out)
            assert evaluation.mean_loss == pytest.approx(total / sum(one.num_supervised for one in held_out), rel=1e-5)
            assert evaluation.num_examples == 3
    assert [step for step, evaluation in found.items() if evaluation] == [2, 3]


def test_evaluation_changes_no_bit_of_what_is_trained(tmp_path: Path) -> None:
    folders = []
    for name, held_out in (("without", None), ("with", HeldOut(examples((9, 4), seed=5), at_steps=range(1, 9)))):
        model = add_lora(tiny_model(), SHAPE, seed=1)
        trainer = Trainer(model, examples(), spec(5), held_out=held_out)
        train(trainer, on_step=lambda _: True, save=lambda *_: None)
        checkpoints = CheckpointWriter(tmp_path / name)
        folders.append(checkpoints.save(model, trainer.state(), step=8, ends_epoch=True, about={}).folder)
    for name in ("adapter_model.safetensors", "training_state.safetensors"):
        one, other = (load_file(folder / name) for folder in folders)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_evaluation_leaves_no_gradients_and_skips_examples_with_no_tokens() -> None:
    model = tuned_model()
    trainer = Trainer(model, examples(), spec(5))
    evaluation = trainer.evaluate([*examples((9,), seed=5), RenderedExample([], [])])
    assert evaluation.num_examples == 1
    assert trainer.step == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_evaluation_without_any_supervised_token_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="held-out"):
        Trainer(tuned_model(), examples(), spec(5)).evaluate([RenderedExample([1, 2], [False, False])])

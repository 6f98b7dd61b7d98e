"""What the loop computes: the true token loss, padded and packed alike; resumed and uninterrupted alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import Hyperparameters
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.models.chat.render import RenderedExample
from kastor.training import loss
from kastor.training.checkpoints import CheckpointWriter, restore
from kastor.training.loop import StepReport, Trainer, train
from kastor.training.lora import add_lora
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import epoch_order, pack
from support.tiny_models import tiny_model
from support.training_examples import SHAPE, examples, spec, tuned_model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def padded_sum_loss(model: Any, chosen: list[RenderedExample]) -> torch.Tensor:
    """The textbook way: rows padded to the longest, a mask, logits everywhere, labels of -100."""
    longest = max(len(example.token_ids) for example in chosen)
    ids, mask, labels = (torch.full((len(chosen), longest), fill) for fill in (0, 0, -100))
    for row, example in enumerate(chosen):
        length = len(example.token_ids)
        ids[row, :length] = torch.tensor(example.token_ids)
        mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.tensor(example.supervised), ids[row, :length], -100)
    model.config._attn_implementation = "sdpa"
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def test_packed_loss_and_gradients_equal_the_padded_ones_to_rounding() -> None:
    model, chosen = tuned_model(), examples()
    padded = padded_sum_loss(model, chosen)
    padded.backward()
    expected = gradients(model)
    model.zero_grad()
    use_packed_attention(model)
    loss = sum_loss(model, pack(chosen))
    loss.backward()
    torch.testing.assert_close(loss, padded, rtol=1e-5, atol=1e-5)
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 * len(LLAMA_LINEARS)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_neighbour_in_the_row_changes_nothing() -> None:
    model = tuned_model()
    use_packed_attention(model)
    a, b, c = examples((9, 4, 11))
    alone = [sum_loss(model, pack([example])).item() for example in (a, b, c)]
    assert sum_loss(model, pack([c, a, b])).item() == pytest.approx(sum(alone), rel=1e-5)


def test_chunked_logits_change_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, row = tuned_model(), pack(examples())
    use_packed_attention(model)
    sum_loss(model, row).backward()
    whole = gradients(model)
    model.zero_grad()
    monkeypatch.setattr(loss, "HEAD_CHUNK", 3)
    sum_loss(model, row).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_step_is_per_supervised_token_however_it_is_cut_into_rows() -> None:
    reports = []
    for budget in (4096, 1):
        model = tuned_model()
        reports.append((Trainer(model, examples(), spec(5, batch_size=5), row_tokens=budget).run_step(), model))
    (whole, one), (cut, other) = reports
    assert cut.mean_loss == pytest.approx(whole.mean_loss, rel=1e-5)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert whole.num_tokens == 47
    assert whole.num_supervised == sum(example.num_supervised for example in examples())
    for (_, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_only_the_adapter_is_trained() -> None:
    model = tuned_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    Trainer(model, examples(), spec(5)).run_step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is ("lora_" not in name), name


def test_twenty_steps_overfit_a_few_examples() -> None:
    model = add_lora(tiny_model(), SHAPE, seed=1)
    trainer = Trainer(model, examples((6, 8)), spec(2, num_epochs=20, learning_rate=0.05))
    reports: list[StepReport] = []
    assert train(trainer, on_step=lambda report: reports.append(report) is None, save=lambda *_: None)
    assert len(reports) == 20
    assert reports[-1].mean_loss < 0.2 * reports[0].mean_loss


def run(folder: Path, *, stop_after: int | None = None) -> tuple[list[float], Path]:
    """Train in `folder` from whatever checkpoint is there; losses of the steps done and the last checkpoint."""
    model = add_lora(tiny_model(), SHAPE, seed=1)
    trainer, checkpoints = Trainer(model, examples(), spec(5)), CheckpointWriter(folder)
    latest = checkpoints.latest()
    if latest:
        trainer.restore(restore(latest, model))
    losses: list[float] = []

    def on_step(report: StepReport) -> bool:
        losses.append(report.mean_loss)
        return report.step != stop_after

    def save(step: int, ends_epoch: bool) -> None:
        checkpoints.save(model, trainer.state(), step=step, ends_epoch=ends_epoch, about={"job": "j"})

    train(trainer, on_step=on_step, save=save)
    last = checkpoints.latest()
    assert last is not None
    return losses, last.folder


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_stopped_anywhere_and_resumed_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    through, whole = run(tmp_path / "through")
    before, _ = run(tmp_path / "stopped", stop_after=stop_after)
    after, resumed = run(tmp_path / "stopped")
    assert before + after == through
    assert len(through) == 8
    for name in ("adapter_model.safetensors", "training_state.safetensors"):
        one, other = load_file(whole / name), load_file(resumed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_the_end_of_every_epoch_is_told() -> None:
    trainer = Trainer(add_lora(tiny_model(), SHAPE, seed=1), examples(), spec(5))
    ends: list[int] = []
    saved: list[tuple[int, bool]] = []
    train(
        trainer,
        on_step=lambda r: ends.append(r.step) is None if r.ends_epoch else True,
        save=lambda *a: saved.append(a),
    )
    assert ends == [3, 5, 8]  # examples 5, 10 and 15 of the stream, two a step
    assert saved == [(3, True), (5, True), (8, True)]


def test_between_epochs_a_checkpoint_is_taken_by_the_clock() -> None:
    trainer = Trainer(add_lora(tiny_model(), SHAPE, seed=1), examples(), spec(5))
    saved: list[tuple[int, bool]] = []
    train(trainer, on_step=lambda _: True, save=lambda *a: saved.append(a), save_every_s=0)
    assert [step for step, _ in saved] == list(range(1, 9))
    assert [ends for _, ends in saved] == [False, False, True, False, True, False, False, True]


def test_divergence_is_an_error_that_names_the_rate_and_leaves_the_adapter_whole() -> None:
    model = tuned_model()
    trainer = Trainer(model, examples(), spec(5))
    with torch.no_grad():
        broken = dict(model.named_parameters())["base_model.model.model.norm.weight"]
        broken.fill_(float("nan"))
    before = {name: p.clone() for name, p in model.named_parameters() if "lora_" in name}
    with pytest.raises(FailedPrecondition, match=r"learning rate below 0\.01"):
        trainer.run_step()
    assert trainer.step == 0
    for name, value in before.items():
        assert torch.equal(dict(model.named_parameters())[name], value)


def test_a_dataset_of_another_size_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="created for 6 examples, but its dataset has 5"):
        Trainer(tuned_model(), examples(), replace(spec(5), num_examples=6))


def test_a_step_is_made_of_the_examples_that_are_left_and_counts_even_without_any() -> None:
    chosen = examples((7, 12, 3, 20))
    given, order = spec(4, num_epochs=1), [int(index) for index in epoch_order(3, 0, 4)]
    kept = chosen[order[0]]
    model, other = tuned_model(), tuned_model()
    gone = RenderedExample([], [])
    left = [kept if index == order[0] else gone for index in range(4)]
    trainer = Trainer(model, left, given)
    first = trainer.run_step()
    alone = Trainer(other, [kept], replace(given, num_examples=1, hyperparameters=Hyperparameters(2, 1, 0.01)))
    assert first.mean_loss == alone.run_step().mean_loss
    assert first.num_supervised == kept.num_supervised
    before = {name: p.clone() for name, p in model.named_parameters()}
    second = trainer.run_step()
    assert (second.num_tokens, second.num_supervised, second.mean_loss, second.grad_norm) == (0, 0, 0.0, 0.0)
    assert trainer.done
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())

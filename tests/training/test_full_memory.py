"""Memory that runs out in a step: shorter rows, the same step; and one sentence where that cannot help."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kastor.domain.errors import ResourceExhausted
from kastor.domain.job import MAX_ROW_TOKENS
from kastor.training.checkpoints import CheckpointWriter, restore
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora
from support.tiny_models import tiny_model
from support.training_examples import SHAPE, examples, spec, tuned_model, wide_model

LENGTHS = (20, 11, 11)  # in rows of 22 tokens the second row is the longest


def narrow(model: Any, most: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Let the model's memory be full in the backward pass of rows of more than `most` tokens; what was asked of it."""
    asked: list[int] = []

    def refuse(_: torch.Tensor) -> None:
        raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def watch(_: object, __: object, given: dict[str, Any], made: Any) -> None:
        asked.append(given["position_ids"].shape[1])
        if asked[-1] > most:
            made.last_hidden_state.register_hook(refuse)

    model.get_decoder().register_forward_hook(watch, with_kwargs=True)
    return asked


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_step_that_memory_does_not_hold_is_done_again_in_shorter_rows(error: type[Exception]) -> None:
    whole, halved, told = tuned_model(), tuned_model(), list[str]()
    expected = Trainer(whole, examples(LENGTHS), spec(3, batch_size=3)).run_step()
    asked = narrow(halved, 21, error)
    trainer = Trainer(halved, examples(LENGTHS), spec(3, batch_size=3), row_tokens=22, on_event=told.append)
    report = trainer.run_step()
    assert asked == [20, 22, 20, 11, 11]
    assert trainer.row_tokens == 11
    assert told == [
        "memory ran out in step 1 on a row of 22 tokens: from here on rows have at most 11; batch size and results "
        "stay the same"
    ]
    assert report.mean_loss == pytest.approx(expected.mean_loss, rel=1e-5)
    assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert (report.num_tokens, report.num_supervised) == (expected.num_tokens, expected.num_supervised)
    for (name, p), (_, q) in zip(whole.named_parameters(), halved.named_parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_later_steps_begin_with_the_shorter_rows() -> None:
    model, told = tuned_model(), list[str]()
    asked = narrow(model, 16)
    trainer = Trainer(model, examples((4,) * 8), spec(8, batch_size=8), on_event=told.append)
    trainer.run_step()
    trainer.run_step()
    assert asked == [32, 16, 16, 16, 16]
    assert len(told) == 1


def test_an_example_that_memory_does_not_hold_by_itself_is_named_and_nothing_is_learnt_from_the_step() -> None:
    model = tuned_model()
    narrow(model, 15)
    trainer = Trainer(model, examples((9, 16, 5)), spec(3, batch_size=3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ResourceExhausted, match="step 1 on an example of 16 tokens, alone in its row"):
        trainer.run_step()
    assert trainer.step == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_another_error_is_not_taken_for_a_full_memory() -> None:
    model, told = tuned_model(), list[str]()

    def fail(_: object, __: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.get_decoder().register_forward_pre_hook(fail)
    trainer = Trainer(model, examples(), spec(5), on_event=told.append)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run_step()
    assert trainer.row_tokens == MAX_ROW_TOKENS
    assert told == []


def test_a_resumed_job_goes_on_with_the_shorter_rows_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    def run(folder: Path, until: int, most: int) -> tuple[list[int], Path]:
        model = add_lora(tiny_model(), SHAPE, seed=1)
        asked = narrow(model, most)
        trainer, checkpoints = Trainer(model, examples(), spec(5, batch_size=5)), CheckpointWriter(folder)
        latest = checkpoints.latest()
        if latest:
            trainer.restore(restore(latest, model))
        while trainer.step < until:
            trainer.run_step()
        return asked, checkpoints.save(model, trainer.state(), step=until, ends_epoch=False, about={}).folder

    _, whole = run(tmp_path / "through", 3, most=30)
    run(tmp_path / "stopped", 1, most=30)
    asked, resumed = run(tmp_path / "stopped", 3, most=1000)  # its memory is wide again, its rows stay
    assert max(asked) <= 23
    for name in ("adapter_model.safetensors", "training_state.safetensors"):
        one, other = load_file(whole / name), load_file(resumed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_a_state_from_before_rows_could_shrink_is_taken_up() -> None:
    trainer = Trainer(tuned_model(), examples(), spec(5))
    trainer.run_step()
    state = trainer.state()
    del state["row_tokens"]
    trainer.restore(state)
    assert trainer.row_tokens == MAX_ROW_TOKENS


LIMITED = """\
    # forked, with torch imported
    import resource, sys
    import torch
    from kastor.domain.errors import ResourceExhausted
    from kastor.training.loop import Trainer
    from support.training_examples import examples, spec, wide_model

    torch.set_num_threads(1)
    lengths = (int(sys.argv[1]),) * int(sys.argv[2])
    Trainer(wide_model(), examples((64,)), spec(1)).run_step()  # whatever is loaded or started at a first step is there
    told = []
    asked = spec(len(lengths), batch_size=len(lengths))
    trainer = Trainer(wide_model(), examples(lengths), asked, on_event=told.append)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
    try:
        report = trainer.run_step()
        print(report.mean_loss, report.grad_norm, trainer.row_tokens, len(told))
    except ResourceExhausted as error:
        print(error.message)
"""


def limited(length: int, number: int) -> str:
    """A step on so many examples of this length, in a process that may take 100 MB more than the model has."""
    code, folder = textwrap.dedent(LIMITED), Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(length), str(number)], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are kept by Linux alone")
def test_allocations_that_the_system_refuses_shorten_the_rows() -> None:
    loss, grad_norm, row_tokens, num_told = map(float, limited(256, 16).split())
    whole = Trainer(wide_model(), examples((256,) * 16), spec(16, batch_size=16)).run_step()  # takes 350 MB
    assert 256 <= row_tokens <= 2048
    assert num_told >= 1
    assert loss == pytest.approx(whole.mean_loss, rel=1e-5)
    assert grad_norm == pytest.approx(whole.grad_norm, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are kept by Linux alone")
def test_an_example_for_which_the_system_has_no_memory_is_named() -> None:
    assert "on an example of 4,096 tokens, alone in its row" in limited(4096, 1)

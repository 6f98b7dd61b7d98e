"""A vision tower that is trained with its job: gradients reach it, it is slower, resumed to the same bits, and kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kastor.domain.content import Media
from kastor.domain.job import Hyperparameters, TuningSpec
from kastor.domain.vision import Grid
from kastor.models.chat.render import PictureSpan, RenderedExample
from kastor.models.vision.efficientnet import EfficientNetLite
from kastor.models.vision.encoder import load_efficientnet
from kastor.models.vision.projector import ChannelStats, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.training.checkpoints import CheckpointWriter, load_projector, restore
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import pack
from kastor.training.vision_inputs import TOWER, TOWER_RATE_FACTOR, VisionInputs, encode_picture
from support.tiny_models import tiny_model, tiny_tower
from support.training_examples import SHAPE, tuned_model

SIDE, TOKENS = 64, 4
RANDOM = np.random.default_rng(0)
PIXELS = {key: RANDOM.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8) for key in ("a", "b")}
CPU = torch.device("cpu")


def read(key: str, index: int) -> Any:
    return PIXELS[key][index]


def example(key: str, index: int, answer: int) -> RenderedExample:
    """One picture, one word of question, one of answer."""
    picture = PictureSpan(Media("image/png", key), index, 1, TOKENS, key)
    ids = [5, *[0] * TOKENS, 7, answer, 2]
    return RenderedExample(ids, [False] * (TOKENS + 2) + [True, True], (picture,))


EXAMPLES = [example("a", 0, 11), example("a", 1, 12), example("b", 0, 13), example("b", 1, 14)]


def tower() -> EfficientNetLite:
    return EfficientNetLite(tiny_tower()).requires_grad_(True)


def projector() -> Projector:
    with torch.no_grad():
        seen = [encode_picture(tower(), PIXELS[key][0], CPU).half().numpy() for key in PIXELS]
    return Projector.fresh(ChannelStats.of(seen), 64, scale=0.1, seed=1)


def sight(held: EfficientNetLite | None = None, with_projector: Projector | None = None) -> VisionInputs:
    return VisionInputs(with_projector or projector(), read, tower=held or tower())


def spec(num_epochs: int = 10, rate: float = 0.01) -> TuningSpec:
    return TuningSpec("tiny", Hyperparameters(num_epochs, 2, rate), SHAPE, len(EXAMPLES), seed=3, train_tower=True)


def test_gradients_through_a_picture_are_those_of_the_plain_pass() -> None:
    model, seen = tuned_model(), sight()
    use_packed_attention(model)
    sum_loss(model, pack(EXAMPLES), seen).backward()
    found = {name: p.grad.clone() for name, p in seen.parameters.items() if p.grad is not None}
    assert sum(name.startswith(TOWER) for name in found) == len(tiny_tower())
    for parameter in seen.parameters.values():
        parameter.grad = None
    plain = seen.tower
    assert plain is not None and seen.projector is not None
    pictures = torch.from_numpy(np.stack([read(*pair) for pair in (("a", 0), ("a", 1), ("b", 0), ("b", 1))]))
    made = seen.projector(plain(pictures).flatten(0, 1), [TOKENS] * len(pictures)).split(TOKENS)
    table = model.get_input_embeddings()
    row = pack(EXAMPLES)
    places = [torch.arange(p.start, p.start + TOKENS) for p in row.pictures]
    embeddings = table(torch.from_numpy(row.token_ids_T)).index_copy(0, torch.cat(places), torch.cat(made))
    hidden = model.get_decoder()(
        inputs_embeds=embeddings[None],
        position_ids=torch.from_numpy(row.positions_T)[None],
        example_lengths=row.lengths,
        use_cache=False,
    ).last_hidden_state[0, row.predicting_S]
    logits = model.get_output_embeddings()(hidden)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets_S), reduction="sum").backward()
    for name, parameter in seen.parameters.items():
        assert parameter.grad is not None
        assert found[name].abs().max() > 0, name
        torch.testing.assert_close(
            found[name], parameter.grad, rtol=0.02, atol=0.02 * float(parameter.grad.abs().max())
        )


def test_the_tower_moves_at_its_own_rate_and_the_loss_falls() -> None:
    model, seen = add_lora(tiny_model(), SHAPE, seed=1), sight()
    before = {name: p.detach().clone() for name, p in seen.parameters.items()}
    trainer = Trainer(model, EXAMPLES, spec(15), seen)
    first = trainer.run_step()
    for name, parameter in seen.parameters.items():
        if name.startswith(TOWER):  # Adam's first step is the rate itself, wherever there is a gradient
            moved = (parameter.detach() - before[name]).abs().max().item()
            assert moved == pytest.approx(TOWER_RATE_FACTOR * first.learning_rate, rel=0.05), name
    while not trainer.done:
        last = trainer.run_step()
    assert last.mean_loss < 0.5 * first.mean_loss


def test_what_training_makes_of_a_picture_is_what_the_stored_tower_makes_of_it(tmp_path: Path) -> None:
    held = tower()
    with torch.no_grad():
        for parameter in held.parameters():
            parameter.mul_(1.01)
    held.save(tmp_path)
    stored = load_efficientnet(tmp_path, num_threads=1)
    grid = Grid(SIDE, SIDE, SIDE // 32, SIDE // 32)
    for pixels in PIXELS["a"]:
        trained = encode_picture(held, pixels, CPU).detach().numpy()
        served = stored(pixels[None], grid)[0].astype(np.float16)
        np.testing.assert_allclose(trained, served, rtol=2e-3, atol=1e-3)
        assert (trained == trained.astype(np.float16)).all()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopped_and_resumed_the_tower_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    def run(folder: Path, until: int) -> tuple[list[float], Path]:
        checkpoints, model = CheckpointWriter(folder), add_lora(tiny_model(), SHAPE, seed=1)
        latest = checkpoints.latest()
        if latest is None:
            seen = sight()
        else:
            held = EfficientNetLite.open(latest.folder / TOWER_FILE).requires_grad_(True)
            seen = sight(held, load_projector(latest.folder))
        trainer = Trainer(model, EXAMPLES, spec(3), seen)
        if latest is not None:
            trainer.restore(restore(latest, model))
        losses = []
        while trainer.step < until:
            losses.append(trainer.run_step().mean_loss)
        about = {"vision": {"tower": "what it started from", "preprocessing": 2}}
        given: dict[str, Any] = {"projector": seen.projector, "tower": seen.tower}
        saved = checkpoints.save(model, trainer.state(), step=until, ends_epoch=True, about=about, **given)
        manifest = saved.manifest
        assert manifest["vision"] == {"tower": manifest["files"][TOWER_FILE]["sha256"], "preprocessing": 2}
        return losses, saved.folder

    through, whole = run(tmp_path / "through", 6)
    before, _ = run(tmp_path / "stopped", stop_after)
    after, resumed = run(tmp_path / "stopped", 6)
    assert before + after == through
    for name in (TOWER_FILE, "projector.safetensors", "adapter_model.safetensors", "training_state.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name

"""Training with pictures: packed as one by one, from stored features as from the pictures themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from kastor.domain.content import Media
from kastor.domain.errors import Internal
from kastor.domain.job import Hyperparameters, TuningSpec
from kastor.domain.vision import Grid
from kastor.media.cache import MediaCache
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.models.chat.render import PictureSpan, RenderedExample
from kastor.models.vision import specs
from kastor.models.vision.encoder import FeatureStore, VisionEncoder
from kastor.models.vision.projector import ChannelStats, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.training.checkpoints import CheckpointWriter, load_projector, restore
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import pack
from kastor.training.vision_inputs import VisionInputs
from support.tiny_models import tiny_model, tiny_tower
from support.training_examples import SHAPE, tuned_model

MEDIA = Media("image/png", "a.png")
PLACEHOLDER = 0
RANDOM = np.random.default_rng(0)
FEATURES = {"a": RANDOM.standard_normal((2, 6, 12)).astype(np.float16), "b": np.ones((1, 4, 12), np.float16)}


def read(key: str, index: int) -> np.typing.NDArray[np.float16]:
    found: np.typing.NDArray[np.float16] = FEATURES[key][index]
    return found


def example(pictures: list[tuple[str, int]], num_text: int, seed: int) -> RenderedExample:
    """Text, pictures with text after each, and an answer of three tokens."""
    random = np.random.default_rng(seed)
    ids: list[int] = random.integers(3, 250, num_text).tolist()
    placed = []
    for key, index in pictures:
        num_tokens = len(FEATURES[key][index])
        placed.append(PictureSpan(MEDIA, index, len(ids), num_tokens, key))
        ids += [PLACEHOLDER] * num_tokens + random.integers(3, 250, 2).tolist()
    return RenderedExample(ids + [7, 8, 9], [False] * len(ids) + [True] * 3, tuple(placed))


EXAMPLES = [
    example([("a", 1), ("b", 0)], 5, 1),
    example([], 9, 2),
    example([("a", 0)], 2, 3),
    example([("b", 0)], 0, 4),
]


def projector(seed: int = 1) -> Projector:
    return Projector.fresh(ChannelStats.of([FEATURES["a"][0], FEATURES["a"][1]]), 64, scale=0.1, seed=seed)


def gradients(model: Any, sight: VisionInputs) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters()) | sight.parameters
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def textbook_loss(model: Any, sight: VisionInputs, chosen: RenderedExample) -> torch.Tensor:
    """One example by itself: embeddings put together piece by piece, stock attention, logits everywhere."""
    model.config._attn_implementation = "sdpa"
    table = model.get_input_embeddings()
    pieces, at = [], 0
    for picture in chosen.pictures:
        pieces.append(table(torch.tensor(chosen.token_ids[at : picture.start], dtype=torch.long)))
        features = torch.from_numpy(read(picture.key, picture.index))
        pieces.append(sight.projector(features, [len(features)]))
        at = picture.start + picture.num_tokens
    pieces.append(table(torch.tensor(chosen.token_ids[at:])))
    logits = model(inputs_embeds=torch.cat(pieces)[None]).logits[0]
    labels = torch.where(torch.tensor(chosen.supervised), torch.tensor(chosen.token_ids), -100)
    return F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("fused", [False, True])
def test_packed_loss_and_gradients_equal_those_of_one_example_after_the_other(fused: bool) -> None:
    model, sight = tuned_model(), VisionInputs(projector(), read)
    losses = [textbook_loss(model, sight, chosen) for chosen in EXAMPLES]
    torch.stack(losses).sum().backward()
    expected = gradients(model, sight)
    assert len(expected) == 2 * 2 * len(LLAMA_LINEARS) + 4
    model.zero_grad()
    sight.projector.zero_grad()
    use_packed_attention(model)
    if fused:
        Trainer(model, EXAMPLES, spec(), sight)
    loss = sum_loss(model, pack(EXAMPLES), sight)
    loss.backward()
    torch.testing.assert_close(loss, torch.stack(losses).sum(), rtol=1e-5, atol=1e-5)
    found = gradients(model, sight)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_loss_from_stored_features_is_that_of_the_whole_way_from_the_pictures(tmp_path: Path) -> None:
    save_file(tiny_tower(), tmp_path / TOWER_FILE)
    encoder = VisionEncoder.open(tmp_path, specs.NANO, num_threads=1)
    pictures = [RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    cache = MediaCache(tmp_path / "features")
    lease = cache.lease("test")
    store = FeatureStore(cache, lease)
    grids = [Grid(64, 64, 2, 2)] * 2
    store.put("c" * 64, encoder.encode(pictures, grids))
    model = tuned_model()
    use_packed_attention(model)
    chosen = RenderedExample(
        [5, *[PLACEHOLDER] * 4, 6, *[PLACEHOLDER] * 4, 7, 8],
        [False] * 11 + [True],
        (PictureSpan(MEDIA, 0, 1, 4, "c" * 64), PictureSpan(MEDIA, 1, 6, 4, "c" * 64)),
    )
    whole_way: Callable[[str, int], Any] = lambda key, index: encoder.encode([pictures[index]], grids[:1])[0]  # noqa: E731
    stored = sum_loss(model, pack([chosen]), VisionInputs(projector(), store.read))
    assert torch.equal(stored, sum_loss(model, pack([chosen]), VisionInputs(projector(), whole_way)))
    other = sum_loss(model, pack([chosen]), VisionInputs(projector(), lambda key, index: store.read(key, 1 - index)))
    assert abs(stored.item() - other.item()) > 1e-4  # which picture stands where is not all the same
    lease.close()


def test_pictures_without_anything_that_shows_them_are_an_error() -> None:
    model = tuned_model()
    use_packed_attention(model)
    with pytest.raises(Internal, match="2 pictures"):
        sum_loss(model, pack(EXAMPLES[:1]))


def spec(num_epochs: int = 20) -> TuningSpec:
    return TuningSpec("tiny", Hyperparameters(num_epochs, 4, 0.01), SHAPE, len(EXAMPLES), seed=3)


def test_the_projector_is_trained_at_twice_the_rate_and_only_it_and_the_adapter() -> None:
    model, sight = tuned_model(), VisionInputs(projector(), read)
    before = {name: p.clone() for name, p in (dict(model.named_parameters()) | sight.parameters).items()}
    report = Trainer(model, EXAMPLES, spec(), sight).run_step()
    for name, parameter in (dict(model.named_parameters()) | sight.parameters).items():
        trained = "lora_" in name or name in sight.parameters
        assert torch.equal(parameter, before[name]) is not trained, name
    largest = {name: (p - before[name]).abs().max().item() for name, p in sight.parameters.items()}
    for name, moved in largest.items():  # Adam's first step is the rate itself
        assert moved == pytest.approx(2 * report.learning_rate, rel=0.01), name


def test_what_the_alignment_without_a_medium_tells_is_added_in_training_and_not_in_serving() -> None:
    chosen, beyond = EXAMPLES[0].pictures, torch.arange(64.0)
    plain = VisionInputs(projector(), read)
    sight = replace(plain, corrections={"a": beyond})
    first, second = (sight.embed(chosen, torch.device("cpu")) - plain.embed(chosen, torch.device("cpu"))).split(
        [picture.num_tokens for picture in chosen]
    )
    torch.testing.assert_close(first, beyond.expand_as(first))
    assert not second.any()
    assert torch.equal(
        sight.without_corrections().embed(chosen, torch.device("cpu")), plain.embed(chosen, torch.device("cpu"))
    )


@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopped_and_resumed_the_projector_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    chosen = TuningSpec("tiny", Hyperparameters(2, 1, 0.01), SHAPE, len(EXAMPLES), seed=3)

    def run(folder: Path, until: int) -> tuple[list[float], Projector]:
        checkpoints, model = CheckpointWriter(folder), add_lora(tiny_model(), SHAPE, seed=1)
        latest = checkpoints.latest()
        held = None if latest is None else load_projector(latest.folder)
        corrections = {"a": torch.full((64,), 0.1)} if latest is None else {}
        sight = VisionInputs(held or projector(), read, corrections=corrections)
        trainer = Trainer(model, EXAMPLES, chosen, sight)
        if latest is not None:
            trainer.restore(restore(latest, model))
        losses = []
        while trainer.step < until:
            losses.append(trainer.run_step().mean_loss)
        checkpoints.save(model, trainer.state(), step=until, ends_epoch=False, about={}, projector=sight.projector)
        return losses, sight.projector

    through, one = run(tmp_path / "through", 8)
    before, _ = run(tmp_path / "stopped", stop_after)
    after, other = run(tmp_path / "stopped", 8)
    assert before + after == through
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_projector_is_published_with_the_adapter_and_listed(tmp_path: Path) -> None:
    checkpoints, model = CheckpointWriter(tmp_path / "checkpoints"), add_lora(tiny_model(), SHAPE, seed=1)
    saved = checkpoints.save(model, {"step": torch.tensor(1)}, step=1, ends_epoch=True, about={}, projector=projector())
    checkpoints.publish(saved, tmp_path / "adapter", lambda _: "{}")
    found = load_projector(tmp_path / "adapter")
    assert found is not None
    assert torch.equal(found.inner.weight, projector().inner.weight)
    assert "projector.safetensors" in saved.manifest["files"]

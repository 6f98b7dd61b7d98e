"""Every pretrained family that sees: what is stored is what the whole model sees, packed, trained, served alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kastor.domain.content import Resolution, Text
from kastor.domain.job import Hyperparameters, TuningSpec
from kastor.export.hf_formats import load_peft
from kastor.models.chat.families import FAMILIES
from kastor.models.chat.render import RenderedExample
from kastor.models.load import load_base
from kastor.models.vision.grids import BUDGET
from kastor.serving.builtin.parity import ServedAdapter
from kastor.serving.builtin.sequence import PictureEmbeddings
from kastor.training.checkpoints import CheckpointWriter
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora
from kastor.training.loss import sum_loss, target_logprobs, use_packed_attention
from kastor.training.packing import pack
from support.vision_models import FAMILY_OF, FILM, SEERS, SHAPE, STILL, TinyVisionModel


@pytest.fixture(name="seer", scope="module", params=SEERS)
def a_seer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyVisionModel:
    return TinyVisionModel.make(request.param, tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def test_stored_features_give_the_loss_of_the_whole_model_from_the_pixels(seer: TinyVisionModel) -> None:
    whole = load_base(seer.folder, dtype=torch.float32, whole=True)
    packed = load_base(seer.folder, dtype=torch.float32)
    use_packed_attention(packed)
    for example in seer.examples:
        ids = torch.tensor(example.token_ids)
        logprobs = whole(**seer.whole_inputs(example)).logits[0].log_softmax(-1)
        at = torch.tensor(example.supervised).nonzero()[:, 0]
        expected = logprobs[at - 1, ids[at]]
        exact = target_logprobs(packed, pack([example]), seer.sight(exact=True))
        torch.testing.assert_close(exact, expected, atol=2e-4, rtol=1e-4)
        stored = target_logprobs(packed, pack([example]), seer.sight())
        assert (stored - expected).abs().max() < 0.02  # fp16 rounds by 5e-4 what random layers widen


@torch.no_grad()
def test_what_a_picture_shows_matters(seer: TinyVisionModel) -> None:
    model = load_base(seer.folder, dtype=torch.float32)
    use_packed_attention(model)
    one, other = (seer.example(media, Text("?")) for media in (STILL, FILM))
    assert one.pictures[0].num_tokens > 8
    row = pack([one])
    seen = target_logprobs(model, row, seer.sight())
    blind = target_logprobs(model, pack([RenderedExample(one.token_ids, one.supervised)]))
    assert (seen - blind).abs().max() > 1e-3
    assert len(other.pictures) >= 2


def test_packed_gradients_are_those_of_each_example_alone(seer: TinyVisionModel) -> None:
    model = seer.tuned()
    use_packed_attention(model)

    def gradients(rows: list[list[RenderedExample]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for row in rows:
            sum_loss(model, pack(row), seer.sight()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    together = gradients([seer.examples])
    alone = gradients([[example] for example in seer.examples])
    assert together.keys() == alone.keys()
    assert together
    for name, gradient in together.items():
        scale = alone[name].abs().max().clamp_min(1e-4)
        assert (gradient - alone[name]).abs().max() / scale < 2e-3, name


def test_only_the_language_model_is_tuned_and_the_adapter_says_so(seer: TinyVisionModel, tmp_path: Path) -> None:
    model = seer.tuned()
    named = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert named
    assert all("language_model.layers" in name or "text_model.layers" in name for name in named)
    model.save_pretrained(tmp_path)
    loaded = load_peft(load_base(seer.folder, dtype=torch.float32, whole=True), tmp_path)
    found = {name for name, _ in loaded.named_parameters() if "lora_" in name}
    assert found == {name for name, _ in model.named_parameters() if "lora_" in name}


def test_served_logprobs_are_the_trained_ones(seer: TinyVisionModel, tmp_path: Path) -> None:
    model = seer.tuned()
    use_packed_attention(model)
    sight = seer.sight()
    with torch.no_grad():
        trained = [target_logprobs(model, pack([example]), sight) for example in seer.examples]
    checkpoints = CheckpointWriter(tmp_path / "checkpoints")
    saved = checkpoints.save(model, {}, step=1, ends_epoch=True, about={})

    def embedded(example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
        parts = sight.embed(example.pictures, torch.device("cpu")).split([p.num_tokens for p in example.pictures])
        return tuple(PictureEmbeddings(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

    served = ServedAdapter.open(load_base(seer.folder, dtype=torch.float32), seer.renderer, saved.folder, embedded)
    for found, expected in zip(served.logprobs(seer.examples), trained, strict=True):
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)
    for example in seer.examples:  # and the answer, token by token, is what the same tokens are when taken in at once
        prompt_ids = example.token_ids[: example.supervised.index(True)]
        prompt = RenderedExample(prompt_ids, [False] * len(prompt_ids), example.pictures, example.on_a_grid)
        _, steps = served.answer(prompt)
        ids = [step.chosen.token_id for step in steps]
        assert ids or not steps
        if not ids:
            continue
        learnt = [False] * len(prompt_ids) + [True] * len(ids)
        (at_once,) = served.logprobs([RenderedExample(prompt_ids + ids, learnt, example.pictures, example.on_a_grid)])
        one_by_one = torch.tensor([step.chosen.logprob for step in steps])
        torch.testing.assert_close(at_once, one_by_one, atol=5e-4, rtol=1e-3)


def test_twenty_steps_overfit_what_only_pictures_tell(seer: TinyVisionModel) -> None:
    shape = replace(SHAPE, rank=8, alpha=16.0)
    examples = [seer.example(STILL, Text("?"), answer="a"), seer.example(FILM, Text("?"), answer="b")]
    model = add_lora(load_base(seer.folder, dtype=torch.float32), shape, seed=1)
    trainer = Trainer(model, examples, TuningSpec("tiny", Hyperparameters(20, 2, 0.02), shape, 2, seed=3), seer.sight())
    losses = [trainer.run_step().mean_loss for _ in range(20)]
    assert losses[-1] < 0.2 * losses[0], losses


@pytest.mark.parametrize("name", SEERS)
@pytest.mark.parametrize("resolution", Resolution)
def test_no_picture_has_more_tokens_than_its_resolution(name: str, resolution: Resolution) -> None:
    vision = FAMILIES[FAMILY_OF.get(name, name)].vision
    assert vision is not None
    for size in ((1920, 1080), (64, 48), (30, 3000), (1, 1)):
        assert 1 <= vision.layout(resolution, size).num_tokens <= BUDGET[resolution]

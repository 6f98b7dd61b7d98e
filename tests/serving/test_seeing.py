"""Prompts with pictures: what is served is what was trained, alone, side by side and in pieces."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Media, Prompt, Resolution
from kastor.domain.errors import FailedPrecondition, InvalidArgument, Unavailable
from kastor.domain.generation import ResolvedMedia, Sampling
from kastor.media.cache import MediaCache
from kastor.models.chat.families import FAMILIES, Family
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import load_base
from kastor.models.vision.encoder import PREPROCESSING, FeatureStore, tower_hash
from kastor.models.vision.media_frames import medium_feature_key
from kastor.serving.builtin.constrained_decoding import GrammarCompiler
from kastor.serving.builtin.continuous_batching import ContinuousBatcher, EngineLimits
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager
from kastor.serving.builtin.picture_embeddings import PictureEmbedder
from support.films import make_torn_film
from support.manual_batcher import ManualBatcher, ReceivedChunks
from support.prompt_media import make_picture, make_video, prompt_of, shown_in, trained_logprobs, tuned_on_pictures
from support.tiny_models import CONTEXT_TOKENS, tiny_seeing_base

SEEING = [family for family in FAMILIES.values() if family.vision is not None and not family.vision.pretrained]
BOUNDS = EngineLimits(8, 400, 64, CONTEXT_TOKENS, 8192)


@dataclass
class World:
    """A base that sees and what is tuned on it, in fp32."""

    folder: Path
    family: Family

    def __post_init__(self) -> None:
        assert self.family.vision is not None
        self.vision = self.family.vision
        self.base = tiny_seeing_base(self.folder / "base")
        self.renderer = Renderer.open(self.base, self.family)
        self.cache = MediaCache(self.folder / "features")
        self.tower = tower_hash(self.base, self.vision)
        self.picture = make_picture(self.folder / "1.png", 1)
        self.video = make_video(self.folder / "1.mp4")

    def model(self) -> Any:
        return load_base(self.base, dtype=torch.float32)

    def tuned(self, name: str = "job1", **changes: Any) -> Any:
        given = {"tower": self.tower, "preprocessing": PREPROCESSING} | changes
        return tuned_on_pictures(self.model(), self.folder / name, **given)

    def seeing(self, model: Any = None) -> PictureEmbedder:
        model = model or self.model()
        frames = MediaCache(self.folder / "frames")
        return PictureEmbedder(
            model, self.vision, self.base, self.cache, frames, lambda ref: self.folder / str(ref), num_threads=1
        )

    def shown(self, prompt: Prompt) -> ResolvedMedia:
        return shown_in(self.folder, prompt, self.family)

    def rendered(self, prompt: Prompt, shown: ResolvedMedia) -> RenderedExample:
        keys = {media: medium_feature_key(one.planned, self.tower) for media, one in shown.items()}
        views = {media: one.planned.view for media, one in shown.items()}
        return self.renderer.prompt_with_pictures(prompt, views).keyed(keys)

    def server(self) -> "Server":
        model = self.model()
        ends = frozenset({self.renderer.closing_id})
        bank = AdapterManager(model, lambda ref: self.folder / str(ref), 8)
        batcher = ContinuousBatcher(model, bank, self.renderer.tokenizer, ends, BOUNDS, SlotKVCache.like(model))
        grammars = GrammarCompiler(self.renderer.tokenizer.to_str(), ends, model.config.vocab_size)
        return Server(self, ManualBatcher(batcher, self.renderer, grammars), self.seeing(model))


@dataclass
class Server:
    """What an engine is made of, stepped by hand."""

    world: World
    stepper: ManualBatcher
    seeing: PictureEmbedder

    def ask(
        self, prompt: Prompt, adapter: str | None = "job1", num_candidates: int = 1, **changes: Any
    ) -> ReceivedChunks:
        shown = self.world.shown(prompt)
        rendered = self.world.rendered(prompt, shown)
        heard = ReceivedChunks()
        asked = Sampling(**{"temperature": 0, "max_output_tokens": 6, "top_logprobs": 0} | changes)
        ref = None if adapter is None else AdapterRef(adapter)
        pictures = self.seeing.embed(rendered.pictures, shown, ref) if rendered.pictures else ()
        submit = self.stepper.batcher.submit
        submit(rendered.token_ids, asked, ref, heard, num_candidates=num_candidates, pictures=pictures)
        return heard

    def ended(self, *heard: ReceivedChunks, num_candidates: int = 1) -> None:
        for _ in range(100):
            if all(one.num_ended == num_candidates for one in heard):
                return
            self.stepper.steps(1)
        raise AssertionError("no end after 100 steps")


@pytest.fixture(name="world", params=SEEING, ids=[family.name for family in SEEING])
def a_world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, request.param)


def told(heard: ReceivedChunks) -> tuple[list[int], list[float]]:
    steps = [step.chosen for chunk in heard.chunks for step in chunk.steps]
    return [step.token_id for step in steps], [step.logprob for step in steps]


def test_served_logprobs_are_the_trained_ones_for_a_row_with_images_and_one_with_a_video(world: World) -> None:
    model, projector = world.tuned()
    server = world.server()
    for prompt in (prompt_of(world.picture, "one", world.picture, "two"), prompt_of("when?", world.video)):
        heard = server.ask(prompt)
        server.ended(heard)
        ids, served = told(heard)
        with_keys = world.rendered(prompt, world.shown(prompt))
        lease = world.cache.lease("test")
        store = FeatureStore(world.cache, lease)
        assert all(store.hold(picture.key) for picture in with_keys.pictures)
        trained = trained_logprobs(model, projector, with_keys, ids, store.read)
        lease.close()
        assert len(ids) >= 2
        np.testing.assert_allclose(served, trained, atol=2e-4)


def test_what_a_picture_shows_and_whose_projector_looks_decide_the_answer(world: World) -> None:
    world.tuned()
    server = world.server()
    other = make_picture(world.folder / "9.png", 3000)
    asked = [(world.picture, "job1"), (other, "job1"), (world.picture, None)]
    heard = [server.ask(prompt_of(picture, "?"), adapter) for picture, adapter in asked]
    server.ended(*heard)
    assert len({tuple(told(one)[1]) for one in heard}) == 3


def test_pictures_and_texts_side_by_side_are_answered_as_alone(world: World) -> None:
    world.tuned()
    prompts = [
        (prompt_of(world.picture, "one"), "job1"),
        (prompt_of("two"), "job1"),
        (prompt_of("when", world.video), None),
        (prompt_of("the twelve"), None),
        (prompt_of("three", world.picture), None),
    ]
    alone = []
    for prompt, adapter in prompts:
        server = world.server()
        heard = server.ask(prompt, adapter)
        server.ended(heard)
        alone.append(told(heard))
    crowd = world.server()
    heard_all = []
    for number, (prompt, adapter) in enumerate(prompts):
        heard_all.append(crowd.ask(prompt, adapter))
        crowd.stepper.steps(number % 2)
    crowd.ended(*heard_all)
    for heard, (ids, logprobs) in zip(heard_all, alone, strict=True):
        assert told(heard)[0] == ids
        np.testing.assert_allclose(told(heard)[1], logprobs, atol=2e-4)


def test_a_prompt_in_pieces_that_cut_through_pictures_is_answered_as_in_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tuned()
    prompt = prompt_of("when", world.video, "and", world.picture)
    monkeypatch.setattr("kastor.serving.builtin.continuous_batching.CHUNK_TOKENS", 400)
    whole = world.server()
    at_once = whole.ask(prompt)
    whole.ended(at_once)
    monkeypatch.setattr("kastor.serving.builtin.continuous_batching.CHUNK_TOKENS", 37)
    pieces = world.server()
    short = pieces.ask(prompt_of("short"))
    pieces.stepper.steps(1)
    cut = pieces.ask(prompt)
    pieces.ended(short, cut)
    assert told(cut)[0] == told(at_once)[0]
    np.testing.assert_allclose(told(cut)[1], told(at_once)[1], atol=2e-4)


def test_candidates_of_a_prompt_with_pictures_are_those_of_their_seeds(world: World) -> None:
    world.tuned()
    wanted = {"temperature": 1.5, "seed": 5, "max_output_tokens": 10}
    prompt = prompt_of(world.picture, "?")
    alone, together = world.server(), world.server()
    one, three = alone.ask(prompt, **wanted), together.ask(prompt, num_candidates=3, **wanted)
    alone.ended(one)
    together.ended(three, num_candidates=3)
    assert three.texts[0] == one.text
    assert len(set(three.texts)) > 1


def test_each_resolution_has_its_own_number_of_tokens(world: World) -> None:
    for resolution in (Resolution.LOW, Resolution.MEDIUM):
        prompt = prompt_of(world.picture, "?", resolution=resolution)
        shown = world.shown(prompt)
        rendered = world.rendered(prompt, shown)
        (made,) = world.seeing().embed(rendered.pictures, shown, None)
        assert len(made.embeddings_NC) == world.vision.num_tokens(resolution)


def test_a_second_question_about_a_video_decodes_nothing(world: World) -> None:
    prompt = prompt_of("when", world.video)
    shown = world.shown(prompt)
    rendered = world.rendered(prompt, shown)
    first = world.seeing().embed(rendered.pictures, shown, None)
    Path(world.video.uri).unlink()
    second = world.seeing().embed(rendered.pictures, shown, None)
    assert len(first) == 3
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.embeddings_NC, other.embeddings_NC)


def test_pictures_that_a_job_decoded_are_not_decoded_again_for_an_answer(world: World) -> None:
    prompt = prompt_of("when", world.video)
    shown = world.shown(prompt)
    rendered = world.rendered(prompt, shown)
    first = world.seeing().embed(rendered.pictures, shown, None)
    shutil.rmtree(world.folder / "features")  # what another tower would see is not there either
    Path(world.video.uri).unlink()
    second = world.seeing().embed(rendered.pictures, shown, None)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.embeddings_NC, other.embeddings_NC)


def test_a_medium_that_changed_since_it_was_looked_at_is_not_taken_for_it(world: World) -> None:
    prompt = prompt_of(world.picture, "?")
    shown = world.shown(prompt)
    rendered = world.rendered(prompt, shown)
    make_picture(Path(world.picture.uri), 7)
    with pytest.raises(Unavailable, match=r"contents\[0\]\.parts\[0\]: the medium was changed"):
        world.seeing().embed(rendered.pictures, shown, None)
    Path(world.picture.uri).unlink()
    with pytest.raises(Unavailable, match="was removed"):
        world.seeing().embed(rendered.pictures, shown, None)


def test_a_medium_that_is_damaged_further_in_is_the_callers_fault_and_named(world: World) -> None:
    prompt = prompt_of("?", Media("video/mp4", str(make_torn_film(world.folder / "torn.mp4"))))
    shown = world.shown(prompt)
    rendered = world.rendered(prompt, shown)
    with pytest.raises(InvalidArgument, match=r"contents\[0\]\.parts\[1\]") as caught:
        world.seeing().embed(rendered.pictures, shown, None)
    assert caught.value.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda vision: vision.update(preprocessing=PREPROCESSING + 1), "prepared by version"),
        (lambda vision: vision.update(tower="ab" * 32), "vision tower abab"),
        (lambda vision: vision.clear(), "does not say"),
    ],
)
def test_a_projector_made_for_other_pictures_is_refused(
    world: World, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    world.tuned()
    manifest = world.folder / "job1" / "manifest.json"
    about = json.loads(manifest.read_text())
    change(about["vision"])
    manifest.write_text(json.dumps(about))
    prompt = prompt_of(world.picture, "?")
    shown = world.shown(prompt)
    rendered = world.rendered(prompt, shown)
    with pytest.raises(FailedPrecondition, match=said):
        world.seeing().embed(rendered.pictures, shown, AdapterRef("job1"))

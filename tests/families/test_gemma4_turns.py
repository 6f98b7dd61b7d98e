"""Gemma 4's conversations, against the text that its prompt guide documents and what its processor makes of a video."""

from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import pytest

from kastor.domain.content import Content, Example, Role, Text
from kastor.domain.vision import MediumLayout
from support.vision_models import FILM, STILL, TinyVisionModel


@pytest.fixture(name="large", scope="module")
def a_large_one(tmp_path_factory: pytest.TempPathFactory) -> TinyVisionModel:
    return TinyVisionModel.make("gemma4", tmp_path_factory.mktemp("gemma4"))


def written(seer: TinyVisionModel, *parts: object, system: tuple[Text, ...] | None = None) -> str:
    """An example as text, one token for each run of a picture's."""
    turns = (Content(Role.USER, parts), Content(Role.MODEL, (Text("A dog."),)))  # type: ignore[arg-type]
    ids = seer.renderer.example(Example(turns, system), seer.views).token_ids
    placeholder = seer.renderer.tokenizer.token_to_id("<|image|>")
    kept = [one for token, run in groupby(ids) for one in ([token] if token == placeholder else run)]
    return str(seer.renderer.tokenizer.decode(kept, skip_special_tokens=False))


def test_the_large_ones_have_an_empty_thought_before_the_answer(large: TinyVisionModel) -> None:
    assert written(large, STILL, Text("What is it?"), system=(Text("Be brief."),)) == (
        "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\n<|image><|image|><image|>What is it?<turn|>\n"
        "<|turn>model\n<|channel>thought\n<channel|>A dog.<turn|>"
    )


def test_the_small_ones_answer_at_once(tmp_path: Path) -> None:
    seer = TinyVisionModel.make("gemma4-e", tmp_path)
    assert written(seer, Text("What is it?")) == ("<bos><|turn>user\nWhat is it?<turn|>\n<|turn>model\nA dog.<turn|>")


def test_a_video_is_written_as_its_processor_writes_it(large: TinyVisionModel) -> None:
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    view = large.views[FILM]
    assert isinstance(view, MediumLayout)
    tokens = SimpleNamespace(boi_token="<|image>", eoi_token="<image|>", video_token="<|image|>")
    about = SimpleNamespace(fps=1, timestamps=view.moments_s)
    inputs = {"num_soft_tokens_per_video": [1], "video_metadata": [about]}
    said = Gemma4Processor.replace_video_token(tokens, inputs, 0)
    assert f"<|turn>user\nThis: {said}<turn|>" in written(large, Text("This:"), FILM)

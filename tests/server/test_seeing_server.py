"""Questions about pictures and videos, by the unmodified google-genai SDK to a real server with a tiny seeing base."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google import genai
from google.genai import errors, types

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.generation import GenerateRequest, Sampling
from kastor.media.cache import MediaCache
from kastor.models.chat.families import NANO_VL
from kastor.serving.engine import ScoreRequest
from kastor.serving.process_engine import ProcessEngine
from kastor.settings import Settings, environment
from support.prompt_media import make_picture, make_video, prompt_of, shown_in, trained_logprobs, tuned_on_pictures
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_seeing_base

SERVE = """
from kastor.server.main import serve
from kastor.settings import load_settings
serve(load_settings(), on_listening=lambda url: print(url, flush=True))
"""
LOW, MEDIUM = 64, 256  # tokens of a picture
MODEL = "models/tiny"


@pytest.fixture(name="root", scope="module")
def a_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeing")
    make_picture(root / "picture.png", 1)
    make_video(root / "film.mp4")
    return root


@pytest.fixture(name="settings", scope="module")
def some_settings(root: Path) -> Settings:
    catalog = tiny_catalog(root / "catalog.toml", {"tiny": tiny_seeing_base(root / "base")}, family=NANO_VL.name)
    return Settings(
        data_dir=root / "data", cache_dir=root / "cache", catalog_file=catalog, num_threads=1, port=0, no_auth=True
    )


@pytest.fixture(name="client", scope="module")
def a_client(settings: Settings, root: Path) -> Iterator[genai.Client]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")}
    with (root / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=inherited | environment(settings),
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, (root / "stderr").read_text()
        with genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url)) as made:
            yield made
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ask(client: genai.Client, *contents: Any, **config: Any) -> types.GenerateContentResponseUsageMetadata:
    """What the answer cost, after checking that counting beforehand says the same."""
    given = types.GenerateContentConfig(max_output_tokens=4, temperature=0, **config)
    answer = client.models.generate_content(model=MODEL, contents=list(contents), config=given)
    assert answer.usage_metadata is not None and answer.candidates
    if not config:
        counted = client.models.count_tokens(model=MODEL, contents=list(contents))
        assert counted.total_tokens == answer.usage_metadata.prompt_token_count
    return answer.usage_metadata


def by_modality(usage: types.GenerateContentResponseUsageMetadata) -> dict[str, int]:
    details = usage.prompt_tokens_details or []
    found = {one.modality.value: one.token_count or 0 for one in details if one.modality}
    assert sum(found.values()) == usage.prompt_token_count
    return found


def test_bytes_of_an_image_and_an_uploaded_one_are_answered_about_and_counted(client: genai.Client, root: Path) -> None:
    path = root / "picture.png"
    inline = ask(client, types.Part.from_bytes(data=path.read_bytes(), mime_type="image/png"), "What is it?")
    assert by_modality(inline)["IMAGE"] == LOW
    assert [one.modality for one in inline.candidates_tokens_details or []] in ([], [types.MediaModality.TEXT])
    file = client.files.upload(file=path)
    assert file.uri is not None and file.uri.startswith("http")
    assert by_modality(ask(client, file, "What is it?")) == by_modality(inline)
    named = types.Part.from_uri(file_uri=str(file.name), mime_type="image/png")
    assert by_modality(ask(client, named, "What is it?")) == by_modality(inline)


def test_a_video_is_seen_as_asked_and_a_stream_tells_its_cost(client: genai.Client, root: Path) -> None:
    blob = types.Blob(data=(root / "film.mp4").read_bytes(), mime_type="video/mp4")
    whole = by_modality(ask(client, types.Part(inline_data=blob), "When?"))
    assert whole["VIDEO"] == 3 * LOW
    part = types.Part(
        inline_data=blob, video_metadata=types.VideoMetadata(start_offset="0.5s", end_offset="1.5s", fps=2)
    )
    assert by_modality(ask(client, part, "When?"))["VIDEO"] == 2 * LOW
    short = types.Part(inline_data=blob, video_metadata=types.VideoMetadata(end_offset="1s"))
    finer = ask(client, short, "When?", media_resolution=types.MediaResolution.MEDIA_RESOLUTION_MEDIUM)
    assert by_modality(finer)["VIDEO"] == MEDIUM
    config = types.GenerateContentConfig(max_output_tokens=4)
    contents: Any = [types.Part(inline_data=blob), "When?"]
    *_, last = client.models.generate_content_stream(model=MODEL, contents=contents, config=config)
    assert last.usage_metadata is not None and by_modality(last.usage_metadata) == whole


def test_media_that_cannot_be_used_are_refused_by_part_and_rule(client: genai.Client, root: Path) -> None:
    text = types.Part.from_bytes(data=b"no picture at all", mime_type="image/png")
    with pytest.raises(errors.ClientError, match=r"contents\[0\]\.parts\[1\]") as caught:
        ask(client, "look:", text)
    assert caught.value.code == 400
    elsewhere = types.Part.from_uri(file_uri=str(root / "picture.png"), mime_type="image/png")
    with pytest.raises(errors.ClientError, match="MEDIA_OUTSIDE_ROOTS|folder that media may come from"):
        ask(client, elsewhere)
    with pytest.raises(errors.ClientError, match=r"exceeds the maximum number of tokens allowed \(400\)"):
        film = types.Part.from_bytes(data=(root / "film.mp4").read_bytes(), mime_type="video/mp4")
        ask(client, film, media_resolution=types.MediaResolution.MEDIA_RESOLUTION_HIGH)


def test_the_process_serves_what_was_trained(settings: Settings, root: Path) -> None:
    from kastor.models.chat.render import Renderer
    from kastor.models.load import load_base
    from kastor.models.vision.encoder import PREPROCESSING, FeatureStore, tower_hash
    from kastor.models.vision.media_frames import medium_feature_key

    base, vision = root / "base", NANO_VL.vision
    assert vision is not None
    tower = tower_hash(base, NANO_VL.vision)
    (settings.data_dir / "jobs" / "job1").mkdir(parents=True)
    folder = settings.data_dir / "jobs" / "job1" / "adapter"
    model, projector = tuned_on_pictures(load_base(base), folder, tower=tower, preprocessing=PREPROCESSING)
    prompts = [prompt_of(make_picture(root / "new.png", 9), "?"), prompt_of("When?", make_video(root / "new.mp4"))]
    greedy = Sampling(temperature=0, max_output_tokens=6, top_logprobs=0)
    engine = ProcessEngine(environment(settings), log_dir=settings.data_dir, idle_timeout_s=60)
    try:
        for prompt in prompts:
            shown = shown_in(root, prompt, NANO_VL)
            chunks = list(engine.generate(GenerateRequest("tiny", prompt, greedy, AdapterRef("job1"), shown=shown)))
            assert chunks[-1].prompt_tokens == engine.count_tokens("tiny", prompt, shown)
            steps = [step.chosen for chunk in chunks for step in chunk.steps]
            views = {media: one.planned.view for media, one in shown.items()}
            keys = {media: medium_feature_key(one.planned, tower) for media, one in shown.items()}
            rendered = Renderer.open(base, NANO_VL).prompt_with_pictures(prompt, views).keyed(keys)
            cache = MediaCache(settings.cache_dir / "features")
            lease = cache.lease("test")
            store = FeatureStore(cache, lease)
            assert all(store.hold(key) for key in keys.values())
            trained = trained_logprobs(model, projector, rendered, [step.token_id for step in steps], store.read)
            lease.close()
            np.testing.assert_allclose([step.logprob for step in steps], trained, atol=0.1)
            ids = [*rendered.token_ids, *(step.token_id for step in steps)]
            scored = [False] * len(rendered.token_ids) + [True] * len(steps)
            sequence = replace(rendered, token_ids=ids, supervised=scored)
            (scores,) = engine.score(ScoreRequest("tiny", (sequence,), AdapterRef("job1"), shown))
            np.testing.assert_allclose(scores, trained, atol=0.1)
    finally:
        engine.close()

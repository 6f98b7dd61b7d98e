"""Jobs on pretrained models that see, from the dataset file to an adapter that is served as it was trained."""

import json
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Content, Media, Prompt, Resolution, Role, Text
from kastor.domain.job import RequestedHyperparameters, State
from kastor.domain.vision import VisionSpec
from kastor.media.cache import MediaCache
from kastor.models.catalog import load_catalog
from kastor.models.chat.render import Renderer
from kastor.models.load import load_base
from kastor.models.vision.encoder import VisionEncoder
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.serving.builtin.picture_embeddings import PictureEmbedder
from support.films import Recipe, make_film, painted
from support.prompt_media import shown_in
from support.vision_models import BUILDERS, FAMILY_OF
from support.worker_environment import Place


def row(answer: str, *files: str, resolution: str = "LOW") -> dict[str, object]:
    kind = {"png": "image/png", "mp4": "video/mp4", "pdf": "application/pdf"}
    media = [{"fileData": {"mimeType": kind[name.rsplit(".", 1)[1]], "fileUri": name}} for name in files]
    turns = [
        {"role": "user", "parts": [*media, {"text": "?"}]},
        {"role": "model", "parts": [{"text": answer}]},
    ]
    return {"contents": turns, "generationConfig": {"mediaResolution": f"MEDIA_RESOLUTION_{resolution}"}}


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "gemma4-e", "qwen3-vl", "smolvlm"])
def test_a_job_on_images_a_video_and_pages_is_certified_and_seen_in_answers(name: str, tmp_path: Path) -> None:
    place = Place(tmp_path, base=(FAMILY_OF.get(name, name), BUILDERS[name]))
    for number, size in ((1, (64, 48)), (2, (30, 90))):
        PIL.Image.fromarray(painted(number, size, noise=True)).save(place.media / f"{number}.png")
    make_film(place.media / "film.mp4", Recipe(num_frames=20, rate=10))
    pages = [PIL.Image.fromarray(painted(number, size)) for number, size in ((5, (128, 96)), (6, (96, 160)))]
    pages[0].save(place.media / "pages.pdf", save_all=True, append_images=pages[1:])
    place.add_file(
        [
            row("a", "1.png"),
            row("b", "film.mp4"),
            row("c", "pages.pdf", "2.png"),
            row("d", "2.png", resolution="MEDIUM"),
            {"contents": [{"role": "user", "parts": [{"text": "no"}]}, {"role": "model", "parts": [{"text": "e"}]}]},
        ],
        asked=RequestedHyperparameters(4, 2, 0.01),
    )
    with closing(place.database):
        assert place.work(place.claim()) == 0
        job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    adapter = place.blobs.adapter("job1")
    assert not (adapter / PROJECTOR_FILE).exists()
    assert json.loads((adapter / "manifest.json").read_text())["vision"]["tower"]

    base = load_catalog(place.settings.catalog_file).base("tiny")
    vision = base.family.vision
    assert vision is not None
    prompt = Prompt((Content(Role.USER, (Media("image/png", str(place.media / "2.png")), Text("?"))),))
    caches = [MediaCache(place.settings.cache_dir / name) for name in ("features", "frames")]
    model = load_base(tmp_path / "base", dtype=torch.float32)
    seeing = PictureEmbedder(model, vision, tmp_path / "base", *caches, place.blobs.verified_adapter, num_threads=1)
    for resolution in (Resolution.LOW, Resolution.MEDIUM):
        asked = Prompt(prompt.contents, resolution=resolution)
        shown = shown_in(tmp_path, asked, base.family)
        rendered = Renderer.open(tmp_path / "base", base.family).prompt_with_pictures(
            asked, {media: one.planned.view for media, one in shown.items()}
        )
        found = seeing.embed(rendered.pictures, shown, AdapterRef("job1"))
        assert sum(len(one.embeddings_NC) for one in found) == rendered.token_ids.count(_placeholder(base, tmp_path))
        assert all(np.isfinite(one.embeddings_NC.numpy()).all() for one in found)


def test_a_pretrained_tower_is_opened_before_another_thread_makes_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening one switches off how modules are initialised, in the whole process."""
    opened, opening = [], VisionEncoder.open

    def watched(folder: Path, vision: VisionSpec, *, num_threads: int) -> VisionEncoder:
        opened.append(threading.current_thread() is threading.main_thread())
        return opening(folder, vision, num_threads=num_threads)

    monkeypatch.setattr(VisionEncoder, "open", watched)
    place = Place(tmp_path, base=(FAMILY_OF.get("gemma3", "gemma3"), BUILDERS["gemma3"]))
    PIL.Image.fromarray(painted(1, (64, 48), noise=True)).save(place.media / "1.png")
    place.add_file([row("a", "1.png")], asked=RequestedHyperparameters(1, 1, 0.01))
    with closing(place.database):
        assert place.work(place.claim()) == 0
        assert place.jobs.get("job1").state is State.SUCCEEDED
    assert opened and all(opened)


def _placeholder(base: object, folder: Path) -> int:
    vision = base.family.vision  # type: ignore[attr-defined]
    return Renderer.open(folder / "base", base.family).tokenizer.token_to_id(vision.placeholder)  # type: ignore[attr-defined]

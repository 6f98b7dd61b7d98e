"""Models that see, exported: what reads them sees what they saw, and a merged one is a base that does."""

import json
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from kastor.domain.errors import FailedPrecondition, Internal, Unimplemented
from kastor.domain.generation import ResolvedMedium
from kastor.domain.job import RequestedHyperparameters, State
from kastor.export.golden import GoldenJobFiles
from kastor.export.request import ExportRequest, Format
from kastor.export.run import run_export
from kastor.media.cache import MediaCache
from kastor.models.catalog import entry, load_catalog
from kastor.models.chat.families import NANO_VL
from kastor.models.chat.render import PictureSpan, RenderedExample, Renderer
from kastor.models.load import load_base
from kastor.models.vision.encoder import PREPROCESSING, FeatureStore, tower_hash
from kastor.models.vision.media_frames import medium_feature_key
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.models.vision.specs import TOWER_FILE
from kastor.serving.builtin.picture_embeddings import PictureEmbedder
from support.export_requests import make_order
from support.films import Recipe, make_film, painted
from support.guide_page import blocks
from support.worker_environment import Place, adapter

ROUNDED = 0.01
"""Trained and certified is on the tiny base in bf16, where the machine is fast in it; its files are in fp32."""


def row(answer: str, *files: str) -> dict[str, object]:
    kinds = {"png": "image/png", "mp4": "video/mp4"}
    media = [{"fileData": {"mimeType": kinds[name.rsplit(".", 1)[1]], "fileUri": name}} for name in files]
    user = {"role": "user", "parts": [*media, {"text": "?"}]}
    return {"contents": [user, {"role": "model", "parts": [{"text": answer}]}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A model tuned on pictures, a video and text; the first row's picture turned out bad."""
    place = Place(tmp_path_factory.mktemp("place"), seeing=True)
    for number in range(3):
        PIL.Image.fromarray(painted(number * 900, (64, 48), noise=True)).save(place.media / f"{number}.png")
    torn = place.media / "torn.png"
    torn.write_bytes((place.media / "0.png").read_bytes()[:-600])
    make_film(place.media / "film.mp4", Recipe(num_frames=25, rate=10))
    rows = [row("x", "torn.png"), row("one", "0.png"), row("two, three", "1.png", "2.png"), row("a film", "film.mp4")]
    place.add_file([*rows, row("text")], asked=RequestedHyperparameters(10, 2, 0.02))
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED, place.jobs.get("job1").error
    yield place
    place.database.close()


def files(place: Place) -> GoldenJobFiles:
    return GoldenJobFiles(place.blobs.dataset("job1"), place.blobs.workspace("job1").plan)


def order(place: Place, out: Path, **changes: Any) -> ExportRequest:
    base = load_catalog(place.settings.catalog_file).base("tiny")
    given = {
        "base_model": "models/tiny",
        "family": "kastor-nano-vl",
        "adapter": place.blobs.adapter("job1"),
        "files": files(place),
        "catalog_entry": entry(base, "numbers", "Numbers", "Tuned.", out),
        "feature_cache": place.settings.cache_dir / "features",
    }
    return make_order(place.settings.data_dir, out, **given | changes)


@pytest.fixture(scope="module")
def golden(place: Place) -> list[RenderedExample]:
    """The certified rows as they were trained on."""
    renderer, tower, found = Renderer.open(place.settings.data_dir / "base", NANO_VL), base_tower(place), []
    for one in files(place).golden(place.blobs.adapter("job1")):
        assert one.planned is not None
        keys = {
            media: medium_feature_key(planned, tower) for media, planned in one.planned.by_media(one.example).items()
        }
        found.append(renderer.example(one.example, one.planned.views(one.example)).keyed(keys))
    return found


def base_tower(place: Place) -> str:
    assert NANO_VL.vision is not None
    return tower_hash(place.settings.data_dir / "base", NANO_VL.vision)


def certified(place: Place) -> list[float]:
    """The mean log-probability of each golden row as it is served."""
    proof = json.loads(place.blobs.certificate("job1").read_text())
    return [row["served"] for row in sorted(proof["rows"], key=lambda row: row["example"])]


def mean_logprobs(model: Any, rendered: RenderedExample, see: Callable[[PictureSpan], torch.Tensor]) -> float:
    """Of the supervised tokens, with nothing but the library's own forward."""
    ids = torch.tensor(rendered.token_ids)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
        for picture in rendered.pictures:
            embeddings[picture.start : picture.start + picture.num_tokens] = see(picture)
        logprobs = model(inputs_embeds=embeddings[None]).logits[0].log_softmax(-1)
    found = [float(logprobs[at - 1, ids[at]]) for at, learnt in enumerate(rendered.supervised) if learnt]
    return sum(found) / len(found)


def features(place: Place, picture: PictureSpan) -> torch.Tensor:
    cache = MediaCache(place.settings.cache_dir / "features")
    lease = cache.lease("test")
    store = FeatureStore(cache, lease)
    assert store.hold(picture.key)
    found = torch.from_numpy(np.array(store.read(picture.key, picture.index)))
    lease.close()
    return found


def by_formula(weights: dict[str, torch.Tensor], features_NC: torch.Tensor) -> torch.Tensor:
    """What the card says the projector is."""
    standard = (features_NC.float() - weights["mean_C"]) / weights["deviation_C"]
    hidden = F.gelu(standard @ weights["inner.weight"].T + weights["inner.bias"])
    return (hidden @ weights["outer.weight"].T + weights["outer.bias"]) * weights["scale"]


def test_a_row_that_was_left_out_is_counted_and_never_golden(golden: list[RenderedExample]) -> None:
    assert [len(one.pictures) for one in golden] == [1, 2, 3, 0]


def test_a_peft_export_sees_by_its_projector_and_names_the_tower_it_needs(
    place: Place, tmp_path: Path, golden: list[RenderedExample]
) -> None:
    manifest = run_export(order(place, tmp_path / "out"), lambda _: None)
    placeholder = "<jupyter_output>"
    assert manifest["vision"] == {
        "tower": base_tower(place),
        "preprocessing": PREPROCESSING,
        "placeholder": placeholder,
    }
    assert PROJECTOR_FILE in manifest["files"] and TOWER_FILE not in manifest["files"]
    assert manifest["comparison"]["rows"] == 4
    with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.simplefilter("ignore", FutureWarning)
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    weights = load_file(tmp_path / "out" / PROJECTOR_FILE)
    for rendered, expected in zip(golden, certified(place), strict=True):
        found = mean_logprobs(model, rendered, lambda picture: by_formula(weights, features(place, picture)))
        assert found == pytest.approx(expected, abs=ROUNDED)
    without = mean_logprobs(model, golden[0], lambda picture: torch.zeros(picture.num_tokens, 64))
    assert abs(without - certified(place)[0]) > 3 * ROUNDED


@pytest.fixture(scope="module")
def merged(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "numbers"
    run_export(order(place, out, format=Format.MERGED), lambda _: None)
    return out


def test_a_merged_export_has_all_that_it_sees_with_and_a_card(merged: Path, place: Place) -> None:
    names = {"config.json", "model.safetensors", "tokenizer.json", TOWER_FILE, PROJECTOR_FILE, "README.md"}
    assert names <= {file.name for file in merged.iterdir()}
    card = (merged / "README.md").read_text()
    assert base_tower(place) in card
    (entry_of,) = (block.code for block in blocks(card) if block.language == "toml")
    assert tomllib.loads(entry_of)["bases"]["numbers"]["source"]["path"] == str(merged)


def test_the_programs_of_the_card_run(merged: Path, tmp_path: Path) -> None:
    PIL.Image.fromarray(painted(5, (64, 48), noise=True)).save(tmp_path / "picture.jpg")
    programs = [block.code for block in blocks((merged / "README.md").read_text()) if block.language == "python"]
    assert len(programs) == 2
    code = "\n".join([*programs, "assert answer.shape[1] > 0"])
    # the tiny base has no tokenizer that transformers would find by itself
    code = code.replace(", AutoTokenizer.from_pretrained", ", str")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_merged_export_is_a_base_that_sees_as_the_tuned_model_did(
    place: Place, merged: Path, golden: list[RenderedExample], tmp_path: Path
) -> None:
    (tmp_path / "catalog.toml").write_text(
        next(block.code for block in blocks((merged / "README.md").read_text()) if block.language == "toml")
    )
    base = load_catalog(tmp_path / "catalog.toml").base("numbers")
    assert base.family.vision is not None
    model = load_base(merged, dtype=torch.float32)
    cache = MediaCache(place.settings.cache_dir / "features")
    frames = MediaCache(place.settings.cache_dir / "frames")
    seeing = PictureEmbedder(
        model, base.family.vision, merged, cache, frames, lambda ref: tmp_path / str(ref), num_threads=1
    )
    rows = files(place).golden(place.blobs.adapter("job1"))
    for one, rendered, expected in zip(rows, golden, certified(place), strict=True):
        assert one.planned is not None
        shown = {
            media: ResolvedMedium(planned, place.media / media.uri, "contents[0]")
            for media, planned in one.planned.by_media(one.example).items()
        }
        embedded = seeing.embed(rendered.pictures, shown, None) if shown else ()
        made = {part.start: part.embeddings_NC for part in embedded}
        found = mean_logprobs(model, rendered, lambda p, made=made: made[p.start])
        assert found == pytest.approx(expected, abs=ROUNDED)


def test_tuning_on_a_merged_export_starts_from_its_projector(place: Place, merged: Path, tmp_path: Path) -> None:
    own = Place(tmp_path / "own", seeing=True)
    shutil.copytree(merged, own.settings.data_dir / "base", dirs_exist_ok=True)
    PIL.Image.fromarray(painted(7, (64, 48), noise=True)).save(own.media / "7.png")
    own.add_file([row("seven", "7.png")], asked=RequestedHyperparameters(1, 1, 1e-6))
    assert own.work(own.claim()) == 0
    assert own.jobs.get("job1").state is State.SUCCEEDED, own.jobs.get("job1").error
    before, after = load_file(merged / PROJECTOR_FILE), adapter(own, "job1", PROJECTOR_FILE)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-5)
    own.database.close()


def test_what_was_evicted_is_looked_at_again_and_what_is_gone_is_named(place: Place, tmp_path: Path) -> None:
    planned = [p for one in files(place).golden(place.blobs.adapter("job1")) if one.planned for p in one.planned.media]
    names = ["0.png", "1.png", "2.png", "film.mp4"]
    media = {p.sha256: str(place.media / name) for p, name in zip(planned, names, strict=True)}
    empty = {"feature_cache": tmp_path / "features"}
    manifest = run_export(order(place, tmp_path / "again", media=media, **empty), lambda _: None)
    assert manifest["comparison"]["largestDifference"] < 1e-3
    lost = planned[0].sha256
    shutil.rmtree(tmp_path / "features")
    held = {sha256: path for sha256, path in media.items() if sha256 != lost}
    with pytest.raises(FailedPrecondition, match=rf"sha256 {lost}\) is not available any more: '0.png' does not exist"):
        run_export(order(place, tmp_path / "gone", media=held, lost={lost: "'0.png' does not exist."}, **empty), print)
    assert not (tmp_path / "gone").exists()


def test_another_projector_than_the_certified_one_is_not_kept(place: Place, tmp_path: Path) -> None:
    changing = shutil.copytree(place.blobs.adapter("job1"), tmp_path / "changing")

    def meddle(stage: str) -> None:
        if stage.startswith("writing"):
            file = changing / PROJECTOR_FILE
            save_file(
                {name: tensor.flip(0) if tensor.dim() else tensor for name, tensor in load_file(file).items()}, file
            )

    with pytest.raises(Internal, match="gives other log-probabilities than the tuned model"):
        run_export(order(place, tmp_path / "out", adapter=changing), meddle)
    assert not (tmp_path / "out").exists()


def test_a_model_that_sees_is_no_gguf_file_and_it_is_said_why(place: Place, tmp_path: Path) -> None:
    with pytest.raises(Unimplemented, match=r"models/tiny reads pictures.*mmproj.*export it as peft or merged"):
        run_export(order(place, tmp_path / "out", format=Format.GGUF), lambda _: None)


def test_a_model_tuned_on_text_alone_is_exported_without_a_projector(place: Place, tmp_path: Path) -> None:
    place.add_file([row(str(number)) for number in range(4)], "text")
    assert place.work(place.claim()) == 0
    told = {"adapter": place.blobs.adapter("text")}
    for kind in (Format.PEFT, Format.MERGED):
        out = tmp_path / kind.value
        blobs = place.blobs
        own = GoldenJobFiles(blobs.dataset("text"), blobs.workspace("text").plan)
        manifest = run_export(order(place, out, format=kind, files=own, **told), lambda _: None)
        assert "vision" not in manifest and PROJECTOR_FILE not in manifest["files"]
    assert "It cannot read pictures yet" in (tmp_path / "merged" / "README.md").read_text()

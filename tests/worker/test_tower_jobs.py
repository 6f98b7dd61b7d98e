"""Jobs that train the vision tower, too: resumed to the same bits, certified, served, exported and gone on from."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
import torch

from kastor.dataset.formats.parse import decode_example
from kastor.dataset.validation.example_plan import decode_row
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.generation import ResolvedMedium
from kastor.domain.job import RequestedHyperparameters, State, StepMetrics, TuningJob
from kastor.export.golden import GoldenJobFiles
from kastor.export.request import Format
from kastor.export.run import run_export
from kastor.media.cache import MediaCache
from kastor.models.chat.families import NANO_VL
from kastor.models.chat.render import Renderer
from kastor.models.load import load_base
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.models.vision.specs import TOWER_FILE
from kastor.serving.builtin.picture_embeddings import PictureEmbedder
from kastor.worker.outcome import run_job
from kastor.worker.run import JobRunner
from kastor.worker.sql_lease import SqlJobLease
from support.export_requests import make_order
from support.films import Recipe, make_film, painted
from support.worker_environment import Place, adapter

TRAINED = ("adapter_model.safetensors", PROJECTOR_FILE, TOWER_FILE)
ASKED = RequestedHyperparameters(10, 2, 0.02)


def row(answer: str, *files: str) -> dict[str, object]:
    kinds = {"png": "image/png", "mp4": "video/mp4"}
    media = [{"fileData": {"mimeType": kinds[name.rsplit(".", 1)[1]], "fileUri": name}} for name in files]
    user = {"role": "user", "parts": [*media, {"text": "?"}]}
    return {"contents": [user, {"role": "model", "parts": [{"text": answer}]}]}


ROWS = [row("n", "0.png"), row("y", "1.png"), row("film", "film.mp4"), row("text")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A model, `job1`, whose tower was trained with it."""
    place = Place(tmp_path_factory.mktemp("place"), seeing=True)
    for number, shown in enumerate((0, 4095)):
        PIL.Image.fromarray(painted(shown, (64, 48))).save(place.media / f"{number}.png")
    make_film(place.media / "film.mp4", Recipe(num_frames=25, rate=10))
    place.add_file(ROWS, asked=ASKED, train_tower=True)
    assert place.work(place.claim()) == 0
    yield place
    place.database.close()


def base_tower(place: Place) -> Path:
    return place.settings.data_dir / "base" / TOWER_FILE


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest(place: Place, job_id: str = "job1") -> dict[str, object]:
    return dict(json.loads((place.blobs.adapter(job_id) / "manifest.json").read_text()))


def test_the_tower_is_part_of_what_is_published_and_no_features_are_kept(place: Place) -> None:
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    losses = [snapshot.mean_loss for snapshot in place.jobs.snapshots("job1")]
    assert losses[-1] < 0.7 * losses[0]
    own = place.blobs.adapter("job1") / TOWER_FILE
    assert sha256(own) != sha256(base_tower(place))
    assert manifest(place)["vision"] == {"tower": sha256(own), "preprocessing": 2}
    kept = place.settings.cache_dir / "features" / "objects"
    assert not [path for path in kept.rglob("*") if path.is_file()]
    said = "\n".join(event.message for event in place.jobs.events("job1"))
    assert "pictures: 5 of 5 pictures" in said and "served as trained" in said


class Stopping(SqlJobLease):
    """Is asked to stop after the third step."""

    def record(self, snapshot: StepMetrics) -> None:
        super().record(snapshot)
        if snapshot.step == 3:
            self._stopped.set()


def test_stopped_and_resumed_it_ends_with_the_same_bits(place: Place) -> None:
    place.add_file(ROWS, "stopped", asked=ASKED, train_tower=True)
    job = place.claim()
    ownership = Stopping(place.jobs, job, beat_every_s=1)
    assert (
        run_job(
            JobRunner(place.settings, job, place.blobs.workspace(job.id), ownership).run,
            ownership,
            place.settings.data_dir,
        )
        == 75
    )
    assert place.jobs.get("stopped").completed_steps == 3
    assert place.work(place.claim()) == 0
    assert place.jobs.get("stopped").state is State.SUCCEEDED, place.jobs.get("stopped").error
    for name in TRAINED:
        one, other = adapter(place, "job1", name), adapter(place, "stopped", name)
        assert all(torch.equal(one[key], other[key]) for key in one), name


def files(place: Place) -> GoldenJobFiles:
    return GoldenJobFiles(place.blobs.dataset("job1"), place.blobs.workspace("job1").plan)


def test_answers_see_with_the_tower_of_their_adapter(place: Place) -> None:
    assert NANO_VL.vision is not None
    base, cache = place.settings.data_dir / "base", place.settings.cache_dir
    model = load_base(base, dtype=torch.float32)
    stores = MediaCache(cache / "features"), MediaCache(cache / "frames")
    seeing = PictureEmbedder(model, NANO_VL.vision, base, *stores, place.blobs.verified_adapter, num_threads=1)
    example = decode_example(place.blobs.dataset("job1").read_bytes().splitlines()[1])
    planned = decode_row(place.blobs.workspace("job1").plan.read_bytes().splitlines()[1])
    rendered = Renderer.open(base, NANO_VL).example(example, planned.views(example))
    shown = {m: ResolvedMedium(p, place.media / m.uri, "contents[0]") for m, p in planned.by_media(example).items()}
    (tuned,) = seeing.embed(rendered.pictures, shown, AdapterRef("job1"))
    (plain,) = seeing.embed(rendered.pictures, shown, None)
    assert tuned.embeddings_NC.shape == plain.embeddings_NC.shape
    trained = sha256(place.blobs.adapter("job1") / TOWER_FILE)
    assert {tower.hash for tower in seeing._towers.values()} == {trained, sha256(base_tower(place))}
    (again,) = seeing.embed(rendered.pictures, shown, AdapterRef("job1"))
    assert torch.equal(again.embeddings_NC, tuned.embeddings_NC)
    (place.blobs.adapter("job1") / TOWER_FILE).rename(cache / TOWER_FILE)
    try:  # without it the projector is refused: it knows nothing of the base's tower
        unverified = lambda ref: place.blobs.adapter(ref.job_id)  # noqa: E731
        fresh = PictureEmbedder(model, NANO_VL.vision, base, *stores, unverified, num_threads=1)
        with pytest.raises(Exception, match="was trained on the vision tower"):
            fresh.embed(rendered.pictures, shown, AdapterRef("job1"))
    finally:
        (cache / TOWER_FILE).rename(place.blobs.adapter("job1") / TOWER_FILE)


@pytest.mark.parametrize("kind", [Format.PEFT, Format.MERGED])
def test_an_export_has_the_trained_tower(place: Place, tmp_path: Path, kind: Format) -> None:
    order = make_order(
        place.settings.data_dir,
        tmp_path / "out",
        format=kind,
        family="kastor-nano-vl",
        adapter=place.blobs.adapter("job1"),
        files=files(place),
        feature_cache=tmp_path / "features",
        media={
            medium.sha256: str(place.media / media.uri)
            for one in files(place).golden(place.blobs.adapter("job1"))
            if one.planned is not None
            for media, medium in one.planned.by_media(one.example).items()
        },
    )
    near = run_export(order, lambda _: None)["comparison"]
    assert near["rows"] == 4 and near["largestDifference"] < 1e-3
    assert sha256(tmp_path / "out" / TOWER_FILE) == sha256(place.blobs.adapter("job1") / TOWER_FILE)


def test_tuning_on_it_takes_its_tower_along_frozen_or_trains_it_on(place: Place) -> None:
    own = sha256(place.blobs.adapter("job1") / TOWER_FILE)
    asked = RequestedHyperparameters(1, 4, 1e-3)
    place.add_file(ROWS, "frozen", asked=asked, on="job1")
    place.add_file(ROWS, "further", asked=asked, on="job1", train_tower=True)
    for _ in range(2):
        assert place.work(place.claim()) == 0
    for job_id in ("frozen", "further"):
        assert place.jobs.get(job_id).state is State.SUCCEEDED, place.jobs.get(job_id).error
        found = sha256(place.blobs.adapter(job_id) / TOWER_FILE)
        assert (found == own) is (job_id == "frozen")
        assert manifest(place, job_id)["vision"] == {"tower": found, "preprocessing": 2}


def test_where_no_row_shows_a_picture_there_is_nothing_to_train_a_tower_on(place: Place) -> None:
    place.add_file([row("a"), row("b")], "blind", train_tower=True)
    place.work(place.claim())
    job: TuningJob = place.jobs.get("blind")
    assert job.state is State.FAILED and job.error is not None
    assert "trainTower" in job.error.message and "shows a picture" in job.error.message

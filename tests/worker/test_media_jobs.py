"""Jobs on images and videos: looked at once, trained on, and resumed to the same bits wherever they were killed."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from kastor.domain.job import RequestedHyperparameters, State, TuningJob
from kastor.executors.local import LocalExecutor
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.settings import environment
from support.films import Recipe, make_film, make_torn_film, painted
from support.polling import wait_until
from support.worker_environment import Place, adapter, run_until, scheduler_of

TRAINED = ("adapter_model.safetensors", PROJECTOR_FILE)


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, seeing=True)
    yield place
    place.database.close()


def picture(place: Place, number: int, size: tuple[int, int] = (64, 48)) -> str:
    name = f"{number}.png"
    PIL.Image.fromarray(painted(number, size, noise=size[0] < 1000)).save(place.media / name)
    return name


def row(answer: str, *files: str) -> dict[str, object]:
    kind = {"png": "image/png", "jpg": "image/jpeg", "mp4": "video/mp4", "pdf": "application/pdf"}
    media = [{"fileData": {"mimeType": kind[name.rsplit(".", 1)[1]], "fileUri": name}} for name in files]
    return {
        "contents": [
            {"role": "user", "parts": [*media, {"text": "?"}]},
            {"role": "model", "parts": [{"text": answer}]},
        ]
    }


def text_row(number: int) -> dict[str, object]:
    return row(str(number + 1)) | {"systemInstruction": {"parts": [{"text": "Count."}]}}


def said(place: Place, job_id: str = "job1") -> str:
    return "\n".join(event.message for event in place.jobs.events(job_id))


def torn(place: Place) -> str:
    """A film whose file is whole, and whose last frame cannot be decoded."""
    return make_torn_film(place.media / "torn.mp4").name


def test_twenty_steps_overfit_what_only_the_pictures_tell(place: Place) -> None:
    one, other = picture(place, 0), picture(place, 4095)
    for job_id, second in (("seeing", other), ("blind", one)):
        asked = RequestedHyperparameters(20, 2, 0.02)
        place.add_file([row("n", one), row("y", second)], job_id, asked=asked)
        assert place.work(place.claim()) == 0
        job = place.jobs.get(job_id)
        assert job.state is State.SUCCEEDED, job.error
    seeing, blind = ([s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in ("seeing", "blind"))
    assert len(seeing) == 20
    assert seeing[-1] < 0.2 * seeing[0]
    assert seeing[-1] < 0.6 * blind[-1]  # one picture with two answers can only be guessed at
    assert "features: 2 of 2 pictures" in said(place, "seeing")
    assert {"outer.weight", "inner.weight", "mean_C"} <= adapter(place, "seeing", PROJECTOR_FILE).keys()
    manifest = json.loads((place.blobs.adapter("seeing") / "manifest.json").read_text())
    assert PROJECTOR_FILE in manifest["files"]
    assert len(manifest["vision"]["tower"]) == 64


def test_images_videos_pages_and_text_are_trained_on_together(place: Place) -> None:
    make_film(place.media / "film.mp4", Recipe(num_frames=25, rate=10))
    pages = [PIL.Image.fromarray(painted(number, (128, 96))) for number in (5, 6)]
    pages[0].save(place.media / "pages.pdf", save_all=True, append_images=pages[1:])
    place.add_file(
        [
            row("a", "film.mp4"),
            row("b", picture(place, 1), picture(place, 2)),
            row("c", "pages.pdf"),
            row("d", "film.mp4"),
            *[text_row(number) for number in range(4)],
        ]
    )
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    assert job.spec.num_examples == 8
    # three frames of the film, though two rows show it, two pictures, two pages
    assert "features: 7 of 7 pictures" in said(place)
    assert len([path for path in (place.settings.cache_dir / "features" / "objects").rglob("*") if path.is_file()]) == 4


def test_a_second_job_on_the_same_media_looks_at_nothing(place: Place) -> None:
    rows = [row(str(number), picture(place, number)) for number in range(4)]
    for job_id in ("job1", "job2"):
        place.add_file(rows, job_id)
        assert place.work(place.claim()) == 0
        assert place.jobs.get(job_id).state is State.SUCCEEDED
    assert "features: 4 of 4" in said(place)
    assert "features" not in said(place, "job2")
    for name in TRAINED:
        one, other = adapter(place, "job1", name), adapter(place, "job2", name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_picture_that_turns_out_bad_costs_its_rows_and_is_said_and_counted(place: Place) -> None:
    good = [row(str(number), picture(place, number)) for number in range(6)]
    bad = torn(place)
    place.add_file([good[0], row("x", bad), *good[1:], row("y", picture(place, 7), bad)])
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    assert job.spec.num_examples == 8
    assert job.completed_steps == job.spec.total_steps == 4  # as was settled
    assert "2 examples left out whose media turned out bad when they were decoded" in said(place)
    assert "(2 frame_corrupt): lines 2, 8; 6 are trained on" in said(place)
    report = json.loads(place.blobs.report("job1").read_bytes())
    assert (report["rows"], report["accepted"], report["dropped"]) == (8, 6, 2)
    assert [left["line"] for left in report["leftOut"]] == [2, 8]
    assert report["droppedByRule"] == {"frame_corrupt": 2}


@pytest.mark.parametrize(
    ("profile", "words"), [("vertex-gemini-2.5", "25.0% of the rows, more than 10%"), ("open", "")]
)
def test_too_many_bad_ones_end_the_job_with_the_first_of_them(place: Place, profile: str, words: str) -> None:
    rows = [row(str(number), picture(place, number)) for number in range(3 if words else 0)]
    place.add_file([*rows, row("x", torn(place))], profile=profile)
    place.work(place.claim())
    job = place.jobs.get("job1")
    assert job.state is State.FAILED and job.error is not None
    assert (words or "which leaves none") in job.error.message
    assert f"The first is line {len(rows) + 1}: A frame to be sampled is damaged" in job.error.message
    assert job.completed_steps == 0


def judged(place: Place) -> TuningJob:
    """The claimed job, its dataset file judged and nothing more done."""
    job = place.claim()
    place.validate_dataset(job)
    return place.jobs.get("job1")


def test_a_picture_that_changed_or_went_since_it_was_judged_is_not_trained_on(place: Place) -> None:
    names = [picture(place, number) for number in range(6)]
    place.add_file([row(str(number), name) for number, name in enumerate(names)])
    job = judged(place)
    picture(place, 4, size=(96, 96))
    (place.media / names[2]).unlink()
    assert place.work(job) == 0
    ended = place.jobs.get("job1")
    assert ended.state is State.SUCCEEDED, ended.error
    assert "1 media_not_found" in said(place) and "1 media_changed" in said(place)
    assert "lines 3, 5; 4 are trained on" in said(place)


def test_a_changed_sampling_record_is_not_put_into_the_adapter_and_named(place: Place) -> None:
    place.add_file([row(str(number), picture(place, number)) for number in range(4)])
    job, record = judged(place), place.blobs.workspace("job1").sampling
    record.write_bytes(record.read_bytes().replace(b'"usual"', b'"usuaI"', 1))
    assert place.work(job) == 0
    error = place.jobs.get("job1").error
    assert error is not None
    assert error.message.startswith("The sampling.json of job job1 is missing, damaged or was changed")
    assert not place.blobs.adapter("job1").exists()


def test_a_cancel_is_obeyed_while_looking_and_what_was_looked_at_stays(place: Place) -> None:
    rows = [row(str(number), picture(place, number, size=(2400, 1600))) for number in range(24)]
    place.add_file(rows)
    stored = place.settings.cache_dir / "features" / "objects"
    scheduler = scheduler_of(place, LocalExecutor(environment(place.settings), place.blobs))
    try:
        scheduler.step()
        wait_until(lambda: len(list(stored.rglob("?" * 64))) >= 2, timeout_s=60)
        place.jobs.request_cancel("job1", at=datetime.now(UTC))
        run_until(place, scheduler, "job1")
    finally:
        scheduler.shutdown()
    assert place.jobs.get("job1").state is State.CANCELLED
    num_stored = len(list(stored.rglob("?" * 64)))
    assert 2 <= num_stored < 24
    place.add_file(rows, "job2")
    assert place.work(place.claim()) == 0
    assert f"features: {24 - num_stored} pictures to be looked at" in said(place, "job2")


def test_tuning_on_a_tuned_model_goes_on_from_its_projector(place: Place) -> None:
    rows = [row(str(number), picture(place, number)) for number in range(4)]
    place.add_file(rows)
    place.work(place.claim())
    place.add_file(rows, "job2", asked=RequestedHyperparameters(1, 4, 1e-12), on="job1")
    place.add_file([text_row(number) for number in range(4)], "job3", on="job1")
    for job_id in ("job2", "job3"):
        assert place.work(place.claim()) == 0
        job = place.jobs.get(job_id)
        assert job.state is State.SUCCEEDED, job.error
        one, other = adapter(place, "job1", PROJECTOR_FILE), adapter(place, job_id, PROJECTOR_FILE)
        assert all(torch.allclose(one[name], other[name], atol=1e-8) for name in one)
        kept = [
            json.loads((place.blobs.adapter(one) / "manifest.json").read_text())["vision"] for one in ("job1", job_id)
        ]
        assert kept[0] == kept[1]  # what the projector was trained on: answers about pictures ask for it
    losses = [place.jobs.snapshots(job)[step].mean_loss for job, step in (("job1", 0), ("job2", 0))]
    assert losses[1] < losses[0]


def killed_when(place: Place, rows: list[object], moment: str) -> None:
    """Run the job in a process of its own, which is killed once when `moment` has come."""
    place.add_file(rows, "killed", asked=RequestedHyperparameters(4, 4, 0.01))
    stored = place.settings.cache_dir / "features" / "objects"
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = scheduler_of(place, executor)
    try:
        scheduler.step()
        deadline = time.monotonic() + 60
        while True:
            job = place.jobs.get("killed")
            assert job.state.active and time.monotonic() < deadline, (
                job,
                place.blobs.log("killed").read_text()[-3000:],
            )
            if moment == "features" and len(list(stored.rglob("?" * 64))) >= 5:
                break
            if moment == "training" and job.completed_steps >= 7:
                break
            time.sleep(0.002)
        executor.kill("killed")  # SIGKILL
        assert place.jobs.get("killed").completed_steps == 0 or moment == "training"
        run_until(place, scheduler, "killed")
    finally:
        scheduler.shutdown()


@pytest.mark.parametrize("moment", ["features", "training"])
def test_killed_while_looking_or_training_a_job_ends_with_the_same_bits(place: Place, moment: str) -> None:
    rows: list[object] = [row(str(number), picture(place, number)) for number in range(20)]
    rows.append(row("x", torn(place)))
    killed_when(place, rows, moment)
    job = place.jobs.get("killed")
    assert job.state is State.SUCCEEDED, job.error
    assert (job.deaths, job.attempt, job.spec.num_examples) == (0, 2, 21)
    shutil.rmtree(place.settings.cache_dir / "features")
    place.add_file(rows, "through", asked=RequestedHyperparameters(4, 4, 0.01))
    assert place.work(place.claim()) == 0
    for name in TRAINED:
        one, other = adapter(place, "through", name), adapter(place, "killed", name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    losses = [[s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in ("through", "killed")]
    assert losses[0] == losses[1]
    assert np.isfinite(losses).all()

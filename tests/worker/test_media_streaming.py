"""Training goes on while media are looked at; what is found out meanwhile changes no bit of how a job ends."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import PIL.Image
import pytest
import torch

from kastor.domain.errors import Code
from kastor.domain.job import RequestedHyperparameters, State, TuningJob
from kastor.domain.media import FrameSampling, Resampling
from kastor.executors.local import LocalExecutor
from kastor.media.cache import MediaCache
from kastor.media.frame_store import frames_key
from kastor.media.probe import plan
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.settings import environment
from kastor.training.packing import epoch_order
from kastor.worker.pipeline.cache_policy import CacheDecision, FeatureCost
from support.films import Recipe, make_film, make_torn_film, painted
from support.polling import wait_until
from support.worker_environment import Place, adapter, run_until, scheduler_of

TRAINED = ("adapter_model.safetensors", PROJECTOR_FILE)
NUM_ROWS = 12
TWICE = RequestedHyperparameters(2, 4, 0.01)
LOW = (256, 256)


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, seeing=True)
    yield place
    place.database.close()


def picture(place: Place, number: int) -> str:
    # two more, as the first and the last of twelve would share one of the cache's 256 locks otherwise
    PIL.Image.fromarray(painted(number + 2, (64, 48), noise=True)).save(place.media / f"{number}.png")
    return f"{number}.png"


def torn(place: Place) -> str:
    """A film whose file is whole, and whose last frame cannot be decoded."""
    return make_torn_film(place.media / "torn.mp4").name


def row(answer: str, name: str) -> dict[str, object]:
    kind = "video/mp4" if name.endswith("mp4") else "image/png"
    media = {"fileData": {"mimeType": kind, "fileUri": name}}
    return {
        "contents": [
            {"role": "user", "parts": [media, {"text": "?"}]},
            {"role": "model", "parts": [{"text": answer}]},
        ]
    }


def some_rows(place: Place, *, last: str = "") -> list[object]:
    """Rows of one picture each; the one that is trained on last shows `last`, if that is given."""
    names = [picture(place, number) for number in range(NUM_ROWS)]
    if last:
        names[last_needed()] = last
    return [row(str(number), name) for number, name in enumerate(names)]


def last_needed() -> int:
    return int(epoch_order(0, 0, NUM_ROWS)[-1])


def said(place: Place, job_id: str = "job1") -> str:
    return "\n".join(event.message for event in place.jobs.events(job_id))


@contextmanager
def busy(place: Place, name: str) -> Iterator[None]:
    """Somebody else is decoding the medium for as long as the block lasts."""
    sha256 = hashlib.sha256((place.media / name).read_bytes()).hexdigest()
    shown = list(plan(place.media / name, FrameSampling()).plan.pts) if name.endswith("mp4") else [0]
    key = frames_key(sha256, shown, [LOW] * len(shown), Resampling.BICUBIC)
    with MediaCache(place.settings.cache_dir / "frames").fetching(key):
        yield


def tuned_before(place: Place) -> None:
    """A tuned model to go on from: its projector is there, so that a job on it begins with its first step's media."""
    place.add_file(
        [row(str(number), picture(place, 100 + number)) for number in range(4)],
        "before",
        asked=RequestedHyperparameters(1, 4, 0.01),
    )
    assert place.work(place.claim()) == 0
    assert place.jobs.get("before").state is State.SUCCEEDED, place.jobs.get("before").error


def same_bits(place: Place, one: str, other: str) -> None:
    for name in TRAINED:
        first, second = adapter(place, one, name), adapter(place, other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    losses = [[s.mean_loss for s in place.jobs.snapshots(job_id)] for job_id in (one, other)]
    assert losses[0] == losses[1]


def succeeded(place: Place, job_id: str) -> TuningJob:
    job = place.jobs.get(job_id)
    assert job.state is State.SUCCEEDED, job.error
    return job


def test_training_goes_on_until_the_step_that_needs_what_is_missing_and_a_bad_one_costs_its_row(place: Place) -> None:
    tuned_before(place)
    rows = some_rows(place, last=torn(place))
    place.add_file(rows, "job1", asked=TWICE, on="before")
    job = place.claim()
    with busy(place, "torn.mp4"):
        worker = threading.Thread(target=place.work, args=(job,))
        worker.start()
        wait_until(lambda: place.jobs.get("job1").completed_steps == 2, timeout_s=60)
        assert "left out" not in said(place)
    worker.join(60)
    job = succeeded(place, "job1")
    assert (job.spec.num_examples, job.completed_steps, job.spec.total_steps) == (12, 6, 6)
    assert f"(1 frame_corrupt): lines {last_needed() + 1}; 11 are trained on" in said(place)
    report = json.loads(place.blobs.report("job1").read_bytes())
    assert (report["accepted"], report["dropped"]) == (11, 1)
    assert [s.num_supervised for s in place.jobs.snapshots("job1")][2] < 8  # three rows instead of four
    place.add_file(rows, "job2", asked=TWICE, on="before")
    assert place.work(place.claim()) == 0
    same_bits(place, "job1", "job2")


def test_rows_of_text_are_trained_on_though_every_medium_is_bad(place: Place) -> None:
    texts: list[object] = [
        {"contents": [{"role": r, "parts": [{"text": t}]} for r, t in (("user", f"{n}?"), ("model", str(n)))]}
        for n in range(4)
    ]
    place.add_file([row("x", torn(place)), *texts], "job1", asked=RequestedHyperparameters(2, 2, 0.01))
    assert place.work(place.claim()) == 0
    assert succeeded(place, "job1").completed_steps == 5
    assert "(1 frame_corrupt): lines 1; 4 are trained on" in said(place)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_ended_in_the_midst_of_looking_and_resumed_a_job_ends_with_the_same_bits(place: Place, how: str) -> None:
    tuned_before(place)
    rows = some_rows(place, last=torn(place))
    place.add_file(rows, "job1", asked=TWICE, on="before")
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = scheduler_of(place, executor)
    try:
        with busy(place, "torn.mp4"):
            scheduler.step()
            wait_until(lambda: place.jobs.get("job1").completed_steps == 2, timeout_s=60)
            if how == "killed":
                executor.kill("job1")
            else:
                scheduler.shutdown()
                assert place.jobs.get("job1").state is State.QUEUED
                assert "step-000002" in [path.name for path in place.blobs.checkpoints("job1").iterdir()]
                scheduler = scheduler_of(place, LocalExecutor(environment(place.settings), place.blobs))
        run_until(place, scheduler, "job1")
    finally:
        scheduler.shutdown()
    assert succeeded(place, "job1").attempt == 2
    place.add_file(rows, "job2", asked=TWICE, on="before")
    assert place.work(place.claim()) == 0
    same_bits(place, "job1", "job2")


def test_a_cancel_is_obeyed_while_training_waits_for_a_medium(place: Place) -> None:
    tuned_before(place)
    place.add_file(some_rows(place), "job1", asked=TWICE, on="before")
    scheduler = scheduler_of(place, LocalExecutor(environment(place.settings), place.blobs))
    try:
        with busy(place, f"{last_needed()}.png"):
            scheduler.step()
            wait_until(lambda: place.jobs.get("job1").completed_steps == 2, timeout_s=60)
            place.jobs.request_cancel("job1", at=datetime.now(UTC))
            run_until(place, scheduler, "job1")
    finally:
        scheduler.shutdown()
    assert place.jobs.get("job1").state is State.CANCELLED


def test_too_many_bad_ones_end_a_job_that_is_training(place: Place) -> None:
    tuned_before(place)
    rows = some_rows(place, last=torn(place))
    rows[int(epoch_order(0, 0, NUM_ROWS)[-2])] = row("x", "torn.mp4")
    place.add_file(rows, "job1", asked=TWICE, on="before", profile="vertex-gemini-2.5")
    job = place.claim()
    with busy(place, "torn.mp4"):
        worker = threading.Thread(target=place.work, args=(job,))
        worker.start()
        wait_until(lambda: place.jobs.get("job1").completed_steps == 2, timeout_s=60)
    worker.join(60)
    job = place.jobs.get("job1")
    assert job.state is State.FAILED and job.error is not None
    assert job.error.code is Code.INVALID_ARGUMENT
    assert "16.7% of the rows, more than 10%" in job.error.message


def test_a_medium_that_went_after_it_was_trained_on_ends_a_resumed_job(place: Place) -> None:
    rows = some_rows(place)
    place.add_file(rows, "job1", asked=TWICE)
    assert place.work(place.claim()) == 0
    place.add_file(rows, "job2", asked=TWICE)
    job = place.claim()
    place.validate_dataset(job)
    done = place.blobs.checkpoints("job1")
    place.blobs.checkpoints("job2").mkdir()
    epoch_ends = sorted(done.iterdir())
    shutil.copytree(epoch_ends[-1], place.blobs.checkpoints("job2") / "step-000003")
    for folder in ("features", "frames"):
        shutil.rmtree(place.settings.cache_dir / folder)
    (place.media / "1.png").unlink()
    assert place.work(place.jobs.get("job2")) == 0
    ended = place.jobs.get("job2")
    assert ended.state is State.FAILED and ended.error is not None
    assert "that this job was begun with" in ended.error.message
    assert "'1.png' does not exist" in ended.error.message


def judged(place: Place, job_id: str) -> TuningJob:
    """The claimed job, its dataset file judged and nothing more done."""
    job = place.claim()
    place.validate_dataset(job)
    return place.jobs.get(job_id)


def test_what_one_job_decoded_another_decodes_no_more_even_for_another_tower(place: Place) -> None:
    rows = some_rows(place)
    place.add_file(rows, "job1", asked=TWICE)
    assert place.work(place.claim()) == 0
    shutil.rmtree(place.settings.cache_dir / "features")  # as if another tower were to look
    place.add_file(rows, "job2", asked=TWICE)
    job = judged(place, "job2")
    for number in range(NUM_ROWS):
        (place.media / f"{number}.png").unlink()
    assert place.work(job) == 0
    succeeded(place, "job2")
    assert "features: 12 of 12 pictures" in said(place, "job2")
    same_bits(place, "job1", "job2")


def test_killed_between_writing_down_what_is_left_out_and_counting_it_a_job_counts_it_when_resumed(
    place: Place,
) -> None:
    rows = some_rows(place, last=torn(place))
    place.add_file(rows, "job1", asked=TWICE)
    assert place.work(place.claim()) == 0
    succeeded(place, "job1")
    place.add_file(rows, "job2", asked=TWICE)
    job = judged(place, "job2")
    shutil.copy(place.blobs.workspace("job1").unreadable_rows, place.blobs.workspace("job2").unreadable_rows)
    make_film(
        place.media / "torn.mp4", Recipe(num_frames=2, rate=1)
    )  # what was left out stays so: training may have begun without it
    assert place.work(job) == 0
    succeeded(place, "job2")
    first, second = (json.loads(place.blobs.report(job_id).read_bytes()) for job_id in ("job1", "job2"))
    assert first | {"file": ""} == second | {"file": ""}
    assert second["dropped"] == 1
    same_bits(place, "job1", "job2")


@pytest.mark.parametrize("folder", ["features", "frames"])
def test_what_was_kept_and_changed_on_the_disk_is_made_again_to_the_same_bits_and_said(
    place: Place, folder: str
) -> None:
    rows = some_rows(place)
    place.add_file(rows, "job1", asked=TWICE)
    assert place.work(place.claim()) == 0
    kept = place.settings.cache_dir
    for path in (kept / folder / "objects").rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[-7] ^= 0x40
            path.chmod(0o600)
            path.write_bytes(content)
    if folder == "frames":
        shutil.rmtree(kept / "features")
    place.add_file(rows, "job2", asked=TWICE)
    assert place.work(place.claim()) == 0
    succeeded(place, "job2")
    assert said(place, "job2").count(f"in the cache of {folder} was damaged") == NUM_ROWS
    same_bits(place, "job1", "job2")


def unkept() -> CacheDecision:
    return CacheDecision.by_rule(FeatureCost(1.0, 2.0, 1 << 20), num_reads=2, num_pictures=12, room_bytes=1 << 40)


def num_stored(place: Place, folder: str) -> int:
    return sum(path.is_file() for path in (place.settings.cache_dir / folder / "objects").rglob("*"))


def test_features_that_are_not_worth_their_bytes_are_made_again_at_each_step_to_the_same_bits(place: Place) -> None:
    rows = some_rows(place)
    place.add_file(rows, "job1", asked=TWICE)
    place.blobs.workspace("job1").features.write_bytes(unkept().encoded())
    assert place.work(place.claim()) == 0
    succeeded(place, "job1")
    assert num_stored(place, "features") == 0
    assert num_stored(place, "frames") == NUM_ROWS
    place.add_file(rows, "job2", asked=TWICE)
    assert place.work(place.claim()) == 0
    same_bits(place, "job1", "job2")
    choice = CacheDecision.decoded(json.loads(place.blobs.workspace("job2").features.read_bytes()))
    assert (choice.num_pictures, choice.num_reads) == (12, 2)
    assert choice.measured.num_bytes == 64 * 12 * 2  # tokens, channels, half precision
    assert choice.said in said(place, "job2")


@pytest.mark.parametrize(
    ("small", "words"),
    [
        ({"frame_cache_bytes": 1000}, ["decoded pictures are not kept"]),
        ({"feature_cache_bytes": 1000}, ["features are not kept"]),
        ({"frame_cache_bytes": 1000, "feature_cache_bytes": 1000}, ["decoded pictures are not", "features are not"]),
    ],
)
def test_caches_too_small_cost_time_and_no_bit(place: Place, small: dict[str, int], words: list[str]) -> None:
    rows = some_rows(place)
    place.add_file(rows, "job1", asked=TWICE)
    assert place.work(place.claim()) == 0
    shutil.rmtree(place.settings.cache_dir)
    place.settings = place.settings.model_copy(update=small)
    place.add_file(rows, "job2", asked=TWICE)
    assert place.work(place.claim()) == 0
    succeeded(place, "job2")
    for one in words:
        assert said(place, "job2").count(one) == 1
    same_bits(place, "job1", "job2")

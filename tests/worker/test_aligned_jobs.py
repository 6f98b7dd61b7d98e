"""A job on pictures that tell of their answers begins with what they tell, and is resumed and served as trained."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from kastor.domain.job import RequestedHyperparameters, State
from kastor.executors.local import LocalExecutor
from kastor.models.chat.render import RenderedExample
from kastor.models.vision.projector import PROJECTOR_FILE
from kastor.settings import environment
from kastor.training.projector_init import MIN_OBSERVATIONS, collect_observations
from kastor.worker import vision_setup
from support.films import Recipe, make_film
from support.polling import wait_until
from support.worker_environment import Place, adapter, run_until, scheduler_of

NUM_ROWS = MIN_OBSERVATIONS + 8


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, seeing=True)
    yield place
    place.database.close()


def rows(place: Place, num_rows: int, *, telling: bool = True) -> list[object]:
    """Dark and bright noise, each with its own answer; or with either."""
    made: list[object] = []
    for number in range(num_rows):
        random = np.random.default_rng(number)
        bright = number % 2
        pixels = random.integers(0, 100, (64, 64, 3)) + 150 * bright
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(place.media / f"{number}.png")
        answer = "yes" if (bright if telling else number % 4 < 2) else "no"
        media = {"fileData": {"mimeType": "image/png", "fileUri": f"{number}.png"}}
        asked = {"role": "user", "parts": [media, {"text": "?"}]}
        made.append({"contents": [asked, {"role": "model", "parts": [{"text": answer}]}]})
    return made


def aligned(place: Place, job_id: str = "job1") -> torch.Tensor:
    assert place.jobs.get(job_id).state is State.SUCCEEDED, place.jobs.get(job_id).error
    return adapter(place, job_id, PROJECTOR_FILE)["aligned_CW"]


def test_what_pictures_tell_of_answers_is_there_before_the_first_step_and_certified(place: Place) -> None:
    place.add_file(rows(place, NUM_ROWS), "job1", asked=RequestedHyperparameters(1, 8, 0.001))
    assert place.work(place.claim()) == 0
    assert aligned(place).any()
    assert "pictures tell" in "\n".join(event.message for event in place.jobs.events("job1"))
    assert json.loads((place.blobs.adapter("job1") / "certificate.json").read_text())


@pytest.mark.parametrize("why", ["too few", "nothing to tell"])
def test_where_pictures_tell_nothing_a_job_begins_without(place: Place, why: str) -> None:
    given = rows(place, MIN_OBSERVATIONS - 2) if why == "too few" else rows(place, NUM_ROWS, telling=False)
    place.add_file(given, "job1", asked=RequestedHyperparameters(1, 8, 0.001))
    assert place.work(place.claim()) == 0
    assert not aligned(place).any()
    assert "begins at random" in "\n".join(event.message for event in place.jobs.events("job1"))


def test_random_layers_begin_small_beside_what_single_pictures_tell_and_in_full_for_films(place: Place) -> None:
    place.add_file(rows(place, NUM_ROWS), "job1", asked=RequestedHyperparameters(1, 8, 0.001))
    make_film(place.media / "film.mp4", Recipe(num_frames=2 * NUM_ROWS + 2, rate=1))  # frame by frame, a number in bits
    film = {"mimeType": "video/mp4", "fileUri": "film.mp4"}
    asked: list[object] = []
    for second in range(0, 2 * NUM_ROWS, 2):
        segment = {"fileData": film, "videoMetadata": {"startOffset": f"{second}s", "endOffset": f"{second + 2}s"}}
        answer = {"role": "model", "parts": [{"text": "yes" if second & 8 else "no"}]}
        asked.append({"contents": [{"role": "user", "parts": [segment, {"text": "?"}]}, answer]})
    place.add_file(asked, "job2", asked=RequestedHyperparameters(1, 8, 0.001))
    assert [place.work(place.claim()) for _ in range(2)] == [0, 0]
    assert aligned(place).any() and aligned(place, "job2").any()
    sizes = [float(adapter(place, job, PROJECTOR_FILE)["scale"]) for job in ("job1", "job2")]
    table = load_file(place.settings.data_dir / "base" / "model.safetensors")["model.embed_tokens.weight"]
    # the worker measures the table in the dtype that it trains in: bf16 rounds a value by 2**-8 of itself at most
    assert sizes == pytest.approx([vision_setup.BESIDE * float(table.std()), float(table.std())], rel=2**-8)


def test_of_many_rows_about_few_pictures_only_some_are_read_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_setup, "LOOKED_AT", 50)
    asked_of: list[int] = []

    def watched(examples: Sequence[RenderedExample], *rest: Any) -> Any:
        asked_of.append(len(examples))
        return collect_observations(examples, *rest)

    monkeypatch.setattr(vision_setup, "collect_observations", watched)
    text = {"contents": [{"role": r, "parts": [{"text": "?"}]} for r in ("user", "model")]}
    place.add_file([*rows(place, NUM_ROWS) * 3, *[text] * 40], "job1", asked=RequestedHyperparameters(1, 80, 0.001))
    assert place.work(place.claim()) == 0
    assert aligned(place).any()
    assert asked_of == [50]


def test_killed_and_resumed_a_job_ends_with_the_same_bits(place: Place) -> None:
    given, asked = rows(place, NUM_ROWS), RequestedHyperparameters(12, 8, 0.001)
    place.add_file(given, "job1", asked=asked)
    executor = LocalExecutor(environment(place.settings), place.blobs)
    scheduler = scheduler_of(place, executor)
    try:
        scheduler.step()
        wait_until(lambda: place.jobs.get("job1").completed_steps > 6, timeout_s=60)
        executor.kill("job1")
        run_until(place, scheduler, "job1")
    finally:
        scheduler.shutdown()
    assert place.jobs.get("job1").attempt == 2
    assert "going on from the checkpoint of step" in "\n".join(e.message for e in place.jobs.events("job1"))
    place.add_file(given, "job2", asked=asked)
    assert place.work(place.claim()) == 0
    assert aligned(place, "job1").any()
    for name in ("adapter_model.safetensors", PROJECTOR_FILE):
        one, other = adapter(place, "job1", name), adapter(place, "job2", name)
        assert all(torch.equal(one[key], other[key]) for key in one), name

"""A tuned model is shown media as it was when it was tuned: resolution, frames a second, and the very same frames."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.media.plan_codec import decode_medium, encode_medium
from kastor.dataset.media.sampling_record import SAMPLING_FILE, SamplingRecord, encode_sampling, versions
from kastor.domain.content import Media, Prompt, Resolution
from kastor.domain.errors import FailedPrecondition
from kastor.domain.generation import ResolvedMedia
from kastor.domain.job import RequestedHyperparameters, State
from kastor.domain.media import MediaKind, Probe
from kastor.domain.request_limits import OPEN
from kastor.media.cache import CachedFile, MediaCache
from kastor.models.chat.families import NANO_VL
from kastor.models.vision.media_frames import medium_frames_key
from kastor.services.media_inspector import LocalMediaInspector
from kastor.services.prompt_media import PromptMediaResolver
from kastor.services.sampling_records import SamplingRecordCache
from support.films import Recipe, make_film
from support.prompt_media import ADA, make_picture, make_video, no_uploads, prompt_of, shown_in
from support.worker_environment import Place

VISION = NANO_VL.vision
assert VISION is not None


def asked_of(folder: Path, prompt: Prompt, trained: SamplingRecord | None) -> ResolvedMedia:
    """What a model that was so trained is shown of the prompt's media."""
    sights = PromptMediaResolver(LocalMediaInspector(MediaCache(folder / "cache" / "media"), [folder]), no_uploads)
    return sights.resolve(prompt, VISION, "models/tiny", ADA, OPEN, lambda: trained)


def written(folder: Path, *prompts: Prompt) -> SamplingRecord:
    """The file of a model that was trained on the media of these prompts, read back."""
    media = [(one, shown.planned) for prompt in prompts for one, shown in shown_in(folder, prompt, NANO_VL).items()]
    return SamplingRecord.decoded(b"".join(encode_sampling(media)), SAMPLING_FILE)


def test_what_a_request_leaves_open_is_as_it_was_in_training_and_what_it_names_is_not(tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4", fps=2.0)
    finer = Resolution.MEDIUM
    trained = written(tmp_path, prompt_of(film, resolution=finer), prompt_of(make_picture(tmp_path / "a.png", 1)))
    assert (trained.resolution, trained.fps) == (finer, 2.0)
    other = Media("video/mp4", str(make_film(tmp_path / "other.mp4", Recipe(size=(80, 64)))))
    (plain,) = asked_of(tmp_path, prompt_of(other), trained).values()
    assert plain.planned.view.resolution is finer
    assert plain.planned.view.num_pictures == 5  # 2.5 s
    named = prompt_of(replace(other, fps=1.0), resolution=Resolution.LOW)
    (asked,) = asked_of(tmp_path, named, trained).values()
    assert asked.planned.view.resolution is Resolution.LOW
    assert asked.planned.view.num_pictures == 3
    (base,) = asked_of(tmp_path, prompt_of(other), None).values()
    assert (base.planned.view.resolution, base.planned.view.num_pictures) == (Resolution.LOW, 3)


def test_a_video_that_was_trained_on_is_shown_by_the_frames_of_then_whatever_it_is_called(tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4")
    trained = written(tmp_path, prompt_of(film))
    ((key, plan),) = trained.plans.items()
    moved = replace(plan, pts=tuple(sorted(plan.pts[:1] + plan.pts[:2])))  # as an earlier rule might have chosen
    trained = replace(trained, plans={key: moved})
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(Path(film.uri).read_bytes())
    (shown,) = asked_of(tmp_path, prompt_of(replace(film, uri=str(copy))), trained).values()
    assert shown.planned.frames == moved
    (segment,) = asked_of(tmp_path, prompt_of(replace(film, end_s=1.0)), trained).values()
    assert segment.planned.frames is not None and segment.planned.frames != moved
    assert segment.planned.view.num_pictures == 1


def test_a_model_of_the_first_rules_is_shown_what_it_was_tuned_on_and_new_media_by_shapes_of_then(
    tmp_path: Path,
) -> None:
    film = Media("video/mp4", str(make_film(tmp_path / "film.mp4", Recipe(aspect=Fraction(3, 2)))))
    media = shown_in(tmp_path, prompt_of(film), NANO_VL)
    held = json.loads(b"".join(encode_sampling([(one, shown.planned) for one, shown in media.items()])))
    held["versions"] |= {"sampling": "1", "scaling": "1"}
    held["media"][0]["video"]["pts"][1] += 2  # the nearest frame, say, and not the one on the screen
    trained = SamplingRecord.decoded(json.dumps(held).encode(), SAMPLING_FILE)
    (shown,) = asked_of(tmp_path, prompt_of(film), trained).values()
    assert shown.planned.frames is not None
    assert list(shown.planned.frames.pts) == held["media"][0]["video"]["pts"]
    assert decode_medium(encode_medium(shown.planned)).scaling == shown.planned.scaling == 1
    names = [medium_frames_key(replace(shown.planned, scaling=scaling), VISION) for scaling in (0, 1)]
    assert names[0] != names[1]
    seen = InspectedMedium(CachedFile(tmp_path / "x", "00", 1), Probe(MediaKind.VIDEO, "mp4", 1, width=96, height=48))
    wide = replace(seen, probe=replace(seen.probe, stored_size=(64, 48)))
    assert trained.replayed(wide, film).probe.width == 64
    assert SamplingRecord().replayed(wide, film).probe.width == 96


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held["versions"].update(sampling="0"), "version 0 of this program's sampling"),
        (lambda held: held["versions"].update(scaling="0"), "version 0 of this program's scaling"),
        (lambda held: held["versions"].update(sampling="99"), "version 99 .* knows versions 1 to"),
        (lambda held: held.update(format=9), "format 9"),
        (lambda held: held.pop("usual"), "not a valid sampling record"),
        (lambda held: held["media"][0].pop("segment"), "not a valid sampling record"),
    ],
)
def test_a_model_tuned_on_other_pictures_than_this_program_takes_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    media = shown_in(tmp_path, prompt_of(make_video(tmp_path / "film.mp4")), NANO_VL)
    text = b"".join(encode_sampling([(one, shown.planned) for one, shown in media.items()]))
    held = json.loads(text)
    change(held)
    (tmp_path / SAMPLING_FILE).write_text(json.dumps(held))
    replays = SamplingRecordCache(lambda _: tmp_path)
    with pytest.raises(FailedPrecondition, match=said):
        replays.get("job1")


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, seeing=True)
    yield place
    place.database.close()


def test_a_job_writes_down_how_it_showed_its_media_and_the_tuned_model_carries_it(place: Place) -> None:
    film = Path(make_video(place.media / "film.mp4").uri).name
    make_picture(place.media / "1.png", 1)

    def row(answer: str, mime: str, name: str, **more: object) -> dict[str, object]:
        media = {"fileData": {"mimeType": mime, "fileUri": name}, **more}
        user = {"role": "user", "parts": [media, {"text": "?"}]}
        return {"contents": [user, {"role": "model", "parts": [{"text": answer}]}]}

    twice = {"videoMetadata": {"fps": 2, "endOffset": "1s"}}
    rows = [row("a", "video/mp4", film, **twice), row("b", "image/png", "1.png"), row("c", "video/mp4", film, **twice)]
    place.add_file(rows, "job1", asked=RequestedHyperparameters(1, 4, 0.01))
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    held = json.loads((place.blobs.adapter("job1") / SAMPLING_FILE).read_bytes())
    assert held == json.loads(place.blobs.workspace("job1").sampling.read_bytes())
    assert held["versions"] == versions()
    assert held["usual"] == {"resolution": "LOW", "fps": 2.0}
    video, image = held["media"]
    assert (video["kind"], video["grids"], len(video["video"]["moments"])) == ("video", [[256, 256, 8, 8, [1, 1]]], 2)
    assert video["segment"] == {"fps": 2.0, "start": 0.0, "end": 1.0}
    assert video["video"]["moments"] == [0.0, 0.5] and len(video["video"]["pts"]) == 2
    assert image["kind"] == "image" and "video" not in image
    manifest = json.loads((place.blobs.adapter("job1") / "manifest.json").read_bytes())
    assert SAMPLING_FILE in manifest["files"]
    trained = SamplingRecordCache(place.blobs.verified_adapter).get("job1")
    asked = prompt_of(Media("video/mp4", str(place.media / film), end_s=1.0))
    (shown,) = asked_of(place.media, asked, trained).values()
    assert shown.planned.view.num_pictures == 2  # at two frames a second, as it was tuned

"""Media of a request: looked at for who asks, within limits, each fault said of its part."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.validation.prompt_kinds import PromptKinds
from kastor.domain.content import Content, Media, Prompt, Resolution, Role, Text
from kastor.domain.errors import InvalidArgument, PermissionDenied
from kastor.domain.media import MediaFault, MediaKind, Probe
from kastor.domain.permission import Principal
from kastor.domain.request_limits import GEMINI_API, OPEN, Limits
from kastor.media.cache import CachedFile, MediaCache
from kastor.models.chat.families import NANO_VL
from kastor.services.generation_request import (
    GenerationParams,
    PromptSupport,
    validate_tuned_prompt,
    validate_tuned_request,
)
from kastor.services.media_inspector import LocalMediaInspector
from kastor.services.prompt_media import PromptMediaResolver, media_tokens
from support.prompt_media import ADA, make_picture, make_video, prompt_of, shown_in

VISION = NANO_VL.vision
PICTURE, VIDEO = Media("image/png", "gs://b/1.png"), Media("video/mp4", "gs://b/1.mp4")
TINY = Limits("tiny", None, None, 1000, max_media=2, max_media_bytes=1000, max_video_s=10.0)


class Told:
    """Eyes that see what they are told; an address without is missing."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.asked: list[Media] = []

    def inspect(
        self, media: tuple[Media, ...], uploads: Callable[[str], Path], *, max_bytes: int, max_s: float
    ) -> Mapping[Media, InspectionResult]:
        self.asked += media
        return {one: self._seen(one) for one in media}

    def _seen(self, media: Media) -> InspectionResult:
        name = media.uri.rpartition("/")[2].replace(".", "_")
        if name not in self.sizes:
            return MediaFault("media_not_found", f"{media.uri} does not exist.", "See whether it is right.")
        size = self.sizes[name]
        kind = MediaKind.VIDEO if name.endswith("mp4") else MediaKind.IMAGE
        duration = 8.0 if kind is MediaKind.VIDEO else None
        return InspectedMedium(
            CachedFile(Path("/m") / name, "ab" * 32, size), Probe(kind, "x", size, duration_s=duration)
        )


def nobodys(name: str, caller: Principal) -> Path:
    raise PermissionDenied(f"{name} is not {caller.email}'s")


def sights(eyes: Told) -> PromptMediaResolver:
    return PromptMediaResolver(eyes, nobodys)


def refused(prompt: Prompt, eyes: Told, limits: Limits = TINY) -> tuple[str, list[str]]:
    with pytest.raises(InvalidArgument) as caught:
        sights(eyes).resolve(prompt, VISION, "models/nano", ADA, limits)
    return caught.value.reason, [violation.field for violation in caught.value.violations]


def test_a_base_that_reads_text_only_names_each_part_and_looks_at_nothing() -> None:
    eyes = Told()
    prompt = Prompt((Content(Role.USER, (Text("x"), PICTURE)),), system=(Media("image/png", data=b"x"),))
    with pytest.raises(InvalidArgument, match="models/smol reads text only") as caught:
        sights(eyes).resolve(prompt, None, "models/smol", ADA, TINY)
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["systemInstruction.parts[0].inlineData", "contents[0].parts[1].fileData"]
    assert eyes.asked == []
    with pytest.raises(InvalidArgument, match="resolution"):
        sights(eyes).resolve(prompt_of("x", resolution=Resolution.LOW), None, "models/smol", ADA, TINY)
    assert sights(eyes).resolve(prompt_of("x"), None, "models/smol", ADA, TINY) == {}


def test_a_text_to_a_base_that_sees_is_not_looked_at() -> None:
    eyes = Told()
    assert sights(eyes).resolve(prompt_of("x", resolution=Resolution.LOW), VISION, "models/nano", ADA, TINY) == {}
    assert eyes.asked == []


def test_what_is_missing_of_another_kind_or_unheard_of_is_said_of_its_part() -> None:
    assert refused(prompt_of("x", PICTURE), Told()) == ("MEDIA_NOT_FOUND", ["contents[0].parts[1]"])
    wrong = prompt_of(replace(VIDEO, uri="gs://b/1.png"))
    assert refused(wrong, Told(**{"1_png": 5})) == ("MIME_TYPE_WRONG", ["contents[0].parts[0]"])
    sound = Told()
    assert refused(prompt_of(Media("audio/mp3", "gs://b/1.mp3")), sound)[0] == "MIME_TYPE"
    assert sound.asked == []


def test_a_request_holds_so_many_media_bytes_and_seconds_and_no_more() -> None:
    sizes = {"1_png": 600, "2_png": 300, "3_png": 600, "1_mp4": 5, "2_mp4": 5}
    two, three = replace(PICTURE, uri="gs://b/2.png"), replace(PICTURE, uri="gs://b/3.png")
    assert len(sights(Told(**sizes)).resolve(prompt_of(PICTURE, two), VISION, "models/nano", ADA, TINY)) == 2
    assert refused(prompt_of(PICTURE, two, three), Told(**sizes))[0] == "TOO_MANY_MEDIA"
    assert refused(prompt_of(PICTURE, three), Told(**sizes))[0] == "MEDIA_TOO_LARGE"
    films = prompt_of(VIDEO, replace(VIDEO, uri="gs://b/2.mp4"))
    assert refused(films, Told(**sizes))[0] == "VIDEO_TOO_LONG"
    cut = prompt_of(VIDEO, replace(VIDEO, uri="gs://b/2.mp4", start_s=6.5))
    assert len(sights(Told(**sizes)).resolve(cut, VISION, "models/nano", ADA, TINY)) == 2


def test_the_address_that_an_upload_was_answered_with_means_the_upload(tmp_path: Path) -> None:
    picture = make_picture(tmp_path / "1.png", 1)
    asked = []

    def path_of(name: str, caller: Principal) -> Path:
        asked.append((name, caller))
        return Path(picture.uri)

    seen = []
    for uri in ("files/abc-1", "http://127.0.0.1:8080/v1beta/files/abc-1", "https://kastor.example/v1/files/abc-1"):
        shown = shown_in(tmp_path, prompt_of(Media("image/png", uri)), NANO_VL, path_of=path_of)
        seen += [one.planned.sha256 for one in shown.values()]
    assert asked == [("files/abc-1", ADA)] * 3
    assert len(set(seen)) == 1


def test_somebody_elses_upload_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not ada@example.org's") as caught:
        shown_in(tmp_path, prompt_of(Media("image/png", "files/abc")), NANO_VL, path_of=nobodys)
    assert caught.value.reason == "MEDIA_NOT_FOUND"


def test_media_of_a_request_are_planned_and_counted_by_kind_as_often_as_they_occur(tmp_path: Path) -> None:
    picture, video = make_picture(tmp_path / "1.png", 1), make_video(tmp_path / "1.mp4", resolution=Resolution.MEDIUM)
    prompt = prompt_of(picture, "and", video, "and", picture)
    shown = shown_in(tmp_path, prompt, NANO_VL)
    assert [one.place for one in shown.values()] == ["contents[0].parts[0]", "contents[0].parts[2]"]
    film = shown[video].planned
    assert film.frames is not None and film.frames.moments_s == film.view.moments_s == (0.0, 1.0, 2.0)
    assert media_tokens(prompt, shown) == {MediaKind.IMAGE: 2 * 64, MediaKind.VIDEO: 3 * 256}


def test_a_content_that_was_looked_at_is_not_inspected_again_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_picture(tmp_path / "1.png", 1)
    other = tmp_path / "2.png"
    other.write_bytes(Path(first.uri).read_bytes())
    eyes = LocalMediaInspector(MediaCache(tmp_path / "cache"), [tmp_path])
    given = {"max_bytes": 10_000, "max_s": 5.0}
    (seen,) = eyes.inspect((first,), Path, **given).values()
    monkeypatch.setattr("sys.executable", "/nowhere")  # no further child process can start
    (again,) = eyes.inspect((replace(first, uri=str(other)),), Path, **given).values()
    assert isinstance(seen, InspectedMedium) and isinstance(again, InspectedMedium)
    assert (again.file.path, again.probe) == (other, seen.probe)


@pytest.mark.parametrize("shown", [False, True])
def test_a_tuned_model_of_the_strict_profile_sees_if_its_examples_showed_media_and_one_of_the_open_profile_does(
    shown: bool,
) -> None:
    ask = GenerationParams(prompt_of("x", PICTURE))
    support = PromptSupport("x", True, lambda: PromptKinds(media=shown))
    if shown:
        validate_tuned_request(ask, support, GEMINI_API)
    else:
        with pytest.raises(InvalidArgument, match=r"contents\[0\]\.parts\[1\]: x was tuned on text alone"):
            validate_tuned_request(ask, support, GEMINI_API)
    validate_tuned_request(ask, support, OPEN)
    validate_tuned_prompt(prompt_of("x"), support, GEMINI_API)

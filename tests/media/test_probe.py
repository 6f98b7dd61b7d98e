import os
import signal
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import PIL.Image
import pytest

from kastor.domain.media import FrameSampling, MediaFault, MediaKind, MediumError, Probe
from kastor.media.decode import request_frames
from kastor.media.decode_limits import DecodeLimits
from kastor.media.probe import MediaProber, ProbedVideo, plan, probe
from kastor.media.sandbox import SandboxCrashed
from support.films import Recipe, make_film, make_sound, number_in, painted
from support.open_resources import child_processes, open_files

SHARED = Path(__file__).parents[3] / "shared" / "media"
VP8 = Recipe(codec="libvpx", codec_options={"deadline": "realtime", "cpu-used": "8"})
PROBED = {
    "a.mp4": (Recipe(), "h264", 2.5),
    "a.mkv": (Recipe(), "h264", 2.5),
    "a.ts": (Recipe(), "h264", 2.5),
    "a.flv": (Recipe(), "h264", 2.5),
    "a.avi": (Recipe(codec="mpeg4"), "mpeg4", 2.5),
    "a.wmv": (Recipe(codec="wmv2"), "wmv2", 2.5),
    "a.3gp": (Recipe(codec="mpeg4"), "mpeg4", 2.5),
    "a.mov": (Recipe(sound=True), "h264", 2.5),
    "a.webm": (VP8, "vp8", 2.5),
    "live.webm": (replace(VP8, container_options={"live": "1"}), "vp8", 2.5),
    "variable.mp4": (Recipe(times_ms=(0, 100, 150, 900, 1000)), "h264", 1.05),
    "fragments.mp4": (Recipe(container_options={"movflags": "frag_keyframe+empty_moov"}), "h264", 2.5),
    "edit-list.mp4": (Recipe(skipped=5), "h264", 2.0),
    "named-wrongly.jpg": (Recipe(format="mp4"), "h264", 2.5),
}


@pytest.fixture(scope="module")
def inspector() -> Iterator[MediaProber]:
    with MediaProber() as inspector:
        yield inspector


@pytest.mark.parametrize("name", PROBED)
def test_a_video_is_known_by_its_content(name: str, tmp_path: Path, inspector: MediaProber) -> None:
    recipe, codec, duration_s = PROBED[name]
    path = make_film(tmp_path / name, recipe)
    (found,) = inspector.probes([path])
    assert isinstance(found, Probe), found
    assert (found.kind, found.codec, found.width, found.height) == (MediaKind.VIDEO, codec, 64, 48)
    assert found.duration_s == pytest.approx(duration_s, abs=0.11)
    assert found.num_frames == pytest.approx(len(recipe.moments_ms) - recipe.skipped, abs=1)
    assert found.num_bytes == path.stat().st_size


def test_header_and_frames_agree_where_the_header_is_trusted(tmp_path: Path) -> None:
    recipe = Recipe(num_frames=700, rate=30, gop=100, container_options={"movflags": "faststart"})
    path = make_film(tmp_path / "a.mp4", recipe)
    assert plan(path, FrameSampling()).probe == replace(
        probe(path), duration_s=pytest.approx(700 / 30), fps=pytest.approx(30)
    )
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MediumError, match="its index names"):
        probe(path)


def test_sound_without_pictures_is_audio(tmp_path: Path) -> None:
    found = probe(make_sound(tmp_path / "a.mp4"))
    assert (found.kind, found.codec, found.width) == (MediaKind.AUDIO, "aac", None)
    assert found.duration_s == pytest.approx(1, abs=0.2)
    (tmp_path / "b.mp4").write_bytes(b"ID3\x04" + bytes(100))
    assert probe(tmp_path / "b.mp4").container == "mp3"
    with pytest.raises(MediumError, match="no video track"):
        plan(tmp_path / "a.mp4", FrameSampling())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.heic", "a.heif"])
def test_a_picture_is_known_by_its_header(name: str, tmp_path: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    PIL.Image.fromarray(painted(9, (64, 48))).save(tmp_path / name)
    found = probe(tmp_path / name)
    assert (found.kind, found.width, found.height, found.num_frames) == (MediaKind.IMAGE, 64, 48, 1)


def test_a_turned_photo_has_its_upright_size(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    PIL.Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    found = probe(tmp_path / "a.jpg")
    assert (found.width, found.height, found.rotation) == (20, 40, 90)


def test_a_pdf_has_pages(tmp_path: Path) -> None:
    pages = [PIL.Image.new("RGB", (144, 72)), PIL.Image.new("RGB", (72, 72))]
    pages[0].save(tmp_path / "a.pdf", save_all=True, append_images=pages[1:], resolution=72)
    found = probe(tmp_path / "a.pdf")
    assert (found.kind, found.num_pages, found.page_sizes) == (MediaKind.PDF, 2, ((144, 72), (72, 72)))


def _png(width: int, height: int) -> bytes:
    """A genuine bomb of one bit a pixel, all black."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _hundred_megapixels(path: Path) -> None:
    PIL.Image.new("L", (10_000, 10_000)).save(path, format="jpeg")


def _animation(path: Path) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, format="webp", save_all=True, append_images=frames[1:])


def _long_pause(path: Path) -> None:
    make_film(
        path,
        Recipe(
            times_ms=(0, 40, 80, 360_000_000),
            container_options={"video_track_timescale": "1000"} if path.suffix == ".mp4" else {},
        ),
    )


def _neighbour(path: Path, text: str) -> None:
    secret = make_film(path.parent / "secret.ts")
    path.write_text(text.replace("SECRET", str(secret)))


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nSECRET\n#EXT-X-ENDLIST\n"
HOSTILE: dict[str, tuple[Any, str]] = {
    "empty.mp4": (lambda p: p.write_bytes(b""), "media_empty"),
    "zeros.mp4": (lambda p: p.write_bytes(bytes(5000)), "media_empty"),
    "noise.mp4": (lambda p: p.write_bytes(bytes(range(256)) * 40), "media_unreadable"),
    "text.mp4": (lambda p: p.write_text("Straßenverkehr, renamed\n" * 400), "media_is_text"),
    "page.webm": (lambda p: p.write_text("<?xml version='1.0'?><MPD/>"), "media_playlist"),
    "list.m3u8": (lambda p: _neighbour(p, PLAYLIST), "media_playlist"),
    "list.mp4": (lambda p: _neighbour(p, "\n\n" + PLAYLIST), "media_playlist"),
    "concat.mp4": (lambda p: _neighbour(p, "ffconcat version 1.0\nfile secret.ts\n"), "media_playlist"),
    "concat-after-blanks.mp4": (
        lambda p: _neighbour(p, " " * 5000 + "ffconcat version 1.0\nfile secret.ts\n"),
        "media_",
    ),
    "bomb.png": (lambda p: p.write_bytes(_png(30_000, 30_000)), "image_too_many_pixels"),
    "thin.png": (lambda p: p.write_bytes(_png(100_000, 100)), "image_too_many_pixels"),
    "hundred-megapixels.jpg": (_hundred_megapixels, "image_too_many_pixels"),
    "animation.webp": (_animation, "image_animated"),
    "picture.gif": (lambda p: PIL.Image.new("L", (8, 8)).save(p), "media_type_unsupported"),
    "header-only.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "media_unreadable"),
    "long-pause.mp4": (_long_pause, "video_too_long"),
    "long-pause.mkv": (_long_pause, "video_too_long"),
    "huge.mp4": (
        lambda p: make_film(p, Recipe(codec="mpeg4", num_frames=1, size=(4200, 2400))),
        "video_size_unknown",
    ),
    "ffv1.mkv": (lambda p: make_film(p, Recipe(codec="ffv1", codec_options={"g": "1"})), "video_codec_unsupported"),
    "theora.ogv": (lambda p: p.write_bytes(b"OggS" + bytes(24) + b"\x80theora" + bytes(99)), "media_type_unsupported"),
    "broken.pdf": (lambda p: p.write_bytes(b"%PDF-1.7\n" + b"x" * 500), "media_unreadable"),
    "folder.mp4": (lambda p: p.mkdir(), "media_not_a_file"),
    "pipe.mp4": (lambda p: os.mkfifo(p), "media_not_a_file"),
    "absent.mp4": (lambda p: None, "media_not_readable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_named_fault(name: str, tmp_path: Path, inspector: MediaProber) -> None:
    make, rule = HOSTILE[name]
    make(tmp_path / name)
    for found in (
        *inspector.probes([tmp_path / name]),
        *inspector.plans([(tmp_path / name, FrameSampling())]),
    ):
        assert isinstance(found, MediaFault)
        assert found.rule.startswith((rule, "media_not_a_video"))
        assert len(found.message) > 10


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (9_000, 9_000), (100_000, 100), (1, 65_000)])
def test_a_picture_that_is_too_large_is_told_which_bounds_there_are(
    width: int, height: int, tmp_path: Path, inspector: MediaProber
) -> None:
    (tmp_path / "large.png").write_bytes(_png(width, height))
    (found,) = inspector.probes([tmp_path / "large.png"])
    assert isinstance(found, MediaFault)
    assert found.message.startswith("The picture is too large"), found.message
    assert found.message.endswith("; at most 50000000 pixels, and 32768 on a side, are unpacked."), found.message
    assert "DOS" not in found.message  # Pillow's words


TRUNCATED = {
    "index-last.mp4": Recipe(noise=True),
    "index-first.mp4": Recipe(noise=True, container_options={"movflags": "faststart"}),
    "fragments.mp4": Recipe(noise=True, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "a.webm": replace(VP8, noise=True),
    "a.mkv": Recipe(noise=True, sound=True),
    "a.avi": Recipe(codec="mpeg4", noise=True),
}
NO_PROMISES = {
    "live.webm": replace(VP8, noise=True, container_options={"live": "1"}),
    "a.ts": Recipe(noise=True),
    "a.flv": Recipe(noise=True),
    "a.mpg": Recipe(codec="mpeg2video", rate=25, noise=True),
    "a.wmv": Recipe(codec="wmv2", noise=True),
}


def _cuts(path: Path) -> list[Path]:
    content = path.read_bytes()
    cuts = [path.with_name(f"{tenth}-{path.name}") for tenth in range(1, 10)]
    for tenth, cut in enumerate(cuts, 1):
        cut.write_bytes(content[: len(content) * tenth // 10])
    return cuts


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_file_cut_off_at_any_tenth_is_refused(name: str, tmp_path: Path, inspector: MediaProber) -> None:
    cuts = _cuts(make_film(tmp_path / name, TRUNCATED[name]))
    found = [*inspector.probes(cuts), *inspector.plans((cut, FrameSampling()) for cut in cuts)]
    assert {fault.rule for fault in found if isinstance(fault, MediaFault)} <= {"media_truncated", "media_unreadable"}
    assert all(isinstance(fault, MediaFault) for fault in found)


@pytest.mark.parametrize("name", NO_PROMISES)
def test_of_a_stream_without_promised_length_only_right_frames_are_taken(
    name: str, tmp_path: Path, inspector: MediaProber
) -> None:
    cuts = _cuts(make_film(tmp_path / name, NO_PROMISES[name]))
    for cut, planned in zip(cuts, inspector.plans((cut, FrameSampling(fps=4)) for cut in cuts), strict=True):
        if isinstance(planned, ProbedVideo):
            try:
                numbers = [number_in(frame.pixels) for frame in request_frames(cut, planned.plan)]
            except MediumError as bad:
                assert bad.fault.rule == "frame_corrupt"
            else:
                assert numbers == sorted(numbers)
                assert numbers[-1] < NO_PROMISES[name].num_frames
        else:
            assert planned.rule in ("media_truncated", "video_without_frames", "media_unreadable")


def test_a_recording_that_begins_within_a_group_starts_at_its_first_keyframe(tmp_path: Path) -> None:
    whole = make_film(tmp_path / "a.ts", Recipe(num_frames=30, codec_options={"bf": "0"}))
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][4:]:
            packet.stream = stream
            target.mux(packet)
    planned = plan(tmp_path / "b.ts", FrameSampling(fps=10))
    assert planned.plan.time_base == Fraction(1, 90_000)
    assert [number_in(frame.pixels) for frame in request_frames(tmp_path / "b.ts", planned.plan)] == list(range(10, 30))


def test_a_name_that_looks_like_a_protocol_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "a.ts")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediumError, match="No such file"):
        probe(Path("concat:a.ts|a.ts"))
    (tmp_path / "concat:a.ts").write_bytes((tmp_path / "a.ts").read_bytes())
    assert probe(Path("concat:a.ts")).kind is MediaKind.VIDEO


def test_a_medium_that_asks_for_too_much_memory_is_named(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(codec="mpeg4", num_frames=2, size=(4096, 2304)))
    tight = DecodeLimits(address_space_bytes=300 << 20)
    planned = plan(film, FrameSampling())
    with pytest.raises(MediumError) as caught:
        list(request_frames(film, planned.plan, guards=tight))
    assert caught.value.fault.rule in ("media_too_much_memory", "frame_corrupt", "decoder_crashed")


def test_a_killed_child_is_replaced_and_no_file_is_lost(tmp_path: Path) -> None:
    paths = [make_film(tmp_path / f"{i}.mp4", Recipe(num_frames=i + 1)) for i in range(8)]
    others = child_processes()
    with MediaProber() as inspector:
        found = []
        for answer in inspector.probes(paths):
            found.append(answer)
            if len(found) == 2:
                (child,) = child_processes() - others
                os.kill(child, signal.SIGKILL)
    assert [probed.num_frames for probed in found if isinstance(probed, Probe)] == list(range(1, 9))
    assert child_processes() == others


class _FragileChild:
    """Answers like a child; dies of files named killer, hangs at those named sleeper."""

    started = 0

    def __init__(self, guards: DecodeLimits) -> None:
        type(self).started += 1
        self.num_answers = 0
        self._asked: list[str] = []

    def send(self, request: dict[str, Any]) -> None:
        self._asked.append(Path(request["path"]).name)

    def receive(self, patience: object) -> tuple[dict[str, Any], bytearray]:
        name = self._asked.pop(0)
        if name.startswith(("killer", "sleeper")):
            raise SandboxCrashed(MediaFault("died", name), timed_out=name.startswith("sleeper"))
        self.num_answers += 1
        probed = Probe(MediaKind.IMAGE, name, 1)
        return {
            "probe": {"kind": "image", "container": name, "num_bytes": 1, "page_sizes": probed.page_sizes}
        }, bytearray()

    def close(self) -> None:
        pass


def test_the_file_that_kills_its_child_is_named_and_the_others_are_tried_again() -> None:
    names = ["a", "b", "killer1", "c", "sleeper", "killer2", "killer3", "d", *"efghijkl"]
    with MediaProber(start=_FragileChild, files_per_child=5) as inspector:  # type: ignore[arg-type]
        found = list(inspector.probes(map(Path, names)))
    said = [answer.message if isinstance(answer, MediaFault) else answer.container for answer in found]
    assert said == names


def test_children_hold_few_files_and_do_not_grow_old(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        PIL.Image.new("L", (8, 8)).save(path)
    files, others = open_files(), child_processes()
    seen = set()
    with MediaProber(files_per_child=3) as inspector:
        for _ in inspector.probes(paths):
            seen |= child_processes() - others
        assert len(child_processes() - others) == 1
    assert len(seen) == 3
    assert child_processes() == others
    assert open_files() == files


@pytest.mark.skipif(not SHARED.is_dir(), reason="no sample media here")
def test_real_clips_and_photos_probe_and_decode() -> None:
    clips = sorted(path for path in (SHARED / "videos").iterdir() if path.suffix in (".mp4", ".mov", ".avi", ".webm"))
    photos = sorted((SHARED / "images").glob("*.jpg"))
    with MediaProber() as inspector:
        assert all(isinstance(found, Probe) and found.width for found in inspector.probes([*clips, *photos]))
        (refused,) = inspector.probes([SHARED / "videos" / "car_race_1906.ogv"])
        assert isinstance(refused, MediaFault)
        planned = list(inspector.plans((clip, FrameSampling(end_s=3)) for clip in clips))
    for clip, found in zip(clips, planned, strict=True):
        assert isinstance(found, ProbedVideo)
        assert sum(1 for _ in request_frames(clip, found.plan, (64, 64))) == found.plan.num_frames

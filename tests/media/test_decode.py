import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from kastor.domain.media import FrameSampling, MediaFault, MediumError, Resampling
from kastor.media.decode import PictureDecoder, request_frames, request_picture
from kastor.media.decode_limits import DecodeLimits
from kastor.media.probe import MediaProber, plan, probe
from support.films import Recipe, make_film, number_in, numbers_on_screen, painted
from support.open_resources import child_processes, open_files

QUIET = {"x265-params": "log-level=none"}
FILMS = {
    "h264.mp4": Recipe(),
    "h264-b-frames.mp4": Recipe(codec_options={"bf": "3"}, num_frames=40, gop=15),
    "h264-open-gop.mp4": Recipe(codec_options={"x264-params": "open-gop=1:bframes=3:scenecut=0"}, num_frames=40),
    "h264.mkv": Recipe(sound=True),
    "h264.ts": Recipe(),
    "h264.flv": Recipe(),
    "fragments.mp4": Recipe(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "edit-list.mp4": Recipe(skipped=7),
    "variable-rate.mp4": Recipe(times_ms=(0, 40, 300, 333, 400, 900, 1500, 1540, 1580, 1990, 2500)),
    "variable-rate.mkv": Recipe(times_ms=(0, 40, 300, 333, 400, 900, 1500, 1540, 1580, 1990, 2500)),
    "screen-recording.mp4": Recipe(times_ms=(0, 3500, *range(5000, 7000, 40), 15_000), last_ms=1000),
    "late-picture.mp4": Recipe(begins_ms=3000, sound=True),
    "late-picture.mkv": Recipe(begins_ms=3000, sound=True),
    "late-picture.webm": Recipe(codec="libvpx", begins_ms=3000),
    "thumbnail-first.mp4": Recipe(thumbnail="mjpeg"),
    "thumbnail-first.mkv": Recipe(thumbnail="libx264"),
    "10-bit.mp4": Recipe(pix_fmt="yuv420p10le"),
    "hevc.mp4": Recipe(codec="libx265", codec_options=QUIET, num_frames=40),
    "hevc-10-bit.mkv": Recipe(codec="libx265", codec_options=QUIET, pix_fmt="yuv420p10le", num_frames=40),
    "vp9.webm": Recipe(codec="libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"}),
    "vp8.webm": Recipe(codec="libvpx", codec_options={"deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": Recipe(codec="libsvtav1", codec_options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4.avi": Recipe(codec="mpeg4", codec_options={"bf": "2"}),
    "mpeg2.mpg": Recipe(codec="mpeg2video", rate=25),
    "wmv2.wmv": Recipe(codec="wmv2"),
    "odd-size.webm": Recipe(codec="libvpx-vp9", codec_options={"deadline": "realtime"}, size=(65, 49)),
    "no-duration.webm": Recipe(codec="libvpx", container_options={"live": "1"}),
    "one-frame.mp4": Recipe(num_frames=1),
}


@pytest.fixture(scope="module")
def inspector() -> Iterator[MediaProber]:
    with MediaProber() as inspector:
        yield inspector


@pytest.mark.parametrize("name", FILMS)
def test_each_sampled_frame_is_the_one_on_the_screen(name: str, tmp_path: Path, inspector: MediaProber) -> None:
    recipe = FILMS[name]
    path = make_film(tmp_path / name, recipe)
    (planned,) = inspector.plans([(path, FrameSampling(fps=3))])
    assert not isinstance(planned, MediaFault), planned
    sampled = list(request_frames(path, planned.plan))
    assert [frame.moment_s for frame in sampled] == list(planned.plan.moments_s)
    assert [number_in(frame.pixels) for frame in sampled] == numbers_on_screen(recipe, planned.plan.moments_s)
    assert {frame.pixels.shape for frame in sampled} == {(recipe.size[1], recipe.size[0], 3)}


def test_in_a_transport_stream_too_zero_is_where_the_sound_begins_and_not_a_later_picture(tmp_path: Path) -> None:
    recipe = Recipe(begins_ms=3000, sound=True)
    path = make_film(tmp_path / "x.ts", recipe)
    with av.open(str(path)) as container:
        pictures, sound = container.streams.video[0], container.streams.audio[0]
        late_s = pictures.start_time * pictures.time_base - sound.start_time * sound.time_base
    assert 3 <= late_s < 3.1  # AAC begins with a packet of silence, which stands at zero where nothing hides it
    planned = plan(path, FrameSampling(fps=3))
    shown = replace(recipe, begins_ms=round(1000 * late_s))
    numbers = [number_in(frame.pixels) for frame in request_frames(path, planned.plan)]
    assert numbers == numbers_on_screen(shown, planned.plan.moments_s)
    assert numbers[:10] == [0] * 10 and numbers[-1] > 20


def test_every_frame_of_a_film_can_be_had_and_in_order(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", replace(FILMS["h264-open-gop.mp4"], num_frames=70))
    planned = plan(path, FrameSampling(fps=10))
    assert [number_in(frame.pixels) for frame in request_frames(path, planned.plan)] == list(range(70))


def test_a_segment_starts_and_ends_where_it_says(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.webm", replace(FILMS["vp9.webm"], num_frames=40))
    planned = plan(path, FrameSampling(fps=5, start_s=1.5, end_s=2.5))
    assert [number_in(frame.pixels) for frame in request_frames(path, planned.plan)] == [15, 17, 19, 21, 23]


def test_more_moments_than_frames_repeat_frames(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(num_frames=3))
    planned = plan(path, FrameSampling(fps=23))
    numbers = [number_in(frame.pixels) for frame in request_frames(path, planned.plan)]
    assert numbers == numbers_on_screen(Recipe(num_frames=3), planned.plan.moments_s)
    assert len(numbers) == 7


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_video_comes_upright(rotation: int, tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(rotation=rotation, num_frames=6))
    planned = plan(path, FrameSampling(fps=10))
    assert (planned.probe.width, planned.probe.height) == ((64, 48) if rotation == 180 else (48, 64))
    assert planned.probe.rotation == rotation % 360
    stored = [np.rot90(frame.pixels, -rotation // 90) for frame in request_frames(path, planned.plan)]
    assert [number_in(picture) for picture in stored] == list(range(6))


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts"])
def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(name: str, tmp_path: Path) -> None:
    path = make_film(tmp_path / name, Recipe(aspect=Fraction(3, 2), num_frames=4))
    planned = plan(path, FrameSampling())
    assert (planned.probe.width, planned.probe.height, planned.probe.stored_size) == (96, 48, (64, 48))
    (frame,) = request_frames(path, planned.plan)
    assert (frame.pixels.shape, number_in(frame.pixels)) == ((48, 96, 3), 0)


def test_of_a_turned_video_with_wide_pixels_the_height_grows(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(aspect=Fraction(3, 2), num_frames=4, rotation=90))
    known = probe(path)
    assert (known.width, known.height, known.stored_size) == (48, 96, (48, 64))
    assert next(request_frames(path, plan(path, FrameSampling()).plan)).pixels.shape == (96, 48, 3)


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt709", "")])
def test_a_video_for_brighter_screens_is_known_as_such(transfer: str, name: str, tmp_path: Path) -> None:
    params = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    recipe = Recipe(codec="libx265", codec_options={"x265-params": params}, pix_fmt="yuv420p10le", num_frames=3)
    path = make_film(tmp_path / "x.mp4", recipe)
    assert (probe(path).hdr, plan(path, FrameSampling()).probe.hdr) == (name, name)


def test_a_clock_that_starts_anew_is_one_clock(tmp_path: Path) -> None:
    near_the_end = (2**33 - 90_000) // 90  # the clock of a transport stream has 33 bits
    path = make_film(tmp_path / "x.ts", Recipe(times_ms=tuple(near_the_end + 100 * k for k in range(40))))
    found = plan(path, FrameSampling())
    assert [number_in(frame.pixels) for frame in request_frames(path, found.plan)] == [0, 10, 20, 30]


def test_frames_come_in_the_size_asked_for_also_when_turned(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(rotation=90, num_frames=3))
    planned = plan(path, FrameSampling())
    assert {frame.pixels.shape for frame in request_frames(path, planned.plan, (30, 40))} == {(40, 30, 3)}


def test_a_file_that_changed_after_planning_is_refused(tmp_path: Path) -> None:
    planned = plan(make_film(tmp_path / "x.mp4", Recipe(num_frames=30)), FrameSampling())
    other = make_film(tmp_path / "y.mp4", Recipe(num_frames=12))
    with pytest.raises(MediumError) as caught:
        list(request_frames(other, planned.plan))
    assert caught.value.fault.rule == "media_changed"


def test_a_damaged_frame_is_named_and_not_replaced(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(noise=True, num_frames=40, container_options={"movflags": "faststart"}))
    planned = plan(path, FrameSampling(fps=10))
    content = bytearray(path.read_bytes())
    middle = len(content) * 6 // 10
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    seen = []
    with pytest.raises(MediumError) as caught:
        seen.extend(number_in(frame.pixels) for frame in request_frames(path, planned.plan))
    assert caught.value.fault.rule == "frame_corrupt"
    assert seen == list(range(len(seen)))


def test_leaving_early_ends_the_child(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4", Recipe(num_frames=30))
    planned = plan(path, FrameSampling(fps=10))
    files, others = open_files(), child_processes()
    sampled = request_frames(path, planned.plan)
    next(sampled)
    assert len(child_processes() - others) == 1
    sampled.close()  # type: ignore[attr-defined]  # a generator
    assert child_processes() == others
    assert open_files() == files


def test_a_decoder_that_keeps_us_waiting_is_a_timeout(tmp_path: Path) -> None:
    path = make_film(tmp_path / "x.mp4")
    planned = plan(path, FrameSampling(fps=10))
    with pytest.raises(MediumError) as caught:
        list(request_frames(path, planned.plan, guards=DecodeLimits(decode_stall_s=-1000)))
    assert caught.value.fault.rule == "decoder_timeout"


def test_pictures_are_upright_on_white_and_scaled(tmp_path: Path) -> None:
    upright = PIL.Image.fromarray(painted(1234, (64, 48)))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    upright.rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert number_in(request_picture(tmp_path / "a.jpg")) == 1234
    assert request_picture(tmp_path / "a.jpg", (32, 32)).shape == (32, 32, 3)
    PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert request_picture(tmp_path / "b.png").min() == 255
    PIL.Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "c.png")
    assert request_picture(tmp_path / "c.png").tolist() == [[[128] * 3] * 4] * 4


@pytest.mark.parametrize(("most", "shown"), [(0x0FFF, 0x0FFF >> 4), (0x03FF, 0x03FF >> 2), (0xFFFF, 0xFF)])
def test_a_deep_grey_picture_is_as_bright_as_the_bits_that_it_uses(most: int, shown: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.array([[0, most // 2], [most // 2, most]], np.uint16)).save(path)
    assert request_picture(path)[:, :, 0].tolist() == [[0, shown // 2], [shown // 2, shown]]
    with closing(PictureDecoder()) as pictures:
        old = pictures.picture(path, scaling=1)  # as models were tuned that saw twelve bits nearly black
    assert old[1, 1, 0] == most >> 8
    assert probe(path).grey_bits == most.bit_length()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_whole_and_one_cut_in_the_middle_is_not(
    progressive: bool, tmp_path: Path
) -> None:
    image = PIL.Image.fromarray(painted(777, (320, 240), noise=True))
    image.save(tmp_path / "whole.jpg", progressive=progressive)
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "no-end.jpg").write_bytes(content[:-2])
    assert (probe(tmp_path / "no-end.jpg").width, number_in(request_picture(tmp_path / "no-end.jpg"))) == (320, 777)
    assert np.array_equal(request_picture(tmp_path / "no-end.jpg"), request_picture(tmp_path / "whole.jpg"))
    for share in (5, 7, 9):
        (tmp_path / "cut.jpg").write_bytes(content[: len(content) * share // 10])
        for read in (probe, request_picture):
            with pytest.raises(MediumError) as caught:
                read(tmp_path / "cut.jpg")
            assert caught.value.fault.rule == "image_corrupt"
            assert "JPEG picture is cut off" in caught.value.fault.message


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.heic"])
def test_each_kind_of_picture_is_read_and_cut_off_ones_are_refused(name: str, tmp_path: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    path = tmp_path / name
    PIL.Image.fromarray(painted(777, (64, 48), noise=True)).save(path)
    assert number_in(request_picture(path)) == 777
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    for read in (request_picture, probe):
        with pytest.raises(MediumError) as caught:
            read(path)
        assert caught.value.fault.rule in ("image_corrupt", "media_unreadable")


def test_pages_of_a_pdf_are_pictures(tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(painted(number, (128, 96))) for number in (5, 6)]
    pages[0].save(tmp_path / "a.pdf", save_all=True, append_images=pages[1:])
    assert number_in(request_picture(tmp_path / "a.pdf", (64, 48), page=1)) == 6
    with pytest.raises(MediumError, match="no page 3"):
        request_picture(tmp_path / "a.pdf", page=2)


def test_many_pictures_come_from_one_child_and_a_bad_one_disturbs_no_other(tmp_path: Path) -> None:
    for number in range(3):
        PIL.Image.fromarray(painted(number, (64, 48))).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    others = child_processes()
    pictures = PictureDecoder()
    assert number_in(pictures.picture(tmp_path / "0.png")) == 0
    (child,) = child_processes() - others
    with pytest.raises(MediumError):
        pictures.picture(tmp_path / "bad.png")
    assert number_in(pictures.picture(tmp_path / "1.png")) == 1
    assert child_processes() - others == {child}
    os.kill(child, signal.SIGKILL)
    assert number_in(pictures.picture(tmp_path / "2.png")) == 2
    pictures.close()
    assert child_processes() == others


@pytest.mark.parametrize("resample", Resampling)
def test_pictures_pages_and_frames_are_scaled_with_the_filter_asked_for(resample: Resampling, tmp_path: Path) -> None:
    noise = PIL.Image.fromarray(painted(1234, (64, 48), noise=True))
    noise.save(tmp_path / "a.png")
    found = request_picture(tmp_path / "a.png", (24, 32), resample=resample)
    np.testing.assert_array_equal(found, _scaled(np.asarray(noise), (24, 32), resample))

    page = PIL.Image.fromarray(painted(1234, (128, 96), noise=True))
    page.save(tmp_path / "a.pdf", resolution=72)
    own = request_picture(tmp_path / "a.pdf")  # at the scale that (256, 64) is rendered at, too
    assert own.shape == (192, 256, 3)
    found = request_picture(tmp_path / "a.pdf", (256, 64), resample=resample)
    np.testing.assert_array_equal(found, _scaled(own, (256, 64), resample))

    film = make_film(tmp_path / "a.mkv", Recipe(pix_fmt="yuv444p", noise=True, num_frames=1))
    planned = plan(film, FrameSampling(fps=1)).plan
    (whole,), (scaled,) = request_frames(film, planned), request_frames(film, planned, (24, 32), resample=resample)
    differences = {
        other: np.abs(_scaled(whole.pixels, (24, 32), other).astype(int) - scaled.pixels).mean() for other in Resampling
    }
    assert min(differences, key=lambda other: differences[other]) is resample
    assert differences[resample] < 1


def _scaled(pixels: NDArray[np.uint8], size: tuple[int, int], resample: Resampling) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling[resample.name]))

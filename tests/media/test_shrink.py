"""Smaller copies: the pixels that a model can use, never more than there were, upright as before."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kastor.domain.media import FrameSampling, MediumError
from kastor.media.decode import request_frames, request_picture
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process.video_encode import downscaled_size
from kastor.media.probe import plan, probe
from kastor.media.segment_plan import SegmentLimits
from kastor.media.transcode import request_segment, request_segments, shrink_picture
from support.films import Recipe, make_film, number_in

GUARDS = DecodeLimits()


def test_a_film_with_fewer_lines_shows_the_same_frames(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(num_frames=20, size=(192, 144), noise=True, codec_options={"bf": "2"}))
    made = request_segment(film, None, tmp_path / "b.mp4", probe(film), 48, None, GUARDS)
    known = probe(made.path)
    assert (known.codec, known.width, known.height, known.num_frames) == ("h264", 64, 48, 20)
    assert made.num_bytes < film.stat().st_size
    planned = plan(made.path, FrameSampling(fps=10)).plan
    assert [number_in(frame.pixels) for frame in request_frames(made.path, planned)] == list(range(20))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_film_stays_turned(rotation: int, tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(num_frames=2, size=(128, 96), rotation=rotation))
    made = request_segment(film, None, tmp_path / "b.mp4", probe(film), 48, None, GUARDS)
    assert probe(made.path).rotation == probe(film).rotation == rotation
    first = [
        next(request_frames(path, plan(path, FrameSampling()).plan, (48, 48))).pixels for path in (film, made.path)
    ]
    assert np.abs(first[0].astype(int) - first[1]).mean() < 8


def test_times_of_a_film_of_variable_rate_stay_what_they_were(tmp_path: Path) -> None:
    times = (0, 100, 150, 900, 1000, 1700)
    film = make_film(tmp_path / "a.mp4", Recipe(times_ms=times))
    made = request_segment(film, None, tmp_path / "b.mp4", probe(film), None, None, GUARDS)
    assert plan(made.path, FrameSampling(fps=20)).plan.shown_s == plan(film, FrameSampling(fps=20)).plan.shown_s


def test_a_smaller_copy_keeps_the_shape_of_wide_pixels_and_the_meaning_of_colours(tmp_path: Path) -> None:
    params = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    recipe = Recipe(
        codec="libx265", codec_options={"x265-params": params}, size=(192, 146), aspect=Fraction(16, 11), num_frames=5
    )
    film = make_film(tmp_path / "a.mp4", recipe)
    made = probe(request_segment(film, None, tmp_path / "b.mp4", probe(film), 97, None, GUARDS).path)
    before = probe(film)
    assert (before.width or 0) / (before.height or 1) == pytest.approx((made.width or 0) / (made.height or 1), abs=0.01)
    assert made.stored_size == (128, 98)
    assert (before.hdr, made.hdr) == ("PQ", "PQ")


def test_never_more_pixels_than_there_were() -> None:
    assert downscaled_size(320, 180, 512) == (320, 180)
    assert downscaled_size(3840, 2160, 256) == (456, 256)
    assert downscaled_size(99, 201, None) == (100, 202)


@pytest.mark.parametrize(("suffix", "becomes"), [("png", ".png"), ("jpg", ".jpg"), ("webp", ".jpg")])
def test_a_picture_is_scaled_and_upright(suffix: str, becomes: str, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = PIL.Image.new("RGB", (600, 300), "white")
    image.paste("red", (0, 0, 300, 300))
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    made = shrink_picture(tmp_path / f"a.{suffix}", tmp_path / "b.jpg", 100, None, GUARDS)
    known = probe(made.path)
    assert (made.path.suffix, known.width, known.height, known.rotation) == (becomes, 100, 200, 0)
    top = request_picture(made.path)[20, 50]
    assert (int(top[0]) > 200, int(top[1]) < 60) == (True, True)  # the left half is on top once it is upright


def test_a_picture_that_stays_too_large_is_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(MediumError, match="still has more than 100 bytes"):
        shrink_picture(tmp_path / "a.png", tmp_path / "b.jpg", 32, 100, GUARDS)


def test_a_film_without_pictures_is_a_named_fault(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(MediumError):
        request_segments(tmp_path / "a.mp4", SegmentLimits(None, Fraction(1)), GUARDS)

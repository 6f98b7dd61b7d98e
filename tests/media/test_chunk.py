"""Pieces of a video keep the limits, start at the frame they should, and lose no frame."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.domain.media import FrameSampling, MediumError, SamplingPlan
from kastor.media.decode import request_frames
from kastor.media.decode_limits import DecodeLimits
from kastor.media.frame_sampling import Packet, PacketTable
from kastor.media.probe import MediaProber, ProbedVideo, plan, probe
from kastor.media.segment_plan import SegmentLimits, decode_segment_plan, encode_segment_plan, split_into_segments
from kastor.media.transcode import copy_segment, request_segment, request_segments
from support.films import Recipe, make_film, number_in

GUARDS = DecodeLimits()
LIMITS = SegmentLimits(None, Fraction(33, 10))
OPEN_GOP = {"x265-params": "open-gop=1:keyint=10:bframes=3:log-level=none"}
FILMS = {
    "a.mp4": (Recipe(num_frames=60), True),
    "b-frames.mkv": (Recipe(num_frames=60, codec_options={"bf": "2"}), True),
    "a.ts": (Recipe(num_frames=60, codec_options={"bf": "2"}), True),
    "edit-list.mp4": (Recipe(num_frames=60, skipped=5, codec_options={"bf": "2"}), True),
    "fragments.mp4": (Recipe(num_frames=60, container_options={"movflags": "frag_keyframe+empty_moov"}), True),
    "a.webm": (
        Recipe(num_frames=60, codec="libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"}),
        True,
    ),
    "open-gop.mp4": (Recipe(num_frames=60, codec="libx265", codec_options=OPEN_GOP), False),
    "one-gop.mp4": (Recipe(num_frames=60, gop=250, codec_options={"sc_threshold": "0"}), False),
    "a.avi": (Recipe(num_frames=60, codec="mpeg4"), False),
}
STILLS = (0, 3500, *range(5000, 7000, 40), 12_010, 12_050, 19_000, *range(19_500, 21_000, 90), 30_000)
SEGMENTED = {name: recipe for name, (recipe, _) in FILMS.items()} | {
    "screen.mp4": Recipe(times_ms=STILLS, last_ms=4000, gop=12),
    "screen.mkv": Recipe(times_ms=STILLS, last_ms=4000, gop=12, codec_options={"bf": "3"}),
    "screen-one-gop.mp4": Recipe(times_ms=STILLS, last_ms=4000, gop=500, codec_options={"sc_threshold": "0"}),
    "late.mp4": Recipe(num_frames=60, begins_ms=2700, sound=True),
    "late.mkv": Recipe(num_frames=60, begins_ms=2700, sound=True, codec_options={"bf": "2"}),
    "slides.mp4": Recipe(times_ms=(0, 39_000, 78_000, 117_000), last_ms=100),
    "wide.mp4": Recipe(num_frames=60, aspect=Fraction(4, 3)),
}


@pytest.fixture(scope="module")
def prober() -> Iterator[MediaProber]:
    """One process that plans for all tests: starting one takes longer than a plan."""
    with MediaProber(GUARDS) as found:
        yield found


def numbers(path: Path, lasts_s: float) -> list[int]:
    planned = plan(path, FrameSampling(fps=10))
    assert planned.probe.duration_s == pytest.approx(lasts_s, abs=0.01)
    return [number_in(frame.pixels) for frame in request_frames(path, planned.plan)]


@pytest.mark.parametrize("name", FILMS)
def test_the_pieces_of_a_film_are_the_film(name: str, tmp_path: Path) -> None:
    recipe, copies = FILMS[name]
    film = make_film(tmp_path / name, recipe)
    before, known = film.read_bytes(), probe(film)
    found = request_segments(film, LIMITS, GUARDS)
    assert len(found) == 2
    assert {piece.copied for piece in found} == {copies}
    shown: list[int] = []
    for number, piece in enumerate(found):
        to = tmp_path / f"piece-{number}.mp4"
        made = (
            copy_segment(film, piece, to, GUARDS)
            if copies
            else request_segment(film, piece, to, known, None, None, GUARDS)
        )
        assert made.num_bytes == to.stat().st_size
        got = numbers(to, float(piece.end_s - piece.start_s))
        assert got[0] == recipe.skipped + round(piece.start_s * 10)
        shown += got
    assert shown == list(range(recipe.skipped, 60))
    assert film.read_bytes() == before


def planned(prober: MediaProber, path: Path, sampling: FrameSampling) -> SamplingPlan:
    (found,) = prober.plans([(path, sampling)])
    assert isinstance(found, ProbedVideo), found
    return found.plan


def sampled(prober: MediaProber, path: Path, sampling: FrameSampling) -> list[tuple[int, int, int]]:
    """Number, height and width of each frame."""
    found = request_frames(path, planned(prober, path, sampling))
    return [(number_in(frame.pixels), *frame.pixels.shape[:2]) for frame in found]


@pytest.mark.parametrize("name", SEGMENTED)
def test_a_piece_sampled_is_the_film_sampled_in_that_segment(name: str, tmp_path: Path, prober: MediaProber) -> None:
    film = make_film(tmp_path / name, SEGMENTED[name])
    known = probe(film)
    longest = Fraction(known.duration_s or 0) * Fraction(5, 12)
    found = request_segments(film, SegmentLimits(None, longest), GUARDS)
    assert len(found) > 1
    lasts_s = planned(prober, film, FrameSampling()).duration_s
    assert (found[0].start_s, float(found[-1].end_s)) == (0, pytest.approx(lasts_s))
    for number, piece in enumerate(found):
        assert piece.end_s - piece.start_s <= longest
        segment = FrameSampling(3.7, float(piece.start_s), float(piece.end_s))
        in_the_film = sampled(prober, film, segment)
        for copies in {piece.copied, False}:
            to = tmp_path / f"{number}-{copies}.mp4"
            if copies:
                copy_segment(film, piece, to, GUARDS)
            else:
                request_segment(film, piece, to, known, None, None, GUARDS)
            own = planned(prober, to, FrameSampling())
            assert own.duration_s == pytest.approx(float(piece.end_s - piece.start_s), abs=1e-3)
            assert sampled(prober, to, FrameSampling(3.7)) == in_the_film


def test_a_copied_piece_keeps_to_its_bytes(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(num_frames=40, size=(128, 96), noise=True))
    most = film.stat().st_size // 2
    found = request_segments(film, SegmentLimits(most, None), GUARDS)
    made = [copy_segment(film, piece, tmp_path / f"{i}.mp4", GUARDS) for i, piece in enumerate(found)]
    assert len(made) > 1
    assert all(one.num_bytes <= most for one in made)


def test_what_stays_too_large_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(num_frames=20, noise=True))
    with pytest.raises(MediumError) as caught:
        request_segment(film, None, tmp_path / "b.mp4", probe(film), None, 5_000, GUARDS)
    assert caught.value.fault.rule == "piece_too_large"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_a_damaged_film_is_a_named_fault(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", Recipe(num_frames=40, noise=True))
    content = bytearray(film.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = np.random.default_rng(1).bytes(4000)
    film.write_bytes(bytes(content))
    with pytest.raises(MediumError):
        request_segment(film, None, tmp_path / "b.mp4", probe(film), None, None, GUARDS)
    with pytest.raises(MediumError):
        request_segments(tmp_path / "absent.mp4", LIMITS, GUARDS)


@st.composite
def footage(draw: st.DrawFn) -> PacketTable:
    """Closed groups with frames of odd sizes, some led by frames of the next."""
    packets, time = [], 0
    for length in draw(st.lists(st.integers(1, 12), min_size=1, max_size=15)):
        leads = draw(st.booleans()) and time > 0 and length > 1
        order = [time + 1, time, *range(time + 2, time + length)] if leads else range(time, time + length)
        for place, pts in enumerate(order):
            packets.append(Packet(pts, place == 0, False, draw(st.integers(50, 3000)), 1))
        time += length
    return PacketTable(tuple(packets), Fraction(1, 10))


@given(footage(), st.integers(15_000, 40_000), st.fractions(Fraction(1, 2), 5, max_denominator=10))
def test_pieces_follow_on_each_other_and_keep_the_limits(film: PacketTable, max_bytes: int, max_s: Fraction) -> None:
    found = split_into_segments(film, SegmentLimits(max_bytes, max_s), may_copy=True)
    assert found[0].start_s == 0
    assert all(one.end_s == other.start_s for one, other in pairwise(found))
    assert found[-1].end_s >= film.moment_s(film.frame_times[-1])
    for piece in found:
        assert decode_segment_plan(encode_segment_plan(piece)) == piece
        if piece.copied:
            held = film.packets[piece.first : piece.stop]
            assert sum(packet.num_bytes for packet in held) < max_bytes
            times = [packet.pts for packet in held if packet.pts is not None]
            assert min(times) == piece.start_s * 10
            others = [packet.pts for packet in film.packets[piece.stop :] if packet.pts is not None]
            assert not others or max(times) < min(others)

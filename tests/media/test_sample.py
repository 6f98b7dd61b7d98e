from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.domain.media import FrameSampling, MediumError
from kastor.media.frame_sampling import Packet, PacketTable, decode_groups, sampling_plan

TABLES = st.lists(
    st.tuples(st.integers(0, 3000), st.booleans()), min_size=1, max_size=40, unique_by=lambda p: p[0]
).map(
    lambda rows: PacketTable(
        tuple(Packet(pts, key or i == 0, False) for i, (pts, key) in enumerate(rows)), Fraction(1, 90)
    )
)


def _plan(table: PacketTable, **sampling: float) -> list[float]:
    return list(sampling_plan(table, FrameSampling(**sampling), max_moments=10_000).shown_s)


def _steady(count: int, fps: int = 10) -> PacketTable:
    return PacketTable(tuple(Packet(i, i % 5 == 0, False, duration=1) for i in range(count)), Fraction(1, fps))


@given(TABLES, st.floats(0.1, 30), st.integers(0, 500))
def test_a_moment_shows_the_last_picture_that_has_begun_and_the_first_before_any_has(
    table: PacketTable, fps: float, earlier: int
) -> None:
    table = replace(table, start_pts=table.frame_times[0] - earlier)
    plan = sampling_plan(table, FrameSampling(fps), max_moments=100_000)
    for moment, pts in zip(plan.moments_s, plan.pts, strict=True):
        begun = [other for other in table.frame_times if other <= table.zero + 90 * (moment + 1e-6)]
        assert pts == (begun[-1] if begun else table.frame_times[0])
    assert list(plan.pts) == sorted(plan.pts)


def test_a_moment_that_no_binary_fraction_holds_still_meets_its_picture() -> None:
    table = PacketTable(tuple(Packet(3000 * i, i == 0, False, duration=3000) for i in range(40)), Fraction(1, 90_000))
    assert sampling_plan(table, FrameSampling(10), max_moments=99).pts == tuple(9000 * i for i in range(14))
    assert sampling_plan(table, FrameSampling(30), max_moments=99).pts == tuple(3000 * i for i in range(40))


@pytest.mark.parametrize(("times", "last", "seconds"), [((0, 390, 780, 1170), 1, 1171.0), ((0, 1, 100), 0, 100.0)])
def test_a_video_lasts_until_its_last_picture_goes_whatever_the_steps_before(
    times: tuple[int, ...], last: int, seconds: float
) -> None:
    table = PacketTable(tuple(Packet(at, at == 0, False, duration=last) for at in times), Fraction(1))
    assert table.duration_s == seconds


@given(TABLES, st.sets(st.integers(0, 39)))
def test_what_is_sent_holds_each_wanted_frame_once_and_starts_at_keyframes(table: PacketTable, picks: set[int]) -> None:
    packets = table.packets
    wanted = {packets[i].pts for i in picks if i < len(packets)}
    units = decode_groups(packets, [pts for pts in wanted if pts is not None])
    assert [pts for unit in units for pts in unit.pts].__len__() == len(wanted)
    assert set().union(*(unit.pts for unit in units)) == wanted
    for before, after in zip(units, units[1:], strict=False):
        assert before.stop <= after.first
    for unit in units:
        assert packets[unit.first].key
        assert packets[unit.stop - 1].pts in unit.pts
        assert {packet.pts for packet in packets[unit.first : unit.stop]} >= unit.pts


def test_half_open_segments_meet_without_overlap() -> None:
    table = _steady(100)
    assert _plan(table, end_s=5) + _plan(table, start_s=5) == _plan(table)


def test_an_end_beyond_the_video_is_the_end() -> None:
    assert _plan(_steady(20), end_s=3600) == _plan(_steady(20)) == [0, 1]


def test_without_another_track_times_count_from_the_first_shown_frame() -> None:
    late = PacketTable(tuple(Packet(1000 + i, i == 0, i < 3, duration=1) for i in range(13)), Fraction(1, 10))
    plan = sampling_plan(late, FrameSampling(), max_moments=10)
    assert (plan.start_pts, plan.pts, plan.shown_s, plan.duration_s) == (1003, (1003,), (0.0,), 1.0)


def test_frames_before_the_first_keyframe_do_not_count() -> None:
    table = PacketTable(
        tuple(Packet(pts, key, False) for pts, key in [(0, False), (1, False), (5, True), (3, False), (6, False)]),
        Fraction(1, 10),
    )
    assert table.frame_times == [5, 6]


@pytest.mark.parametrize(
    ("sampling", "rule"),
    [
        (FrameSampling(start_s=2), "segment_outside_video"),
        (FrameSampling(start_s=1, end_s=1), "segment_empty"),
        (FrameSampling(start_s=-1), "segment_empty"),
        (FrameSampling(fps=0), "segment_empty"),
        (FrameSampling(fps=24), "video_too_many_frames"),
    ],
)
def test_a_sampling_that_names_nothing_or_too_much_is_refused(sampling: FrameSampling, rule: str) -> None:
    with pytest.raises(MediumError) as caught:
        sampling_plan(_steady(20), sampling, max_moments=40)
    assert caught.value.fault.rule == rule


def test_a_video_without_shown_frames_is_refused() -> None:
    with pytest.raises(MediumError, match="no frames"):
        sampling_plan(PacketTable((Packet(0, True, True),), Fraction(1, 10)), FrameSampling(), max_moments=9)

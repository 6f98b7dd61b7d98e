"""The rule that weighs the bytes of features against the time they save."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kastor.worker.pipeline.cache_policy import (
    MAX_MB_PER_S,
    CacheDecision,
    FeatureCost,
    mb_per_saved_second,
    should_cache,
)

MEASURED = st.builds(
    FeatureCost,
    tower_ms=st.floats(0.001, 10_000),
    read_ms=st.floats(0.001, 100),
    num_bytes=st.integers(1, 1 << 32),
)
READS, PICTURES, ROOM = st.integers(1, 1000), st.integers(1, 1_000_000), st.integers(0, 1 << 50)


@given(MEASURED, READS, PICTURES, ROOM, st.floats(1, 100))
def test_what_is_kept_would_be_kept_if_it_saved_more_or_took_less(
    measured: FeatureCost, reads: int, pictures: int, room: int, factor: float
) -> None:
    if not should_cache(measured, num_reads=reads, num_pictures=pictures, room_bytes=room):
        return
    for better in (
        replace(measured, tower_ms=measured.tower_ms * factor),
        replace(measured, read_ms=measured.read_ms / factor),
        replace(measured, num_bytes=math.ceil(measured.num_bytes / factor)),
    ):
        assert should_cache(better, num_reads=reads, num_pictures=pictures, room_bytes=room)
    assert should_cache(measured, num_reads=reads + 1, num_pictures=pictures, room_bytes=room)
    assert should_cache(measured, num_reads=reads, num_pictures=max(1, pictures - 1), room_bytes=room + 1)


@given(MEASURED, READS, PICTURES, ROOM)
def test_what_is_kept_fits_saves_time_and_costs_at_most_the_threshold(
    measured: FeatureCost, reads: int, pictures: int, room: int
) -> None:
    choice = CacheDecision.by_rule(measured, num_reads=reads, num_pictures=pictures, room_bytes=room)
    if choice.keep:
        assert measured.read_ms < measured.tower_ms
        assert measured.num_bytes * pictures <= room
        assert mb_per_saved_second(measured, reads) <= MAX_MB_PER_S

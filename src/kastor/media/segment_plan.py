"""Where a long video is cut: arithmetic on its packets. The cutting itself is `media.chunk`'s business.

A piece that begins and ends at *clean* keyframes is copied as it is; a keyframe is clean if no packet after it is shown
before it and none before it after it. Where none lies within the limits, the stretch up to the next one is re-encoded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from kastor.domain.media import MediumError
from kastor.media.frame_sampling import Packet, PacketTable

OVERHEAD_SHARE = Fraction(1, 100)  # of a container, over its packets' bytes
SPARE_BYTES = 10_000  # kept in front for the index, beside INDEX_BYTES a packet
INDEX_BYTES = 40


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """What a piece may have at most; `None` for no bound. Bytes of the file and seconds shown."""

    max_bytes: int | None
    max_s: Fraction | None


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a video shown in [start_s, end_s), exact seconds since its container's start.

    It is in packets [first, stop), with the picture that is on the screen when it begins. If not `copied`, it has to be
    encoded anew from them.
    """

    first: int
    stop: int
    start_s: Fraction
    end_s: Fraction
    copied: bool

    def halves(self) -> tuple["Segment", "Segment"]:
        """Two pieces to encode in its place."""
        middle = (self.start_s + self.end_s) / 2
        return (
            Segment(self.first, self.stop, self.start_s, middle, False),
            Segment(self.first, self.stop, middle, self.end_s, False),
        )


def clean_cuts(table: PacketTable) -> list[int]:
    """Packets, after the first, at which the video can be cut by copying, in order."""
    times = [packet.pts for packet in table.packets]
    lowest_after = list(accumulate((_or(pts, math.inf) for pts in reversed(times)), min))[::-1]
    highest_before = list(accumulate((_or(pts, -math.inf) for pts in times), max))
    return [
        i
        for i, packet in enumerate(table.packets)
        if i > table.begin
        and packet.key
        and not packet.discard
        and packet.pts is not None
        and highest_before[i - 1] < packet.pts
        and (i + 1 == len(times) or lowest_after[i + 1] > packet.pts)
    ]


def split_into_segments(table: PacketTable, limits: SegmentLimits, *, may_copy: bool) -> tuple[Segment, ...]:
    """The whole video as pieces within the limits, in order and without gaps.

    Raises:
        MediumError: no frames are shown.

    """
    if not table.frame_times:
        raise MediumError.of("video_without_frames", "The video has no frames.")
    starts = [table.begin, *(clean_cuts(table) if may_copy else [])]
    found: list[Segment] = []
    place = 0
    while place < len(starts):
        stop = _last_that_fits(table, limits, starts, place) if may_copy else None
        if stop is None:
            found += _encoded(table, limits, starts, place)
            place += 1
        else:
            found.append(_piece(table, starts, place, stop, copied=True))
            place = stop
    return tuple(found)


def encode_segment_plan(piece: Segment) -> list[Any]:
    """A piece as JSON has it."""
    start, end = piece.start_s, piece.end_s
    return [
        piece.first,
        piece.stop,
        start.numerator,
        start.denominator,
        end.numerator,
        end.denominator,
        piece.copied,
    ]


def decode_segment_plan(fields: list[Any]) -> Segment:
    """The piece that `encode_segment_plan` wrote."""
    first, stop, start, start_of, end, end_of, copied = fields
    return Segment(int(first), int(stop), Fraction(start, start_of), Fraction(end, end_of), bool(copied))


def _or(pts: int | None, otherwise: float) -> float:
    return otherwise if pts is None else pts


def _bounds(table: PacketTable, starts: Sequence[int], place: int, stop: int) -> tuple[int, int]:
    """Presentation times at which what lies between two starts begins and ends; the first picture is seen from zero."""
    begins = table.zero if place == 0 else table.packets[starts[place]].pts or 0
    ends = table.packets[starts[stop]].pts if stop < len(starts) else None
    return begins, table.end if ends is None else ends


def _piece(table: PacketTable, starts: Sequence[int], place: int, stop: int, *, copied: bool) -> Segment:
    begins, ends = _bounds(table, starts, place, stop)
    after = starts[stop] if stop < len(starts) else len(table.packets)
    return Segment(starts[place], after, table.moment_s(begins), table.moment_s(ends), copied)


def _last_that_fits(table: PacketTable, limits: SegmentLimits, starts: Sequence[int], place: int) -> int | None:
    """The farthest of the starts after `place` up to which a copy keeps the limits."""
    best = None
    num_bytes: Fraction | int = SPARE_BYTES
    for stop in range(place + 1, len(starts) + 1):
        after = starts[stop] if stop < len(starts) else len(table.packets)
        num_bytes += _copied_bytes(table.packets[starts[stop - 1] : after])
        begins, ends = _bounds(table, starts, place, stop)
        over_bytes = limits.max_bytes is not None and num_bytes > limits.max_bytes
        if over_bytes or (limits.max_s is not None and (ends - begins) * table.time_base > limits.max_s):
            break
        best = stop
    return best


def _copied_bytes(packets: Sequence[Packet]) -> Fraction:
    return sum(packet.num_bytes for packet in packets) * (1 + OVERHEAD_SHARE) + INDEX_BYTES * len(packets)


def _encoded(table: PacketTable, limits: SegmentLimits, starts: Sequence[int], place: int) -> list[Segment]:
    """The stretch up to the next start in equal pieces, cut at ticks of the video's clock."""
    stretch = _piece(table, starts, place, place + 1, copied=False)
    span_s = stretch.end_s - stretch.start_s
    num_bytes = _copied_bytes(table.packets[stretch.first : stretch.stop])
    ticks = round(span_s / table.time_base)
    by_time = 1 if limits.max_s is None else math.ceil(ticks / max(1, math.floor(limits.max_s / table.time_base)))
    by_bytes = 1 if limits.max_bytes is None else math.ceil(num_bytes / limits.max_bytes)
    wanted = min(max(1, by_time, by_bytes), max(1, ticks))
    borders = [stretch.start_s + ticks * k // wanted * table.time_base for k in range(wanted + 1)]
    return [Segment(stretch.first, stretch.stop, low, high, False) for low, high in pairwise(borders)]


class CopiedTimes(NamedTuple):
    """Presentation and decoding times of a copied piece's packets, from 0 on, and how long the last packet lasts."""

    pts: list[int | None]
    dts: list[int]
    last_duration: int


def copied_times(table: PacketTable, piece: Segment) -> CopiedTimes:
    """The times by which a copy shows at each moment what the video shows there, and lasts as long as the piece.

    The first picture of a video is seen from its start on, also where the file has it begin later. An MP4 says of a
    packet that it lasts until the next one is decoded, so the packet after the last picture is decoded at its end.
    """
    start, end = (table.zero + round(at / table.time_base) for at in (piece.start_s, piece.end_s))
    packets = table.packets[piece.first : piece.stop]
    pts = [None if packet.pts is None else packet.pts - start for packet in packets]
    dts = _decoding_times(packets, start)
    shown = [(at, i) for i, at in enumerate(pts) if at is not None and not packets[i].discard]
    first, place = min(shown)
    if first > 0:
        pts[: place + 1] = [None if at is None else at - first for at in pts[: place + 1]]
        dts[: place + 1] = [at - first for at in dts[: place + 1]]
    _, place = max(shown)
    lasts = max(1, end - start - (pts[place] or 0))
    if place + 1 == len(packets):
        return CopiedTimes(pts, dts, lasts)
    surplus = lasts - (dts[place + 1] - dts[place])
    early = slice(0, place + 1) if surplus > 0 else slice(place + 1, None)  # earlier is always possible
    dts[early] = [at - abs(surplus) for at in dts[early]]
    return CopiedTimes(pts, dts, packets[-1].duration)


def _decoding_times(packets: Sequence[Packet], start: int) -> list[int]:
    """Ascending, and none after its picture is shown; Matroska does not tell those of the first packets."""
    found: list[int] = []
    before = math.inf
    for packet in reversed(packets):
        known = packet.dts if packet.dts is not None else packet.pts
        at = min(before - 1, _or(None if known is None else known - start, math.inf), _or(packet.pts, math.inf) - start)
        found.append(int(at) if math.isfinite(at) else 0)
        before = found[-1]
    return found[::-1]

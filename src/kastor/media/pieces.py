"""Where a long video is cut: arithmetic on its packets. The cutting itself is `media.chunk`'s business.

A piece that begins and ends at *clean* keyframes is copied as it is; a keyframe is clean if no packet after it is shown
before it and none before it after it. Where none lies within the limits, the stretch up to the next one is re-encoded.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from kastor.domain.media import BadMedium

OVERHEAD_SHARE = Fraction(1, 100)  # of a container, over its packets' bytes
SPARE_BYTES = 10_000  # kept in front for the index, beside INDEX_BYTES a packet
INDEX_BYTES = 40


class SizedPacket(NamedTuple):
    """One packet in the order of the file."""

    pts: int | None
    key: bool
    discard: bool
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a piece may have at most; `None` for no bound. Bytes of the file and seconds shown."""

    max_bytes: int | None
    max_s: Fraction | None


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a video shown in [start_s, end_s), exact seconds since its first shown frame.

    It is in packets [first, stop). If not `copied`, it has to be encoded anew from them.
    """

    first: int
    stop: int
    start_s: Fraction
    end_s: Fraction
    copied: bool

    def halves(self) -> tuple["Piece", "Piece"]:
        """Two pieces to encode in its place."""
        middle = (self.start_s + self.end_s) / 2
        return (
            Piece(self.first, self.stop, self.start_s, middle, False),
            Piece(self.first, self.stop, middle, self.end_s, False),
        )


@dataclass(frozen=True)
class Footage:
    """All packets of one video stream and its clock."""

    packets: tuple[SizedPacket, ...]
    time_base: Fraction

    @cached_property
    def begin(self) -> int:
        """The first packet that can be decoded."""
        return next((i for i, packet in enumerate(self.packets) if packet.key), 0)

    @cached_property
    def shown(self) -> list[int]:
        """Presentation times of the frames that are shown, ascending (as `sample.PacketTable.shown`)."""
        first = self.packets[self.begin].pts if self.packets and self.packets[self.begin].key else None
        return sorted(
            packet.pts
            for packet in self.packets[self.begin :]
            if packet.pts is not None and not packet.discard and (first is None or packet.pts >= first)
        )

    @cached_property
    def clean(self) -> list[int]:
        """Packets, after the first, at which the video can be cut by copying, in order."""
        times = [packet.pts for packet in self.packets]
        lowest_after = list(accumulate((_or(pts, math.inf) for pts in reversed(times)), min))[::-1]
        highest_before = list(accumulate((_or(pts, -math.inf) for pts in times), max))
        return [
            i
            for i, packet in enumerate(self.packets)
            if i > self.begin
            and packet.key
            and not packet.discard
            and packet.pts is not None
            and highest_before[i - 1] < packet.pts
            and (i + 1 == len(times) or lowest_after[i + 1] > packet.pts)
        ]

    def moment_s(self, pts: int) -> Fraction:
        """Seconds since the first shown frame."""
        return (pts - self.shown[0]) * self.time_base

    def span_s(self, start_pts: int, end_pts: int | None) -> Fraction:
        """How long a file of the frames shown in [start, end) lasts, its last frame taken for as long as the mean."""
        low = bisect_left(self.shown, start_pts)
        high = len(self.shown) if end_pts is None else bisect_left(self.shown, end_pts)
        if high - low < 2:
            return Fraction(0)
        shown_s = (self.shown[high - 1] - self.shown[low]) * self.time_base
        return shown_s * (1 + Fraction(1, high - low - 1))


def pieces(footage: Footage, limits: Limits, *, may_copy: bool) -> tuple[Piece, ...]:
    """The whole video as pieces within the limits, in order and without gaps.

    Raises:
        BadMedium: no frames are shown.

    """
    if not footage.shown:
        raise BadMedium.of("video_without_frames", "The video has no frames.")
    starts = [footage.begin, *(footage.clean if may_copy else [])]
    found: list[Piece] = []
    place = 0
    while place < len(starts):
        stop = _last_that_fits(footage, limits, starts, place) if may_copy else None
        if stop is None:
            found += _encoded(footage, limits, starts, place)
            place += 1
        else:
            found.append(_piece(footage, starts, place, stop, copied=True))
            place = stop
    return tuple(found)


def piece_fields(piece: Piece) -> list[Any]:
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


def piece_of(fields: list[Any]) -> Piece:
    """The piece that `piece_fields` wrote."""
    first, stop, start, start_of, end, end_of, copied = fields
    return Piece(int(first), int(stop), Fraction(start, start_of), Fraction(end, end_of), bool(copied))


def _or(pts: int | None, otherwise: float) -> float:
    return otherwise if pts is None else pts


def _bounds(footage: Footage, starts: Sequence[int], place: int, stop: int) -> tuple[int, int | None]:
    """Presentation times at which the packets between two starts begin and end."""
    begins = footage.shown[0] if place == 0 else footage.packets[starts[place]].pts or 0
    return begins, footage.packets[starts[stop]].pts if stop < len(starts) else None


def _piece(footage: Footage, starts: Sequence[int], place: int, stop: int, *, copied: bool) -> Piece:
    begins, ends = _bounds(footage, starts, place, stop)
    end_s = footage.span_s(footage.shown[0], None) if ends is None else footage.moment_s(ends)
    after = starts[stop] if stop < len(starts) else len(footage.packets)
    return Piece(starts[place], after, footage.moment_s(begins), end_s, copied)


def _last_that_fits(footage: Footage, limits: Limits, starts: Sequence[int], place: int) -> int | None:
    """The farthest of the starts after `place` up to which a copy keeps the limits."""
    best = None
    num_bytes: Fraction | int = SPARE_BYTES
    for stop in range(place + 1, len(starts) + 1):
        after = starts[stop] if stop < len(starts) else len(footage.packets)
        num_bytes += _copied_bytes(footage.packets[starts[stop - 1] : after])
        begins, ends = _bounds(footage, starts, place, stop)
        lasts_s = footage.span_s(begins, ends)
        if ends is not None:
            lasts_s = max(lasts_s, (ends - begins) * footage.time_base)
        over_bytes = limits.max_bytes is not None and num_bytes > limits.max_bytes
        if over_bytes or (limits.max_s is not None and lasts_s > limits.max_s):
            break
        best = stop
    return best


def _copied_bytes(packets: Sequence[SizedPacket]) -> Fraction:
    return sum(packet.num_bytes for packet in packets) * (1 + OVERHEAD_SHARE) + INDEX_BYTES * len(packets)


def _encoded(footage: Footage, limits: Limits, starts: Sequence[int], place: int) -> list[Piece]:
    """The stretch up to the next start in equal pieces."""
    stretch = _piece(footage, starts, place, place + 1, copied=False)
    span_s = stretch.end_s - stretch.start_s
    num_bytes = _copied_bytes(footage.packets[stretch.first : stretch.stop])
    by_time = 1 if limits.max_s is None else math.ceil(span_s / limits.max_s)
    by_bytes = 1 if limits.max_bytes is None else math.ceil(num_bytes / limits.max_bytes)
    wanted = max(1, by_time, by_bytes)
    while limits.max_s is not None and not _keep(footage, stretch, wanted, limits.max_s):
        wanted += 1  # frames may come so irregularly that a piece counts as longer than it was cut
    borders = [stretch.start_s + span_s * k / wanted for k in range(wanted + 1)]
    return [
        Piece(stretch.first, stretch.stop, borders[k], borders[k + 1], False)
        for k in range(wanted)
        if _num_shown(footage, borders[k], borders[k + 1])
    ]


def _keep(footage: Footage, stretch: Piece, wanted: int, max_s: Fraction) -> bool:
    step = (stretch.end_s - stretch.start_s) / wanted
    if step * 1000 < max_s:
        return True  # it never will
    origin = footage.shown[0]
    borders = [math.ceil((stretch.start_s + step * k) / footage.time_base) + origin for k in range(wanted + 1)]
    return all(footage.span_s(low, high) <= max_s for low, high in zip(borders, borders[1:], strict=False))


def _num_shown(footage: Footage, start_s: Fraction, end_s: Fraction) -> int:
    origin = footage.shown[0]
    low, high = math.ceil(start_s / footage.time_base) + origin, math.ceil(end_s / footage.time_base) + origin
    return bisect_right(footage.shown, high - 1) - bisect_left(footage.shown, low)

"""Which frames to take and which packets to send a decoder for them: arithmetic on a table of packets.

Measured (1080p, one frame a second): sending, of each group of pictures, only the packets up to the last chosen frame
costs a third to a half of decoding everything, and gives the same pixels.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from kastor.domain.media import FrameSampling, MediumError, SamplingPlan

SAMPLING = 2  # counts changes to which frames are chosen; stored with what was trained on them
SCALING = 2  # counts changes to how decoders turn and scale them; stored as well, and part of the keys of pictures
END_SLACK_S = Fraction(1, 1000)  # a millisecond clock rounds a video's end up by as much, and no moment lies so late
MOMENT_SLACK_S = Fraction(1, 1_000_000)  # to which moments are known: offsets are written in decimals


class Packet(NamedTuple):
    """One packet in the order of the file; `pts` is absent in the second field of an interlaced frame."""

    pts: int | None
    key: bool
    discard: bool  # decoded, never shown (edit lists)
    num_bytes: int = 0
    duration: int = 0  # in the unit of `pts`; 0 where the file does not say
    dts: int | None = None


@dataclass(frozen=True)
class PacketTable:
    """All packets of one video stream, and its container's start and end on the same clock.

    Another track may begin earlier and end later; without the two the stream is all there is.
    """

    packets: tuple[Packet, ...]
    time_base: Fraction
    start_pts: int | None = None
    end_pts: int | None = None

    @cached_property
    def frame_times(self) -> list[int]:
        """Presentation times of the frames that are shown, ascending.

        What comes before the first keyframe cannot be decoded: a recording that begins in the midst of a group.
        """
        begin = self.begin
        first = self.packets[begin].pts if self.packets and self.packets[begin].key else None
        return sorted(
            p.pts
            for p in self.packets[begin:]
            if p.pts is not None and not p.discard and (first is None or p.pts >= first)
        )

    @cached_property
    def begin(self) -> int:
        """The first packet that can be decoded."""
        return next((i for i, packet in enumerate(self.packets) if packet.key), 0)

    @property
    def zero(self) -> int:
        """The presentation time from which seconds are counted: the container's start."""
        return self.frame_times[0] if self.start_pts is None else self.start_pts

    @cached_property
    def end(self) -> int:
        """The presentation time at which the container ends."""
        last = self.frame_times[-1]
        lasts = max((packet.duration for packet in self.packets if packet.pts == last), default=0)
        return max(last + lasts, last if self.end_pts is None else self.end_pts)

    @property
    def duration(self) -> Fraction:
        """Seconds from the container's start to its end, exact.

        >>> PacketTable(tuple(Packet(10 * i, i == 0, False, duration=10) for i in range(5)), Fraction(1, 100)).duration
        Fraction(1, 2)
        """
        return max(Fraction(0), (self.end - self.zero) * self.time_base) if self.frame_times else Fraction(0)

    @property
    def duration_s(self) -> float:
        """The duration as a number."""
        return float(self.duration)

    def moment_s(self, pts: int) -> Fraction:
        """Seconds since the container's start."""
        return (pts - self.zero) * self.time_base

    def frame_at(self, moment: Fraction) -> int:
        """Which picture is seen so many seconds after the start: the last that has begun; the first before any has."""
        latest = self.zero + math.floor((moment + MOMENT_SLACK_S) / self.time_base)
        return self.frame_times[max(0, bisect_right(self.frame_times, latest) - 1)]


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Packets [first, stop) of the table, sent to a flushed decoder in one go, give the frames `pts`."""

    first: int
    stop: int
    pts: frozenset[int]


def num_sampled_frames(span: Fraction, fps: Fraction) -> int:
    """How many moments lie in `span` seconds; the first is always one.

    >>> [num_sampled_frames(Fraction(span), Fraction(1)) for span in ("10", "10.001", "10.5", "15.0167", "0")]
    [10, 10, 11, 16, 1]
    """
    return max(1, math.ceil((span - END_SLACK_S) * fps))


def sampling_plan(table: PacketTable, sampling: FrameSampling, *, max_moments: int) -> SamplingPlan:
    """The moments of `sampling`, and the frame that is on the screen at each.

    Raises:
        MediumError: no frames, a segment outside the video, or more than `max_moments`.

    """
    if not table.frame_times:
        raise MediumError.of("video_without_frames", "The video has no frames.")
    span, start, fps = _span(sampling, table.duration), decimal(sampling.start_s), decimal(sampling.fps)
    count = num_sampled_frames(span, fps)
    if count > max_moments:
        raise MediumError.of(
            "video_too_many_frames",
            f"{sampling.fps:g} frames a second of this video are {count} frames, at most {max_moments} are taken.",
            "Lower fps, or name a segment with startOffset and endOffset.",
        )
    moments = [start + k / fps for k in range(count)]
    pts = tuple(map(table.frame_at, moments))
    return SamplingPlan(tuple(map(float, moments)), pts, table.time_base, table.zero, table.duration_s)


def decimal(number: float) -> Fraction:
    """The number as it is written, not as it is stored.

    >>> decimal(0.1)
    Fraction(1, 10)
    """
    return Fraction(repr(float(number)))


def _span(sampling: FrameSampling, duration: Fraction) -> Fraction:
    if sampling.fps <= 0 or sampling.start_s < 0 or (sampling.end_s is not None and sampling.end_s <= sampling.start_s):
        raise MediumError.of(
            "segment_empty",
            f"startOffset {sampling.start_s:g} s, endOffset {sampling.end_s} s, fps {sampling.fps:g} name no frames.",
            "Give 0 <= startOffset < endOffset and fps above 0.",
        )
    start = decimal(sampling.start_s)
    if start > 0 and start >= duration:
        raise MediumError.of(
            "segment_outside_video",
            f"The segment starts at {sampling.start_s:g} s, the video lasts {float(duration):.3f} s.",
            "Move startOffset inside the video.",
        )
    return (duration if sampling.end_s is None else min(decimal(sampling.end_s), duration)) - start


def decode_groups(packets: Sequence[Packet], wanted: Iterable[int]) -> tuple[DecodeGroup, ...]:
    """What to send for the frames `wanted`: from a keyframe to the last one needed, in the order of the file.

    A frame shown before its group's keyframe (open group of pictures) needs the whole group before it, too.

    >>> table = [Packet(0, True, False), Packet(1, False, False), Packet(3, True, False), Packet(2, False, False)]
    >>> [(unit.first, unit.stop) for unit in decode_groups(table, {0, 3})]
    [(0, 1), (2, 3)]
    >>> [(unit.first, unit.stop) for unit in decode_groups(table, {2})]
    [(0, 4)]
    """
    chosen = set(wanted)
    units: list[DecodeGroup] = []
    previous_first = 0
    for first, stop in _groups(packets):
        hits = [i for i in range(first, stop) if packets[i].pts in chosen and not packets[i].discard]
        if hits:
            begin = previous_first if any(_leads(packets[i], packets[first]) for i in hits) else first
            pts = frozenset(p for i in hits if (p := packets[i].pts) is not None)
            if begin < first and units and units[-1].stop > begin:
                before = units.pop()
                begin, pts = before.first, pts | before.pts
            units.append(DecodeGroup(begin, hits[-1] + 1, pts))
        previous_first = first
    return tuple(units)


def _leads(packet: Packet, keyframe: Packet) -> bool:
    return packet.pts is not None and keyframe.pts is not None and packet.pts < keyframe.pts


def _groups(packets: Sequence[Packet]) -> list[tuple[int, int]]:
    starts = [i for i, packet in enumerate(packets) if packet.key or i == 0]
    return list(zip(starts, [*starts[1:], len(packets)], strict=True))

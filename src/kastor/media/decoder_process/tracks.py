"""Which track of a container is the film, and when the container begins and ends. Runs only in `media.child`.

Seconds of a video are counted from its container's start, which is that of the sound where that begins earlier, and it
lasts until its last track ends, as players have it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import av
import av.container
import av.packet
import av.video.stream
from av.stream import Discard, Disposition

from kastor.media.frame_sampling import PacketTable

STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
PICTURE_CODECS = frozenset(["mjpeg", "png", "bmp", "gif", "webp"])  # of thumbnails, where there is another track
TRACK_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # as Matroska's tags have it
FROM_ZERO = ("mov", "matroska")  # containers whose own clock begins at 0


def codec_name(stream: av.video.stream.VideoStream) -> str:
    """The name of the track's codec."""
    try:
        return str(stream.codec_context.codec.canonical_name)
    except (AttributeError, ValueError):
        return "of unknown kind"  # no decoder was built in


def film_track(streams: Sequence[av.video.stream.VideoStream]) -> av.video.stream.VideoStream:
    """The track that players show: not a thumbnail that comes first; the default one, else the largest and longest.

    MP4 and WebM writers take the first track for the default one where nobody names one, hence the thumbnails come
    first in this.
    """
    longest_s = max(_track_s(stream) for stream in streams)

    def rank(stream: av.video.stream.VideoStream) -> tuple[bool, bool, int, float, int]:
        brief = stream.frames == 1 or 2 * _track_s(stream) < longest_s or codec_name(stream) in PICTURE_CODECS
        default = bool(stream.disposition & Disposition.default)
        size = stream.codec_context.width * stream.codec_context.height
        return not brief, default, size, _track_s(stream), -stream.index

    return max(streams, key=rank)


def _track_s(stream: av.video.stream.VideoStream) -> float:
    """How long the track says it is; 0 where it does not say."""
    found = TRACK_DURATION.match(stream.metadata.get("DURATION", ""))
    if found is not None:
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
    return float((stream.duration or 0) * (stream.time_base or 0))


class SoundSpan:
    """When the sound begins and ends, by its packets."""

    def __init__(self, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> None:
        self.tracks = [one for one in container.streams.audio if one.time_base is not None]
        for one in self.tracks:
            one.discard = Discard.default
        self._first: dict[int, int] = {}
        self._end: dict[int, int] = {}

    def add(self, track: int, pts: int | None, lasts: int) -> None:
        """Take note of a packet of the track; how long it sounds may be unknown."""
        if pts is not None:
            self._first[track] = min(pts, self._first.get(track, pts))
            self._end[track] = max(pts + lasts, self._end.get(track, pts))

    def span(self) -> tuple[Fraction | None, Fraction | None]:
        """Seconds on the container's clock; `None` where there is no sound."""
        bases = {one.index: one.time_base or Fraction(0) for one in self.tracks}
        begins = [pts * bases[index] for index, pts in self._first.items()]
        ends = [pts * bases[index] for index, pts in self._end.items()]
        return min(begins, default=None), max(ends, default=None)


def container_span(
    table: PacketTable,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    sound: SoundSpan,
) -> PacketTable:
    """The table with the container's start and end on its clock."""
    begins = table.frame_times[0] * table.time_base
    sound_begins, sound_ends = sound.span()
    start = begins if sound_begins is None else min(begins, sound_begins)
    if start < 0 and container.format.name.startswith(FROM_ZERO):
        start = Fraction(0)  # before it lies what a decoder needs to begin with, sound above all
    ends = max(_pictures_end(table, container, stream, start), begins if sound_ends is None else sound_ends)
    return replace(table, start_pts=round(start / table.time_base), end_pts=round(ends / table.time_base))


def _pictures_end(
    table: PacketTable,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    start: Fraction,
) -> Fraction:
    """When the last picture goes: by its packet's length, else by what the header says."""
    last = table.frame_times[-1] * table.time_base
    if table.end > table.frame_times[-1]:
        return table.end * table.time_base
    if container.duration is not None and start + Fraction(container.duration, av.time_base) > last:
        return start + Fraction(container.duration, av.time_base)
    rate = stream.guessed_rate
    return last + (1 / rate if rate else 0)


def header_duration_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float:
    """From the container's start to its end, by the header."""
    tracks = [
        (max(Fraction(0), one.start_time * one.time_base), one.duration * one.time_base)
        for one in (stream, *container.streams.audio)
        if one.start_time is not None and one.duration is not None and one.time_base is not None
    ]
    return float(max(start + lasts for start, lasts in tracks) - min(start for start, _ in tracks)) if tracks else 0.0

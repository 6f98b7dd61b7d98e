"""Pieces of a video inside the child process: copied packet by packet, or encoded anew. Runs only in `media.child`.

What is made is kept in memory and goes to the parent through the pipe: the child may not write files. Sound is left
out, as it is not trained on.
"""

import io
import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.container
import av.error
import av.video.stream
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from kastor.domain.media import MediumError
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process.containers import open_container, pixel_aspect, video_stream
from kastor.media.decoder_process.packet_table import VideoPacket, read_packet_table
from kastor.media.decoder_process.process_limits import set_cpu_limit
from kastor.media.frame_sampling import PacketTable
from kastor.media.segment_plan import INDEX_BYTES, Segment, SegmentLimits, copied_times, split_into_segments

COPIED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})  # which MP4 takes and players know
INDEX_SPARE_BYTES = 8192
# no pictures out of order: an MP4 gives lengths in the order of decoding, and so that of the last picture shown
ENCODER = {"preset": "superfast", "crf": "23", "forced-idr": "1", "bf": "0"}
MAX_ASPECT_TERM = 65_535  # as H.264 writes it
GROUP_S = 4  # a keyframe at least as often: one frame a second is what is mostly taken


def plan_segments(path: Path, limits: SegmentLimits, guards: DecodeLimits) -> tuple[Segment, ...]:
    """Where to cut.

    Raises:
        MediumError: the file is damaged or no video.

    """
    with open_container(path, guards) as container:
        stream = _stream(container, guards)
        table = read_packet_table(container, stream, guards)
        may_copy = stream.codec_context.codec.canonical_name in COPIED_CODECS
    return split_into_segments(table, limits, may_copy=may_copy)


def remux_segment(path: Path, piece: Segment, guards: DecodeLimits) -> bytes:
    """An MP4 of the piece's packets as they are, which starts at time 0.

    Raises:
        MediumError: the packets cannot be read or do not go into an MP4.

    """
    memory = io.BytesIO()
    with open_container(path, guards) as source:
        table = read_packet_table(source, _stream(source, guards), guards)
    times = copied_times(table, piece)
    try:
        with open_container(path, guards) as source, _mp4(memory, table.time_base, piece.stop - piece.first) as target:
            stream = _stream(source, guards)
            copy = target.add_stream_from_template(stream, opaque=True)
            copy.time_base = table.time_base
            packets = islice(_packets(source, stream), piece.first, piece.stop)
            for packet, pts, dts in zip(packets, times.pts, times.dts, strict=False):
                packet.pts, packet.dts = pts, dts
                if dts == times.dts[-1]:
                    packet.duration = times.last_duration
                packet.stream = copy
                target.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise _damaged(str(error)) from error
    return memory.getvalue()


def encode_segment(
    path: Path, piece: Segment | None, lines: int | None, max_bytes: int | None, guards: DecodeLimits
) -> bytes:
    """An MP4 (H.264) of the piece, or of the whole video, with `lines` pixels on its shorter side if it has more.

    Raises:
        MediumError: a frame is damaged, or the outcome has more than `max_bytes` ("piece_too_large").

    """
    with open_container(path, guards) as container:
        stream = _stream(container, guards)
        table = read_packet_table(container, stream, guards)
        width, height = stream.codec_context.width, stream.codec_context.height
    part = piece or Segment(table.begin, len(table.packets), Fraction(0), table.duration, False)
    set_cpu_limit(encoding_cpu_s(float(part.end_s - part.start_s), width * height, guards))
    return _Encoder(path, table, part, guards).run(downscaled_size(width, height, lines), max_bytes)


def encoding_cpu_s(span_s: float, num_pixels: int, guards: DecodeLimits) -> int:
    """Processor seconds that encoding may take: what decoding may, and as much again for small pictures."""
    return 2 * guards.decode_cpu(span_s + 30, num_pixels)


def downscaled_size(width: int, height: int, lines: int | None) -> tuple[int, int]:
    """The size with `lines` pixels on the shorter side, never more than there are, in even numbers.

    >>> (downscaled_size(1920, 1080, 512), downscaled_size(1080, 1920, 256),
    ...  downscaled_size(320, 180, 256), downscaled_size(321, 181, None))
    ((910, 512), (256, 456), (320, 180), (322, 182))
    """
    scale = 1.0 if lines is None else min(1.0, lines / min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(2, 2 * math.ceil(round(side) / 2))


class _Encoder:
    """Encodes one part of one video: what is on the screen when it begins, and what is shown before it ends."""

    def __init__(self, path: Path, table: PacketTable, part: Segment, guards: DecodeLimits) -> None:
        self._path, self._table, self._part, self._guards = path, table, part, guards
        self._start, self._end = (table.zero + math.ceil(at / table.time_base) for at in (part.start_s, part.end_s))
        self._low = table.frame_at(part.start_s)
        self._scaler = VideoReformatter()

    def run(self, size: tuple[int, int], max_bytes: int | None) -> bytes:
        memory = io.BytesIO()
        expected = sum(self._is_seen(pts) for pts in self._table.frame_times)
        num_frames = 0
        waiting: list[VideoPacket] = []
        with (
            open_container(self._path, self._guards) as source,
            _mp4(memory, self._table.time_base, expected) as target,
        ):
            stream = _stream(source, self._guards)
            out = self._out(target, stream, size)
            for frame in self._frames(source, stream):
                if num_frames == 0 and frame.rotation:
                    out.set_display_rotation(frame.rotation)
                waiting += out.encode(self._scaled(frame, size))
                target.mux(waiting[:-1])
                del waiting[:-1]
                num_frames += 1
                if max_bytes is not None and memory.tell() > max_bytes:
                    break
            waiting += out.encode()
            if waiting:
                last = waiting[-1]  # without frames out of order it is the one shown last
                last.duration = math.ceil((self._end - self._start) * self._table.time_base / last.time_base) - (
                    last.pts or 0
                )
            target.mux(waiting)
        if max_bytes is not None and memory.tell() > max_bytes:
            raise MediumError.of("piece_too_large", f"Encoded anew it still has more than {max_bytes:,} bytes.")
        if num_frames != expected:
            raise _damaged(f"{num_frames} of {expected} frames could be decoded")
        return memory.getvalue()

    def _out(
        self, target: av.container.OutputContainer, stream: av.video.stream.VideoStream, size: tuple[int, int]
    ) -> av.video.stream.VideoStream:
        rate = stream.average_rate or Fraction(30)
        options = ENCODER | {"g": str(max(1, round(rate * GROUP_S)))}
        out = target.add_stream("libx264", rate=rate.limit_denominator(60_000), options=options)
        out.width, out.height = size
        out.pix_fmt = "yuv420p"
        out.time_base = self._table.time_base
        context, source = out.codec_context, stream.codec_context
        context.time_base = self._table.time_base
        context.thread_count = 1
        # the picture keeps its shape, and its colours their meaning
        if (aspect := pixel_aspect(stream)) != 1:
            aspect *= Fraction(source.width * size[1], source.height * size[0])
            context.sample_aspect_ratio = aspect.limit_denominator(MAX_ASPECT_TERM)
        context.color_trc, context.color_primaries = source.color_trc, source.color_primaries
        context.colorspace, context.color_range = source.colorspace, source.color_range
        return out

    def _frames(
        self, source: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> Iterator[av.VideoFrame]:
        """The frames shown in the part, in order; decoding starts a keyframe early, for those that lead one."""
        enter = self._enter()
        given: set[int] = set()
        for number, packet in enumerate(_packets(source, stream)):
            if number < enter:
                continue
            if number >= self._part.stop:
                break
            for frame in _decoded(stream, packet):
                if self._wanted(frame, given):
                    yield frame
                elif frame.pts is not None and frame.pts >= self._end:
                    return
        for frame in _decoded(stream, None):
            if self._wanted(frame, given):
                yield frame

    def _wanted(self, frame: av.VideoFrame, given: set[int]) -> bool:
        pts = frame.pts
        if pts is None or not self._is_seen(pts) or frame.is_corrupt or pts in given:
            return False
        given.add(pts)
        return True

    def _is_seen(self, pts: int) -> bool:
        return pts == self._low or self._low < pts < self._end

    def _enter(self) -> int:
        keys = [
            i
            for i in range(self._part.first, self._part.stop)
            if self._table.packets[i].key and (self._table.packets[i].pts or 0) <= self._low
        ]
        return keys[-2] if len(keys) > 1 else self._part.first

    def _scaled(self, frame: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
        scaled = self._scaler.reformat(
            frame, width=size[0], height=size[1], format="yuv420p", interpolation=Interpolation.BICUBIC
        )
        scaled.pts = 0 if frame.pts == self._low else (frame.pts or 0) - self._start
        scaled.time_base = self._table.time_base
        scaled.pict_type = PictureType.NONE  # the encoder decides; it would otherwise follow the source
        return scaled


def _mp4(memory: BinaryIO, time_base: Fraction, num_packets: int) -> av.container.OutputContainer:
    """An MP4 with its index in front, for which room is kept."""
    options = {"moov_size": str(INDEX_BYTES * num_packets + INDEX_SPARE_BYTES)}
    if time_base.numerator == 1:
        options["video_track_timescale"] = str(time_base.denominator)
    return av.open(memory, "w", format="mp4", options=options)


def _packets(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[VideoPacket]:
    return (packet for packet in container.demux(stream) if packet.size)


def _decoded(stream: av.video.stream.VideoStream, packet: Any) -> list[av.VideoFrame]:  # noqa: ANN401  # or None, to flush
    try:
        return stream.codec_context.decode(packet)
    except (av.error.InvalidDataError, av.error.EOFError):
        return []  # what is lost by it is counted


def _stream(container: av.container.InputContainer, guards: DecodeLimits) -> av.video.stream.VideoStream:
    stream = video_stream(container, guards)
    if stream is None:
        raise MediumError.of("video_without_frames", "The file has no video track.")
    return stream


def _damaged(what: str) -> MediumError:
    return MediumError.of("media_damaged", f"The video cannot be cut: {what}.", "Export it again from the original.")

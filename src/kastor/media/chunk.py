"""Pieces of a video inside the child process: copied packet by packet, or encoded anew. Runs only in `media.child`.

What is made is kept in memory and goes to the parent through the pipe: the child may not write files. Sound is left
out, as it is not trained on.
"""

import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.container
import av.error
import av.video.stream
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from kastor.domain.media import BadMedium
from kastor.media.confine import allow_cpu
from kastor.media.containers import opened, video_stream
from kastor.media.guards import Guards
from kastor.media.moving import VideoPacket
from kastor.media.pieces import INDEX_BYTES, Footage, Limits, Piece, SizedPacket, pieces

COPIED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})  # which MP4 takes and players know
INDEX_SPARE_BYTES = 8192
ENCODER = {"preset": "superfast", "crf": "23", "forced-idr": "1"}
GROUP_S = 4  # a keyframe at least as often: one frame a second is what is mostly taken


def planned(path: Path, limits: Limits, guards: Guards) -> tuple[Piece, ...]:
    """Where to cut.

    Raises:
        BadMedium: the file is damaged or no video.

    """
    with opened(path, guards) as container:
        stream = _stream(container, guards)
        footage = read_footage(container, stream, guards)
        may_copy = stream.codec_context.codec.canonical_name in COPIED_CODECS
    return pieces(footage, limits, may_copy=may_copy)


def read_footage(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, guards: Guards
) -> Footage:
    """All packets with their sizes.

    Raises:
        BadMedium: the file was cut off or is damaged, or has too many packets.

    """
    packets = []
    try:
        for packet in _packets(container, stream):
            packets.append(SizedPacket(packet.pts, packet.is_keyframe, packet.is_discard, packet.size))
            if packet.is_corrupt or len(packets) > guards.max_packets:
                raise _damaged(f"packet {len(packets)} is not whole, or there are too many")
    except (av.error.FFmpegError, OSError) as error:
        raise _damaged(str(error)) from error
    if stream.time_base is None:
        raise _damaged("it has no clock")
    return Footage(tuple(packets), stream.time_base)


def copied(path: Path, piece: Piece, guards: Guards) -> bytes:
    """An MP4 of the piece's packets as they are, which starts at time 0.

    Raises:
        BadMedium: the packets cannot be read or do not go into an MP4.

    """
    memory = io.BytesIO()
    with opened(path, guards) as source:
        stream = _stream(source, guards)
        footage = read_footage(source, stream, guards)
    start_pts = footage.shown[0] + round(piece.start_s / footage.time_base)
    try:
        with opened(path, guards) as source, _mp4(memory, footage.time_base, piece.stop - piece.first) as target:
            stream = _stream(source, guards)
            copy = target.add_stream_from_template(stream, opaque=True)
            copy.time_base = footage.time_base
            for number, packet in enumerate(_packets(source, stream)):
                if number >= piece.stop:
                    break
                if number >= piece.first:
                    packet.pts = None if packet.pts is None else packet.pts - start_pts
                    packet.dts = None if packet.dts is None else packet.dts - start_pts
                    packet.stream = copy
                    target.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise _damaged(str(error)) from error
    return memory.getvalue()


def encoded(path: Path, piece: Piece | None, lines: int | None, max_bytes: int | None, guards: Guards) -> bytes:
    """An MP4 (H.264) of the piece, or of the whole video, with `lines` pixels on its shorter side if it has more.

    Raises:
        BadMedium: a frame is damaged, or the outcome has more than `max_bytes` ("piece_too_large").

    """
    with opened(path, guards) as container:
        stream = _stream(container, guards)
        footage = read_footage(container, stream, guards)
        width, height = stream.codec_context.width, stream.codec_context.height
    if not footage.shown:
        raise BadMedium.of("video_without_frames", "The video has no frames.")
    whole = Piece(footage.begin, len(footage.packets), Fraction(0), footage.span_s(footage.shown[0], None) + 1, False)
    part = piece or whole
    allow_cpu(encoding_cpu_s(float(part.end_s - part.start_s), width * height, guards))
    low, high = (footage.shown[0] + math.ceil(at / footage.time_base) for at in (part.start_s, part.end_s))
    return _Encoder(path, footage, part, low, high, guards).run(smaller(width, height, lines), max_bytes)


def encoding_cpu_s(span_s: float, num_pixels: int, guards: Guards) -> int:
    """Processor seconds that encoding may take: what decoding may, and as much again for small pictures."""
    return 2 * guards.decode_cpu(span_s + 30, num_pixels)


def smaller(width: int, height: int, lines: int | None) -> tuple[int, int]:
    """The size with `lines` pixels on the shorter side, never more than there are, in even numbers.

    >>> smaller(1920, 1080, 512), smaller(1080, 1920, 256), smaller(320, 180, 256), smaller(321, 181, None)
    ((910, 512), (256, 456), (320, 180), (322, 182))
    """
    scale = 1.0 if lines is None else min(1.0, lines / min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(2, 2 * math.ceil(round(side) / 2))


class _Encoder:
    """Encodes the frames shown in [low, high) of one video."""

    def __init__(self, path: Path, footage: Footage, part: Piece, low: int, high: int, guards: Guards) -> None:
        self._path, self._footage, self._part = path, footage, part
        self._low, self._high, self._guards = low, high, guards
        self._scaler = VideoReformatter()

    def run(self, size: tuple[int, int], max_bytes: int | None) -> bytes:
        memory = io.BytesIO()
        expected = sum(self._low <= pts < self._high for pts in self._footage.shown)
        num_frames = 0
        with opened(self._path, self._guards) as source, _mp4(memory, self._footage.time_base, expected) as target:
            stream = _stream(source, self._guards)
            out = self._out(target, stream, size)
            for frame in self._frames(source, stream):
                if num_frames == 0 and frame.rotation:
                    out.set_display_rotation(frame.rotation)
                target.mux(out.encode(self._scaled(frame, size)))
                num_frames += 1
                if max_bytes is not None and memory.tell() > max_bytes:
                    break
            target.mux(out.encode())
        if max_bytes is not None and memory.tell() > max_bytes:
            raise BadMedium.of("piece_too_large", f"Encoded anew it still has more than {max_bytes:,} bytes.")
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
        out.time_base = self._footage.time_base
        out.codec_context.time_base = self._footage.time_base
        out.codec_context.thread_count = 1
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
                elif frame.pts is not None and frame.pts >= self._high:
                    return
        for frame in _decoded(stream, None):
            if self._wanted(frame, given):
                yield frame

    def _wanted(self, frame: av.VideoFrame, given: set[int]) -> bool:
        pts = frame.pts
        if pts is None or not self._low <= pts < self._high or frame.is_corrupt or pts in given:
            return False
        given.add(pts)
        return True

    def _enter(self) -> int:
        keys = [
            i
            for i in range(self._part.first, self._part.stop)
            if self._footage.packets[i].key and (self._footage.packets[i].pts or 0) <= self._low
        ]
        return keys[-2] if len(keys) > 1 else self._part.first

    def _scaled(self, frame: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
        scaled = self._scaler.reformat(
            frame, width=size[0], height=size[1], format="yuv420p", interpolation=Interpolation.BICUBIC
        )
        scaled.pts = (frame.pts or 0) - self._low
        scaled.time_base = self._footage.time_base
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


def _stream(container: av.container.InputContainer, guards: Guards) -> av.video.stream.VideoStream:
    stream = video_stream(container, guards)
    if stream is None:
        raise BadMedium.of("video_without_frames", "The file has no video track.")
    return stream


def _damaged(what: str) -> BadMedium:
    return BadMedium.of("media_damaged", f"The video cannot be cut: {what}.", "Export it again from the original.")

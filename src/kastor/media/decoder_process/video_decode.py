"""Frames of a video inside the child process, by the send plan of `media.sample`. Runs only in `media.child`.

Two threads, each with a container and a single-threaded decoder of its own, take groups of pictures in turn: frame
threads in one decoder lose to that, as each jump drains their pipeline (measured 19.3 s against 12.5 s). Both read the
whole file, which is cheap beside decoding, so that nothing depends on seeking, which is loose in TS, AVI and MPEG-PS.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.video.stream
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from kastor.domain.media import MediumError, Resampling
from kastor.media.decode_limits import MIB, DecodeLimits
from kastor.media.decoder_process.containers import (
    open_container,
    pixel_aspect,
    quarter_turns,
    square_size,
    video_stream,
)
from kastor.media.decoder_process.packet_table import VideoPacket, read_packet_table
from kastor.media.decoder_process.process_limits import set_cpu_limit
from kastor.media.frame_sampling import DecodeGroup, decode_groups

# decoders that may skip a frame nobody refers to packet by packet; libdav1d reads the setting only when opened
SKIPPERS = frozenset(
    ["h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "h263", "msmpeg4v3", "wmv3", "vc1"]
)
NUM_WORKERS = 2
PENDING_BYTES = 64 * MIB  # of frames decoded ahead of their turn

Pixels = NDArray[np.uint8]


def decode_frames(
    path: Path,
    wanted: Sequence[int],
    size: tuple[int, int] | None,
    guards: DecodeLimits,
    send: Callable[[int, Pixels], None],
    resample: Resampling = Resampling.BICUBIC,
) -> None:
    """Give `send` the frames with the presentation times `wanted` (ascending, each once), in that order.

    Raises:
        MediumError: a frame is missing or damaged.

    """
    with open_container(path, guards) as container:
        stream = _stream(container, guards)
        table = read_packet_table(container, stream, guards, with_sound=False)
        context, aspect = stream.codec_context, pixel_aspect(stream)
        set_cpu_limit(guards.decode_cpu(table.duration_s, context.width * context.height))
    units = decode_groups(table.packets, wanted)
    if set().union(*(unit.pts for unit in units)) != set(wanted):
        raise MediumError.of(
            "media_changed", "The video no longer has the frames that were planned.", "Check the dataset again."
        )
    relay = _Relay(wanted, units)
    for _ in range(min(NUM_WORKERS, len(units))):
        threading.Thread(target=_work, args=(path, _Scaler(size, resample, aspect), guards, relay), daemon=True).start()
    num_sent = 0
    try:
        for pts, pixels in relay.frames():
            send(pts, pixels)
            num_sent += 1
    except _NotEnterable:
        _from_the_start(path, wanted[num_sent:], _Scaler(size, resample, aspect), guards, send)


class _NotEnterable(Exception):
    """A group of pictures does not give its frames when decoding starts with it."""


def _from_the_start(
    path: Path, wanted: Sequence[int], scaler: "_Scaler", guards: DecodeLimits, send: Callable[[int, Pixels], None]
) -> None:
    """Decode everything once: what a keyframe that is none, or damage, leaves to do. Costs one whole decode at most."""
    expected = iter(wanted)

    def take(pts: int, pixels: Pixels) -> None:
        if pts != next(expected):
            raise _missing()  # an earlier one did not come
        send(pts, pixels)

    with open_container(path, guards) as container:
        stream = _stream(container, guards)
        decoder = _Decoder(stream.codec_context, scaler)
        packets = (packet for packet in container.demux(stream) if packet.size)
        try:
            found = decoder.run(packets, frozenset(wanted), take, skip=False)
        except av.error.FFmpegError as error:
            raise _damaged(error) from error
    if len(found) < len(wanted):
        raise _missing()


class _Relay:
    """Hands out units in the order of the file and gives the frames back in the order of time."""

    def __init__(self, wanted: Sequence[int], units: Sequence[DecodeGroup]) -> None:
        self._wanted = wanted
        self._units = units
        self._unit_of = {pts: i for i, unit in enumerate(units) for pts in unit.pts}
        self._taken = 0
        self._next = 0  # position in `wanted` of the frame to hand on
        self._ready: dict[int, Pixels] = {}
        self._pending_bytes = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def take(self) -> tuple[int, DecodeGroup] | None:
        """The next unit and its number; `None` when there is no more to do."""
        with self._changed:
            if self._error is not None or self._taken == len(self._units):
                return None
            self._taken += 1
            self._changed.notify_all()
            return self._taken - 1, self._units[self._taken - 1]

    def put(self, number: int, pts: int, pixels: Pixels) -> None:
        """A frame of unit `number`; waits while too many lie ready and somebody else is at the one that is next."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._may_put(number))
            self._ready[pts] = pixels
            self._pending_bytes += pixels.nbytes
            self._changed.notify_all()

    def _may_put(self, number: int) -> bool:
        if self._pending_bytes < PENDING_BYTES or self._next == len(self._wanted):
            return True
        turn = self._unit_of[self._wanted[self._next]]
        return turn == number or turn >= self._taken

    def fail(self, error: BaseException) -> None:
        """End the work with `error`."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def frames(self) -> Iterator[tuple[int, Pixels]]:
        """(presentation time, frame) in order."""
        for position, pts in enumerate(self._wanted):
            with self._changed:
                self._next = position
                self._changed.notify_all()
                self._changed.wait_for(lambda pts=pts: pts in self._ready or self._error is not None)  # type: ignore[misc]
                if pts not in self._ready:
                    raise self._error or AssertionError("a frame was neither found nor missed")
                pixels = self._ready.pop(pts)
                self._pending_bytes -= pixels.nbytes
            yield pts, pixels


def _work(path: Path, scaler: "_Scaler", guards: DecodeLimits, relay: _Relay) -> None:
    try:
        with open_container(path, guards) as container:
            stream = _stream(container, guards)
            decoder = _Decoder(stream.codec_context, scaler)
            packets = enumerate(packet for packet in container.demux(stream) if packet.size)
            while (taken := relay.take()) is not None:
                number, unit = taken
                sent = _slice(packets, unit)
                found = decoder.unit(sent, unit.pts, lambda pts, pixels, n=number: relay.put(n, pts, pixels))  # type: ignore[misc]
                if unit.pts - found:
                    raise _NotEnterable
    except (av.error.FFmpegError, OSError) as error:
        relay.fail(_damaged(error))
    except MemoryError:
        relay.fail(MediumError.of("media_too_much_memory", "The file asks for more memory than a medium may have."))
    except BaseException as error:  # noqa: BLE001  # a thread's end: the main thread raises it
        relay.fail(error)


def _slice(packets: Iterator[tuple[int, VideoPacket]], unit: DecodeGroup) -> list[VideoPacket]:
    sent = []
    for index, packet in packets:
        if index >= unit.first:
            sent.append(packet)
        if index == unit.stop - 1:
            break
    return sent


def _missing() -> MediumError:
    return MediumError.of(
        "frame_corrupt",
        "A frame to be sampled is damaged or cannot be decoded.",
        "Export the video again from the original.",
    )


def _damaged(error: Exception) -> MediumError:
    return MediumError.of(
        "frame_corrupt",
        f"The video is damaged: {getattr(error, 'strerror', None) or error}.",
        "Export the video again from the original.",
    )


def _stream(container: av.container.InputContainer, guards: DecodeLimits) -> av.video.stream.VideoStream:
    stream = video_stream(container, guards)
    if stream is None:
        raise MediumError.of("video_without_frames", "The file has no video track.")
    return stream


class _Decoder:
    """One single-threaded decoder and its scaler."""

    def __init__(self, context: VideoCodecContext, scaler: "_Scaler") -> None:
        self._context = context
        self._scaler = scaler
        self._skips = context.codec.canonical_name in SKIPPERS

    def unit(
        self, packets: Sequence[VideoPacket], wanted: frozenset[int], take: Callable[[int, Pixels], None]
    ) -> set[int]:
        """Decode, skipping what no frame refers to, and once more without skipping if a frame did not come."""
        found = self.run(packets, wanted, take, skip=self._skips)
        if wanted - found:
            found |= self.run(packets, wanted - found, take, skip=False)
        return found

    def run(
        self, packets: Iterable[VideoPacket], wanted: Set[int], take: Callable[[int, Pixels], None], *, skip: bool
    ) -> set[int]:
        """Decode until all wanted frames have come; what comes damaged does not count."""
        found: set[int] = set()
        for packet in packets:
            if self._skips:
                self._context.skip_frame = "NONREF" if skip and packet.pts not in wanted else "DEFAULT"
            self._keep(self._decoded(packet), wanted, found, take)
            if len(found) == len(wanted):
                break
        self._keep(self._decoded(None), wanted, found, take)
        self._context.flush_buffers()
        return found

    def _decoded(self, packet: "VideoPacket | None") -> list[av.VideoFrame]:
        try:
            return self._context.decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            return []  # what is lost by it is missed afterwards

    def _keep(
        self,
        frames: Sequence[av.VideoFrame],
        wanted: Set[int],
        found: set[int],
        take: Callable[[int, Pixels], None],
    ) -> None:
        for frame in frames:
            pts = frame.pts
            if pts is not None and pts in wanted and pts not in found and not frame.is_corrupt:
                found.add(pts)
                take(pts, self._scaler.pixels(frame))


class _Scaler:
    """Frames at the size they are wanted in; for one thread."""

    def __init__(self, size: tuple[int, int] | None, resample: Resampling, aspect: Fraction) -> None:
        self._size = size
        self._aspect = aspect  # of a stored pixel
        self._filter = Interpolation[resample.name]
        self._reformatter = VideoReformatter()

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """(height, width, 3), upright."""
        turns = quarter_turns(frame.rotation)
        if self._size is None:
            width, height = square_size((frame.width, frame.height), self._aspect)
        else:
            width, height = self._size[::-1] if turns % 2 else self._size
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=self._filter
        )
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), turns))

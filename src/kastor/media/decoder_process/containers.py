"""Video and audio files inside the child process: opened with every guard, probed, tabled.

Runs only in `media.child`. What FFmpeg's demuxers and decoders may be reached is an allowlist: a playlist, a list of
files to join or a nested protocol in a file of any name is refused before anything of it is followed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import av
import av.container
import av.error
import av.packet
import av.video.stream
from av.stream import Discard

from kastor.domain.media import MediaKind, MediumError, Probe
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process.packet_table import VideoPacket, check_duration, read_packets, truncated_fault
from kastor.media.decoder_process.tracks import STILLS, codec_name, film_track, header_duration_s
from kastor.media.file_type import NUM_BYTES, declared_num_bytes
from kastor.media.frame_sampling import PacketTable

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,asf"
DECODERS = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,libdav1d,libaom-av1,av1,mpeg1video,mpeg2video,mpegvideo,mpeg4"
OLD_DECODERS = "msmpeg4v1,msmpeg4v2,msmpeg4,msmpeg4v3,h263,h263i,flv,flv1,vc1,wmv1,wmv2,wmv3,mjpeg"
ACCEPTED = (
    "h264 hevc vp8 vp9 av1 mpeg1video mpeg2video mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h263 h263i h263p flv1 vc1 wmv1 "
    "wmv2 wmv3 mjpeg"
)
CODECS = frozenset(ACCEPTED.split())
SOON_READ = 600  # packets
FIRST_PACKETS = 300  # within which a frame must come out
MAX_ASPECT = Fraction(8)
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


@contextmanager
def open_container(path: Path, guards: DecodeLimits) -> Iterator[av.container.InputContainer]:
    """The container, opened by an absolute name that FFmpeg cannot take for a protocol.

    Raises:
        MediumError: it is none of the containers we accept.

    """
    options = {
        "format_whitelist": DEMUXERS,
        "protocol_whitelist": "file",
        "codec_whitelist": f"{DECODERS},{OLD_DECODERS}",
        "max_pixels": str(guards.max_video_pixels),
        "threads": "1",
    }
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError) as error:
        raise unsupported_fault(error) from error
    with container:
        _check_whole(path)
        yield container


def _check_whole(path: Path) -> None:
    with path.open("rb") as file:
        promised = declared_num_bytes(file.read(NUM_BYTES))
    num_bytes = path.stat().st_size
    if promised is not None and promised > num_bytes:
        raise truncated_fault(f"it promises {promised} bytes and has {num_bytes}")


def unsupported_fault(error: Exception) -> MediumError:
    """The fault of a file that no demuxer takes."""
    if isinstance(error, MemoryError):
        return MediumError.of("media_too_much_memory", "The file asks for more memory than a medium may have.")
    return MediumError.of(
        "media_unreadable",
        f"Not a readable video, image or PDF ({getattr(error, 'strerror', None) or error}).",
        "Accepted are mp4, mov, webm, mkv, mpeg, flv, wmv, 3gpp, avi; png, jpeg, webp, heic, heif; pdf. A file "
        "that was cut off while it was copied reads so, too.",
    )


def video_stream(container: av.container.InputContainer, guards: DecodeLimits) -> av.video.stream.VideoStream | None:
    """The one video stream to use, all others discarded; `None` if there is no moving picture.

    Raises:
        MediumError: its codec is not accepted, or its pictures are too large.

    """
    streams = [s for s in container.streams.video if not s.disposition & STILLS]
    if not streams:
        return None
    stream = film_track(streams)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    codec = codec_name(stream)
    if codec not in CODECS:
        raise MediumError.of(
            "video_codec_unsupported",
            f"The video codec {codec} is not accepted.",
            "Convert it to H.264: `ffmpeg -i IN -c:v libx264 OUT.mp4`.",
        )
    _check_size(stream.codec_context.width, stream.codec_context.height, guards)
    stream.codec_context.options = {"max_pixels": str(guards.max_video_pixels)}
    stream.codec_context.thread_count = 1
    return stream


def _check_size(width: int, height: int, guards: DecodeLimits) -> None:
    if width <= 0 or height <= 0:
        raise MediumError.of(
            "video_size_unknown",
            f"The video's pictures have no size, or one beyond {guards.max_video_pixels} pixels.",
            "It is empty or damaged, or has to be scaled down: `ffmpeg -i IN -vf scale=-2:1080 OUT.mp4`.",
        )
    if width * height > guards.max_video_pixels or max(width, height) > guards.max_side:
        raise MediumError.of(
            "video_too_many_pixels",
            f"The video's pictures are {width} x {height}, at most {guards.max_video_pixels} pixels are decoded.",
            "Scale it down: `ffmpeg -i IN -vf scale=-2:1080 OUT.mp4`.",
        )


def probe_container(path: Path, guards: DecodeLimits) -> Probe:
    """What a video or sound file says of itself; of its packets, too, where the header cannot be trusted.

    Raises:
        MediumError: nothing can be taken from it.

    """
    with open_container(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is None:
            return _sound(path, container)
        if not _trusted(container, stream, path):
            return _probed(path, container, stream, guards)[0]
        duration_s = header_duration_s(container, stream)
        check_duration(duration_s, guards)
        shape = _shape(container.demux(stream), path, stream, guards)
        return _video(path, container, stream, duration_s, stream.frames, shape)


def probe_planned(path: Path, guards: DecodeLimits) -> tuple[Probe, PacketTable]:
    """What a video is by its packets, all of which are read, and the packets.

    Raises:
        MediumError: as `probe_container`, or there is no video in the file.

    """
    with open_container(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is None:
            raise MediumError.of("video_without_frames", "The file has no video track.")
        return _probed(path, container, stream, guards)


def _probed(
    path: Path, container: av.container.InputContainer, stream: av.video.stream.VideoStream, guards: DecodeLimits
) -> tuple[Probe, PacketTable]:
    table, first = read_packets(container, stream, guards)
    shape = _shape(first, path, stream, guards)
    return _video(path, container, stream, table.duration_s, len(table.frame_times), shape), table


def _video(
    path: Path,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    duration_s: float,
    num_frames: int,
    shape: "_Shape",
) -> Probe:
    return Probe(
        kind=MediaKind.VIDEO,
        container=container.format.name,
        num_bytes=path.stat().st_size,
        codec=codec_name(stream),
        width=shape.width,
        height=shape.height,
        duration_s=duration_s,
        fps=num_frames / duration_s if duration_s > 0 else None,
        rotation=shape.rotation,
        num_frames=num_frames,
        stored_size=shape.stored_size,
        hdr=HDR.get(shape.transfer, ""),
    )


def _trusted(container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path) -> bool:
    """Whether the header is enough: an MP4 or MOV of many frames, without fragments, edits and pauses.

    Its index holds decoding times; when frames are shown only the packets tell, and few packets are soon read.

    Raises:
        MediumError: the index names bytes beyond the end of the file.

    """
    if "mov" not in container.format.name or stream.frames < SOON_READ or not stream.duration:
        return False
    times = []
    end = 0
    num_bytes = path.stat().st_size
    for entry in stream.index_entries:
        if entry.is_discard:
            return False
        times.append(entry.timestamp)
        end = max(end, entry.pos + entry.size)
    if end > num_bytes:
        raise truncated_fault(f"its index names {end} bytes and it has {num_bytes}")
    return len(times) == stream.frames and has_regular_timestamps(times)


def has_regular_timestamps(times: Sequence[int]) -> bool:
    """Whether no step between (ascending) times is more than twice the mean: decoding times then tell the duration.

    >>> has_regular_timestamps([0, 10, 21, 30]), has_regular_timestamps([0, 10, 20, 120])
    (True, False)
    """
    mean = (times[-1] - times[0]) / max(1, len(times) - 1)
    return all(after - before <= 2 * mean for before, after in pairwise(times))


class _Shape(NamedTuple):
    """How pictures are shown, by the first one: only frames tell of the rotation."""

    width: int
    height: int
    rotation: int
    stored_size: tuple[int, int] | None  # turned, where its pixels are not square
    transfer: int  # from light to values


def _shape(
    packets: "Iterable[VideoPacket]", path: Path, stream: av.video.stream.VideoStream, guards: DecodeLimits
) -> _Shape:
    """As the first frame has it.

    Raises:
        MediumError: no frame comes out.

    """
    # drained after the keyframe: one frame is decoded instead of as many as are reordered
    key = next((packet for packet in packets if packet.is_keyframe), None)
    drained = [] if key is None else [*_decoded(stream, key), *_decoded(stream, None)]
    for frame in chain(drained, _first_frames(path, guards)):
        if not frame.is_corrupt:
            _check_size(frame.width, frame.height, guards)
            turns = quarter_turns(frame.rotation)
            stored = frame.width, frame.height
            square = square_size(stored, pixel_aspect(stream))
            width, height = _turned(square, turns)
            odd = None if square == stored else _turned(stored, turns)
            return _Shape(width, height, turns * 90, odd, int(frame.color_trc or 0))
    raise MediumError.of("video_without_frames", "No frame of the video can be decoded.")


def _turned(size: tuple[int, int], turns: int) -> tuple[int, int]:
    return (size[1], size[0]) if turns % 2 else size


def _first_frames(path: Path, guards: DecodeLimits) -> Iterator[av.VideoFrame]:
    with open_container(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is not None:
            for packet in islice(container.demux(stream), FIRST_PACKETS):
                yield from _decoded(stream, packet)


def _decoded(stream: av.video.stream.VideoStream, packet: "VideoPacket | None") -> list[av.VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except (av.error.FFmpegError, OSError):
        return []  # a stream may start in the middle of a group; a file of nothing else yields no frame


def pixel_aspect(stream: av.video.stream.VideoStream) -> Fraction:
    """How much wider than high a stored pixel is shown; 1 where the file does not say, or says nonsense."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)


def square_size(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """Width and height of the picture in square pixels: players change the width.

    >>> square_size((720, 576), Fraction(16, 11)), square_size((1440, 1080), Fraction(4, 3))
    ((1047, 576), (1920, 1080))
    """
    return max(1, round(size[0] * aspect)), size[1]


def quarter_turns(rotation: float) -> int:
    """Counterclockwise quarter turns, 0 to 3, nearest to `rotation` degrees.

    >>> quarter_turns(-90), quarter_turns(180), quarter_turns(0)
    (3, 2, 0)
    """
    return round(rotation / 90) % 4


def _sound(path: Path, container: av.container.InputContainer) -> Probe:
    if not container.streams.audio:
        raise MediumError.of("video_without_frames", "The file has neither a video nor a sound track.")
    sound = container.streams.audio[0]
    duration_s = float(sound.duration * sound.time_base) if sound.duration and sound.time_base else None
    if duration_s is None and container.duration is not None:
        duration_s = container.duration / av.time_base
    return Probe(
        kind=MediaKind.AUDIO,
        container=container.format.name,
        num_bytes=path.stat().st_size,
        codec=sound.codec_context.name if sound.codec_context else None,
        duration_s=duration_s,
    )

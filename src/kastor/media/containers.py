"""Video and audio files inside the child process: opened with every guard, probed, tabled.

Runs only in `media.child`. What FFmpeg's demuxers and decoders may be reached is an allowlist: a playlist, a list of
files to join or a nested protocol in a file of any name is refused before anything of it is followed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TypeAlias

import av
import av.container
import av.error
import av.packet
import av.video.stream
from av.stream import Discard, Disposition

from kastor.domain.media import BadMedium, MediaKind, Probe
from kastor.media.guards import Guards
from kastor.media.sample import Packet, PacketTable
from kastor.media.sniff import NUM_BYTES, promised_bytes

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,asf"
DECODERS = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,libdav1d,libaom-av1,av1,mpeg1video,mpeg2video,mpegvideo,mpeg4"
OLD_DECODERS = "msmpeg4v1,msmpeg4v2,msmpeg4,msmpeg4v3,h263,h263i,flv,flv1,vc1,wmv1,wmv2,wmv3,mjpeg"
ACCEPTED = (
    "h264 hevc vp8 vp9 av1 mpeg1video mpeg2video mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h263 h263i h263p flv1 vc1 wmv1 "
    "wmv2 wmv3 mjpeg"
)
CODECS = frozenset(ACCEPTED.split())
SOON_READ = 600  # packets
VideoPacket: TypeAlias = "av.packet.Packet[av.video.stream.VideoStream]"
FIRST_PACKETS = 300  # within which a frame must come out
TRUNCATED_S = 1.0  # a container that promises this much more than it holds was cut off


@contextmanager
def opened(path: Path, guards: Guards) -> Iterator[av.container.InputContainer]:
    """The container, opened by an absolute name that FFmpeg cannot take for a protocol.

    Raises:
        BadMedium: it is none of the containers we accept.

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
        raise unreadable(error) from error
    with container:
        _check_whole(path)
        yield container


def _check_whole(path: Path) -> None:
    with path.open("rb") as file:
        promised = promised_bytes(file.read(NUM_BYTES))
    num_bytes = path.stat().st_size
    if promised is not None and promised > num_bytes:
        raise _truncated(f"it promises {promised} bytes and has {num_bytes}")


def unreadable(error: Exception) -> BadMedium:
    """The fault of a file that no demuxer takes."""
    if isinstance(error, MemoryError):
        return BadMedium.of("media_too_much_memory", "The file asks for more memory than a medium may have.")
    return BadMedium.of(
        "media_unreadable",
        f"Not a readable video, image or PDF ({getattr(error, 'strerror', None) or error}).",
        "Accepted are mp4, mov, webm, mkv, mpeg, flv, wmv, 3gpp, avi; png, jpeg, webp, heic, heif; pdf. A file "
        "that was cut off while it was copied reads so, too.",
    )


def video_stream(container: av.container.InputContainer, guards: Guards) -> av.video.stream.VideoStream | None:
    """The one video stream to use, all others discarded; `None` if there is no moving picture.

    Raises:
        BadMedium: its codec is not accepted, or its pictures are too large.

    """
    # a cover picture in a sound file is a stream of its own
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        return None
    stream = streams[0]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    codec = _codec_name(stream)
    if codec not in CODECS:
        raise BadMedium.of(
            "video_codec_unsupported",
            f"The video codec {codec} is not accepted.",
            "Convert it to H.264, for example with `kastor prepare`.",
        )
    _check_size(stream.codec_context.width, stream.codec_context.height, guards)
    stream.codec_context.options = {"max_pixels": str(guards.max_video_pixels)}
    stream.codec_context.thread_count = 1
    return stream


def _codec_name(stream: av.video.stream.VideoStream) -> str:
    try:
        return str(stream.codec_context.codec.canonical_name)
    except (AttributeError, ValueError):
        return "of unknown kind"  # no decoder was built in


def _check_size(width: int, height: int, guards: Guards) -> None:
    if width <= 0 or height <= 0:
        raise BadMedium.of(
            "video_size_unknown",
            f"The video's pictures have no size, or one beyond {guards.max_video_pixels} pixels.",
            "It is empty or damaged, or has to be scaled down, for example with `kastor prepare`.",
        )
    if width * height > guards.max_video_pixels or max(width, height) > guards.max_side:
        raise BadMedium.of(
            "video_too_many_pixels",
            f"The video's pictures are {width} x {height}, at most {guards.max_video_pixels} pixels are decoded.",
            "Scale it down, for example with `kastor prepare`.",
        )


def read_table(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, guards: Guards
) -> PacketTable:
    """All packets of the stream, by reading the whole file once without decoding.

    Raises:
        BadMedium: the file was cut off or is damaged, has no frames, too many packets, or lasts too long.

    """
    return _read(container, stream, guards)[0]


def _read(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, guards: Guards
) -> tuple[PacketTable, "list[VideoPacket]"]:
    """The table, and the first keyframe's packet if there is one."""
    packets: list[Packet] = []
    first: list[VideoPacket] = []
    end_pts = 0
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt:
                raise _truncated(f"packet {len(packets)} is not whole")
            pts, key = packet.pts, packet.is_keyframe
            packets.append(Packet(pts, key, packet.is_discard))
            end_pts = max(end_pts, (pts or 0) + (packet.duration or 0))
            if key and not first:
                first.append(packet)
            if len(packets) > guards.max_packets:
                raise BadMedium.of(
                    "video_too_many_packets", f"The video has more than {guards.max_packets} packets.", "Cut it."
                )
    except (av.error.FFmpegError, OSError) as error:
        raise _truncated(str(getattr(error, "strerror", None) or error)) from error
    table = PacketTable(tuple(packets), stream.time_base or _no_clock(), end_pts)
    _check_table(table, container, stream, guards)
    return table, first


def _no_clock() -> Fraction:
    raise BadMedium.of("video_without_frames", "The video has no clock: no frame has a time.")


def _check_table(
    table: PacketTable,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    guards: Guards,
) -> None:
    if not table.shown:
        raise BadMedium.of("video_without_frames", "The video has no frames that are shown at a known time.")
    check_duration(table.duration_s, guards)
    name = container.format.name
    if "mov" in name or "flv" in name:
        promised_s = _promised_s(container, stream)
        held_s = max(table.duration_s, float((table.end_pts - table.shown[0]) * table.time_base))
        if promised_s is not None and held_s < promised_s - max(TRUNCATED_S, 0.02 * promised_s):
            raise _truncated(f"it promises {promised_s:.1f} s and holds {held_s:.1f} s")
    if "avi" in name and len(table.packets) < 0.98 * stream.frames - 1:
        raise _truncated(f"it promises {stream.frames} frames and holds {len(table.packets)}")


def _promised_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    """What the header says, where it speaks of the picture and not of a longer sound track."""
    if "mov" in container.format.name and stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return (container.duration or 0) / av.time_base if alone else None


def check_duration(duration_s: float, guards: Guards) -> None:
    """Refuse what lasts longer than anything honest.

    Raises:
        BadMedium: it does.

    """
    if duration_s > guards.max_duration_s:
        raise BadMedium.of(
            "video_too_long",
            f"The video lasts {duration_s / 3600:.1f} hours, at most {guards.max_duration_s / 3600:g} can be read.",
            "Cut it, for example with `kastor prepare`.",
        )


def _truncated(what: str) -> BadMedium:
    return BadMedium.of(
        "media_truncated", f"The file was cut off or is damaged: {what}.", "Copy or export it again from the original."
    )


def probe_container(path: Path, guards: Guards) -> Probe:
    """What a video or sound file says of itself; of its packets, too, where the header cannot be trusted.

    Raises:
        BadMedium: nothing can be taken from it.

    """
    with opened(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is None:
            return _sound(path, container)
        if not _trusted(container, stream, path):
            return _probed(path, container, stream, guards)[0]
        duration_s = float((stream.duration or 0) * (stream.time_base or 0))
        check_duration(duration_s, guards)
        shape = _shape(container.demux(stream), path, stream, guards)
        return _video(path, container, stream, duration_s, stream.frames, shape)


def probe_planned(path: Path, guards: Guards) -> tuple[Probe, PacketTable]:
    """What a video is by its packets, all of which are read, and the packets.

    Raises:
        BadMedium: as `probe_container`, or there is no video in the file.

    """
    with opened(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is None:
            raise BadMedium.of("video_without_frames", "The file has no video track.")
        return _probed(path, container, stream, guards)


def _probed(
    path: Path, container: av.container.InputContainer, stream: av.video.stream.VideoStream, guards: Guards
) -> tuple[Probe, PacketTable]:
    table, first = _read(container, stream, guards)
    shape = _shape(first, path, stream, guards)
    return _video(path, container, stream, table.duration_s, len(table.shown), shape), table


def _video(
    path: Path,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    duration_s: float,
    num_frames: int,
    shape: tuple[int, int, int],
) -> Probe:
    return Probe(
        kind=MediaKind.VIDEO,
        container=container.format.name,
        num_bytes=path.stat().st_size,
        codec=_codec_name(stream),
        width=shape[0],
        height=shape[1],
        duration_s=duration_s,
        fps=num_frames / duration_s if duration_s > 0 else None,
        rotation=shape[2],
        num_frames=num_frames,
    )


def _trusted(container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path) -> bool:
    """Whether the header is enough: an MP4 or MOV of many frames, without fragments, edits and pauses.

    Its index holds decoding times; when frames are shown only the packets tell, and few packets are soon read.

    Raises:
        BadMedium: the index names bytes beyond the end of the file.

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
        raise _truncated(f"its index names {end} bytes and it has {num_bytes}")
    return len(times) == stream.frames and is_steady(times)


def is_steady(times: Sequence[int]) -> bool:
    """Whether no step between (ascending) times is more than twice the mean: decoding times then tell the duration.

    >>> is_steady([0, 10, 21, 30]), is_steady([0, 10, 20, 120])
    (True, False)
    """
    mean = (times[-1] - times[0]) / max(1, len(times) - 1)
    return all(after - before <= 2 * mean for before, after in pairwise(times))


def _shape(
    packets: "Iterable[VideoPacket]", path: Path, stream: av.video.stream.VideoStream, guards: Guards
) -> tuple[int, int, int]:
    """(width, height, rotation) as the first frame has them: only frames tell of the rotation.

    Raises:
        BadMedium: no frame comes out.

    """
    # drained after the keyframe: one frame is decoded instead of as many as are reordered
    key = next((packet for packet in packets if packet.is_keyframe), None)
    drained = [] if key is None else [*_decoded(stream, key), *_decoded(stream, None)]
    for frame in chain(drained, _first_frames(path, guards)):
        if not frame.is_corrupt:
            _check_size(frame.width, frame.height, guards)
            turns = quarter_turns(frame.rotation)
            size = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
            return *size, turns * 90
    raise BadMedium.of("video_without_frames", "No frame of the video can be decoded.")


def _first_frames(path: Path, guards: Guards) -> Iterator[av.VideoFrame]:
    with opened(path, guards) as container:
        stream = video_stream(container, guards)
        if stream is not None:
            for packet in islice(container.demux(stream), FIRST_PACKETS):
                yield from _decoded(stream, packet)


def _decoded(stream: av.video.stream.VideoStream, packet: "VideoPacket | None") -> list[av.VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except (av.error.FFmpegError, OSError):
        return []  # a stream may start in the middle of a group; a file of nothing else yields no frame


def quarter_turns(rotation: float) -> int:
    """Counterclockwise quarter turns, 0 to 3, nearest to `rotation` degrees.

    >>> quarter_turns(-90), quarter_turns(180), quarter_turns(0)
    (3, 2, 0)
    """
    return round(rotation / 90) % 4


def _sound(path: Path, container: av.container.InputContainer) -> Probe:
    if not container.streams.audio:
        raise BadMedium.of("video_without_frames", "The file has neither a video nor a sound track.")
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

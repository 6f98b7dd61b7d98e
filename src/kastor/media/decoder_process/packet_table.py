"""The packets of a video, read from its file once without decoding, and what tells that it was cut off.

Runs only in `media.child`.
"""

from fractions import Fraction
from typing import TypeAlias, cast

import av
import av.container
import av.error
import av.packet
import av.video.stream

from kastor.domain.media import MediumError
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process.tracks import SoundSpan, container_span
from kastor.media.frame_sampling import Packet, PacketTable

VideoPacket: TypeAlias = "av.packet.Packet[av.video.stream.VideoStream]"
TRUNCATED_S = 1.0  # a container that promises this much more than it holds was cut off


def read_packet_table(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    guards: DecodeLimits,
    *,
    with_sound: bool = True,
) -> PacketTable:
    """All packets of the stream, by reading the whole file once without decoding; by all tracks, how long it lasts.

    Without sound, only times of pictures are right: what decoding needs.

    Raises:
        MediumError: the file was cut off or is damaged, has no frames, too many packets, or lasts too long.

    """
    return read_packets(container, stream, guards, with_sound=with_sound)[0]


def read_packets(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    guards: DecodeLimits,
    *,
    with_sound: bool = True,
) -> tuple[PacketTable, "list[VideoPacket]"]:
    """As `read_packet_table`, and the first keyframe's packet if there is one."""
    packets: list[Packet] = []
    first: list[VideoPacket] = []
    sound = SoundSpan(container, stream) if with_sound else None
    try:
        for packet in container.demux([stream, *(sound.tracks if sound else ())]):
            pts, size = packet.pts, packet.size
            if not size:
                continue
            if sound and packet.stream_index != stream.index:
                if not packet.is_discard:
                    sound.add(packet.stream_index, pts, packet.duration or 0)
                continue
            if packet.is_corrupt:
                raise truncated_fault(f"packet {len(packets)} is not whole")
            key = packet.is_keyframe
            packets.append(Packet(pts, key, packet.is_discard, size, packet.duration or 0, packet.dts))
            if key and not first:
                first.append(cast(VideoPacket, packet))
            if len(packets) > guards.max_packets:
                raise MediumError.of(
                    "video_too_many_packets", f"The video has more than {guards.max_packets} packets.", "Cut it."
                )
    except (av.error.FFmpegError, OSError) as error:
        raise truncated_fault(str(getattr(error, "strerror", None) or error)) from error
    table = PacketTable(tuple(packets), stream.time_base or _no_clock())
    if table.frame_times and sound:
        table = container_span(table, container, stream, sound)
    _check_table(table, container, stream, guards)
    return table, first


def _no_clock() -> Fraction:
    raise MediumError.of("video_without_frames", "The video has no clock: no frame has a time.")


def _check_table(
    table: PacketTable,
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    guards: DecodeLimits,
) -> None:
    if not table.frame_times:
        raise MediumError.of("video_without_frames", "The video has no frames that are shown at a known time.")
    check_duration(table.duration_s, guards)
    name = container.format.name
    if "mov" in name or "flv" in name:
        promised_s = _promised_s(container, stream)
        ends = max((packet.pts or 0) + packet.duration for packet in table.packets)
        held_s = float((ends - table.frame_times[0]) * table.time_base)
        if promised_s is not None and held_s < promised_s - max(TRUNCATED_S, 0.02 * promised_s):
            raise truncated_fault(f"it promises {promised_s:.1f} s and holds {held_s:.1f} s")
    if "avi" in name and len(table.packets) < 0.98 * stream.frames - 1:
        raise truncated_fault(f"it promises {stream.frames} frames and holds {len(table.packets)}")


def _promised_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    """What the header says, where it speaks of the picture and not of a longer sound track."""
    if "mov" in container.format.name and stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return (container.duration or 0) / av.time_base if alone else None


def check_duration(duration_s: float, guards: DecodeLimits) -> None:
    """Refuse what lasts longer than anything honest.

    Raises:
        MediumError: it does.

    """
    if duration_s > guards.max_duration_s:
        raise MediumError.of(
            "video_too_long",
            f"The video lasts {duration_s / 3600:.1f} hours, at most {guards.max_duration_s / 3600:g} can be read.",
            "Cut it: `ffmpeg -i IN -t 3600 -c copy OUT.mp4`.",
        )


def truncated_fault(what: str) -> MediumError:
    """The fault of a file that ends too early."""
    return MediumError.of(
        "media_truncated", f"The file was cut off or is damaged: {what}.", "Copy or export it again from the original."
    )

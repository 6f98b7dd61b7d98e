"""Videos cut and media made smaller, in child processes; this process opens none of them and writes what they send.

A file appears under its name only when it is whole. Originals are never touched.
"""

from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from kastor.domain.media import MediaFault, MediumError, Probe
from kastor.media.decode_limits import DecodeLimits
from kastor.media.sandbox import SandboxCrashed, SandboxProcess, TimeBudget
from kastor.media.segment_plan import Segment, SegmentLimits, decode_segment_plan, encode_segment_plan
from kastor.runtime.atomic import rename_synced

MAX_PIECE_BYTES = 400_000_000  # a piece is made in memory
PART = ".part"


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file that was written: its size and type."""

    path: Path
    num_bytes: int
    mime_type: str


def request_segments(path: Path, limits: SegmentLimits, guards: DecodeLimits) -> tuple[Segment, ...]:
    """Where to cut the video so that each piece keeps the limits.

    Raises:
        MediumError: it is damaged or no video.

    """
    most = min(limits.max_bytes or MAX_PIECE_BYTES, MAX_PIECE_BYTES)
    span = None if limits.max_s is None else [limits.max_s.numerator, limits.max_s.denominator]
    header, _ = _asked(
        {"do": "pieces", "path": str(path), "max_bytes": most, "max_s": span}, guards.probe_cpu_s, guards
    )
    try:
        return tuple(decode_segment_plan(fields) for fields in header["pieces"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise MediumError.of("decoder_crashed", "The decoder's answer makes no sense.") from error


def copy_segment(path: Path, piece: Segment, to: Path, guards: DecodeLimits) -> EncodedFile:
    """Write the piece's packets as they are; `to` is an MP4.

    Raises:
        MediumError: they cannot be read.

    """
    request = {"do": "copy", "path": str(path), "piece": encode_segment_plan(piece)}
    return _written(to, *_asked(request, 4 * guards.probe_cpu_s, guards))


def request_segment(
    path: Path,
    piece: Segment | None,
    to: Path,
    known: Probe,
    lines: int | None,
    max_bytes: int | None,
    guards: DecodeLimits,
) -> EncodedFile:
    """Write the piece, or the whole video, encoded anew with at most `lines` pixels on its shorter side, as an MP4.

    Raises:
        MediumError: a frame is damaged; the rule "piece_too_large": it is still over `max_bytes`.

    """
    span_s = known.duration_s or 0.0 if piece is None else float(piece.end_s - piece.start_s)
    num_pixels = (known.width or 0) * (known.height or 0)
    request = {
        "do": "encode",
        "path": str(path),
        "piece": None if piece is None else encode_segment_plan(piece),
        "lines": lines,
        "max_bytes": min(max_bytes or MAX_PIECE_BYTES, MAX_PIECE_BYTES),
    }
    return _written(to, *_asked(request, 2 * guards.decode_cpu(span_s + 60, num_pixels), guards))


def shrink_picture(path: Path, to: Path, lines: int, max_bytes: int | None, guards: DecodeLimits) -> EncodedFile:
    """Write the picture upright with at most `lines` pixels on its shorter side; `to` gets the suffix of its type.

    Raises:
        MediumError: it is damaged; the rule "piece_too_large": it is still over `max_bytes`.

    """
    request = {"do": "picture_smaller", "path": str(path), "lines": lines, "max_bytes": max_bytes}
    header, content = _asked(request, 2 * guards.decode_cpu_s, guards)
    suffix = ".png" if header.get("mime_type") == "image/png" else ".jpg"
    return _written(to.with_suffix(suffix), header, content)


def _asked(request: dict[str, Any], cpu_s: float, guards: DecodeLimits) -> tuple[dict[str, Any], bytearray]:
    try:
        with closing(SandboxProcess(guards)) as child:
            child.send(request | {"cpu_s": cpu_s})
            header, content = child.receive(TimeBudget(cpu_s + guards.decode_stall_s))
    except SandboxCrashed as died:
        raise MediumError.because(died.fault) from died
    fault = header.get("fault")
    if isinstance(fault, list) and len(fault) == 3:
        raise MediumError.because(MediaFault(*map(str, fault)))
    return header, content


def _written(to: Path, header: dict[str, Any], content: bytearray) -> EncodedFile:
    write_whole(to, content)
    return EncodedFile(to, len(content), str(header.get("mime_type")))


def write_whole(to: Path, content: bytes | bytearray) -> None:
    """Write a file that appears only when it is whole, whenever this process is killed."""
    part = to.with_name(to.name + PART)
    part.write_bytes(content)
    rename_synced(part, to)


def exact_seconds(seconds: float) -> Fraction:
    """Seconds as a fraction that says the same."""
    return Fraction(seconds).limit_denominator(1_000_000)

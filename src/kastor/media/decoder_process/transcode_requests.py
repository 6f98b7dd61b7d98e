"""The requests by which the child process cuts videos and makes media smaller. Runs only in `media.child`."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from kastor.media.decode_limits import DecodeLimits
from kastor.media.segment_plan import SegmentLimits, decode_segment_plan, encode_segment_plan

REQUESTS = frozenset({"pieces", "copy", "encode", "picture_smaller"})


def answer(path: Path, request: dict[str, Any], guards: DecodeLimits) -> tuple[dict[str, Any], bytes]:
    """The answer's header and its bytes.

    Raises:
        MediumError: the file is damaged, or no outcome keeps the limits.

    """
    if request["do"] == "picture_smaller":
        from kastor.media.decoder_process import image_resize

        content, mime_type = image_resize.downscale_picture(path, request["lines"], request["max_bytes"], guards)
        return {"mime_type": mime_type}, content
    from kastor.media.decoder_process import video_encode

    if request["do"] == "pieces":
        longest = None if request["max_s"] is None else Fraction(*request["max_s"])
        found = video_encode.plan_segments(path, SegmentLimits(request["max_bytes"], longest), guards)
        return {"pieces": [encode_segment_plan(piece) for piece in found]}, b""
    piece = None if request["piece"] is None else decode_segment_plan(request["piece"])
    if request["do"] == "copy" and piece is not None:
        return {"mime_type": "video/mp4"}, video_encode.remux_segment(path, piece, guards)
    return {"mime_type": "video/mp4"}, video_encode.encode_segment(
        path, piece, request["lines"], request["max_bytes"], guards
    )

"""The requests by which the child process cuts videos and makes media smaller. Runs only in `media.child`."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from kastor.media.guards import Guards
from kastor.media.pieces import Limits, piece_fields, piece_of

REQUESTS = frozenset({"pieces", "copy", "encode", "picture_smaller"})


def answer(path: Path, request: dict[str, Any], guards: Guards) -> tuple[dict[str, Any], bytes]:
    """The answer's header and its bytes.

    Raises:
        MediumError: the file is damaged, or no outcome keeps the limits.

    """
    if request["do"] == "picture_smaller":
        from kastor.media import shrink

        content, mime_type = shrink.picture(path, request["lines"], request["max_bytes"], guards)
        return {"mime_type": mime_type}, content
    from kastor.media import chunk

    if request["do"] == "pieces":
        longest = None if request["max_s"] is None else Fraction(*request["max_s"])
        found = chunk.planned(path, Limits(request["max_bytes"], longest), guards)
        return {"pieces": [piece_fields(piece) for piece in found]}, b""
    piece = None if request["piece"] is None else piece_of(request["piece"])
    if request["do"] == "copy" and piece is not None:
        return {"mime_type": "video/mp4"}, chunk.copied(path, piece, guards)
    return {"mime_type": "video/mp4"}, chunk.encoded(path, piece, request["lines"], request["max_bytes"], guards)

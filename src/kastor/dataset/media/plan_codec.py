"""JSON of a medium's plan, as stored beside a dataset, in a sampling record and in requests to an engine.

Frames are stored by time and by presentation timestamp, so every later decoder takes the very same ones.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from kastor.domain.content import Resolution
from kastor.domain.media import MediaKind, SamplingPlan
from kastor.domain.vision import Grid, MediumLayout, MediumPlan


def encode_medium(medium: MediumPlan) -> dict[str, Any]:
    """The plan as a JSON object."""
    encoded: dict[str, Any] = {
        "sha256": medium.sha256,
        "kind": medium.kind,
        "resolution": medium.view.resolution,
        "grids": _grids(medium.view),
    }
    if medium.scaling:
        encoded["scaling"] = medium.scaling
    if medium.frames is not None:
        frames = medium.frames
        encoded["video"] = {
            "moments": frames.moments_s,
            "pts": frames.pts,
            "timeBase": str(frames.time_base),
            "start": frames.start_pts,
            "seconds": frames.duration_s,
        }
    return encoded


def decode_medium(encoded: Mapping[str, Any]) -> MediumPlan:
    """The plan that `encode_medium` encoded."""
    video, resolution, scaling = encoded.get("video"), Resolution(encoded["resolution"]), encoded.get("scaling", 0)
    kind = MediaKind(encoded["kind"])
    grids = tuple(Grid(w, h, rows, columns, tuple(tiles)) for w, h, rows, columns, tiles in encoded["grids"])
    if video is None:
        return MediumPlan(encoded["sha256"], kind, MediumLayout(resolution, grids), None, scaling)
    moments = tuple(video["moments"])
    base = Fraction(video["timeBase"])
    frames = SamplingPlan(moments, tuple(video["pts"]), base, video["start"], video["seconds"])
    return MediumPlan(encoded["sha256"], kind, MediumLayout(resolution, grids * len(moments), moments), frames, scaling)


def _grids(view: MediumLayout) -> list[list[Any]]:
    """The grid of each picture; one for a video, whose frames all have the same."""
    grids = view.grids[:1] if view.moments_s else view.grids
    return [[grid.width, grid.height, grid.rows, grid.columns, list(grid.tiles)] for grid in grids]

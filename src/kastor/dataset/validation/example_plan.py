"""What each example will be for the model, one JSON line each, beside the dataset: training holds to it.

The media of an example are listed in the order in which they first occur; frames by moment and presentation time, so
that whatever decodes them later takes the very same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import orjson

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.validation.validator import ExamplePlan
from kastor.domain.content import Example, Media, Resolution
from kastor.domain.errors import Internal
from kastor.domain.media import MediaKind, SamplingPlan
from kastor.domain.vision import Grid, MediumLayout, TokenCount
from kastor.domain.vision import MediumPlan as MediumPlan  # where rows are, these are looked for


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One example, as planned; `line` is that of the file it came from."""

    line: int
    tokens: TokenCount
    media: tuple[MediumPlan, ...]

    def views(self, example: Example) -> dict[Media, MediumLayout]:
        """The views of this example's media."""
        return {media: planned.view for media, planned in self.by_media(example).items()}

    def by_media(self, example: Example) -> dict[Media, MediumPlan]:
        """The plans of this example's media.

        Raises:
            Internal: the plan is of another example.

        """
        distinct = list(dict.fromkeys(example.media))
        if len(distinct) != len(self.media):
            raise Internal(f"The plan of line {self.line} has {len(self.media)} media, the example {len(distinct)}.")
        return dict(zip(distinct, self.media, strict=True))


def encode_row(line: int, example: Example, plan: ExamplePlan, seen: Mapping[Media, InspectedMedium]) -> bytes:
    """One line, without its end.

    Raises:
        Internal: the tokens were not counted.

    """
    if plan.tokens is None:
        raise Internal(f"The tokens of line {line} were not counted.")
    return orjson.dumps(
        {
            "line": line,
            "tokens": plan.tokens.total,
            "supervised": plan.tokens.supervised,
            "media": [
                encode_medium(plan_medium(seen[media], plan.views[media])) for media in dict.fromkeys(example.media)
            ],
        }
    )


def decode_row(line: bytes) -> PlannedRow:
    """What `encode_row` wrote."""
    held = orjson.loads(line)
    return PlannedRow(
        held["line"], TokenCount(held["tokens"], held["supervised"]), tuple(map(decode_medium, held["media"]))
    )


def plan_medium(seen: InspectedMedium, view: MediumLayout) -> MediumPlan:
    """What is held to of a medium that was looked at, where the model is shown this much of it."""
    return MediumPlan(seen.file.sha256, seen.probe.kind, view, seen.plan)


def encode_medium(medium: MediumPlan) -> dict[str, Any]:
    """The medium as a JSON object."""
    found: dict[str, Any] = {
        "sha256": medium.sha256,
        "kind": medium.kind,
        "resolution": medium.view.resolution,
        "grids": _grids(medium.view),
    }
    if medium.scaling:
        found["scaling"] = medium.scaling
    if medium.frames is not None:
        plan = medium.frames
        found["video"] = {
            "moments": plan.moments_s,
            "pts": plan.pts,
            "timeBase": str(plan.time_base),
            "start": plan.start_pts,
            "seconds": plan.duration_s,
        }
    return found


def decode_medium(held: Mapping[str, Any]) -> MediumPlan:
    """What `encode_medium` gave."""
    video, resolution, scaling = held.get("video"), Resolution(held["resolution"]), held.get("scaling", 0)
    kind = MediaKind(held["kind"])
    grids = tuple(Grid(w, h, rows, columns, tuple(tiles)) for w, h, rows, columns, tiles in held["grids"])
    if video is None:
        return MediumPlan(held["sha256"], kind, MediumLayout(resolution, grids), None, scaling)
    moments = tuple(video["moments"])
    base = Fraction(video["timeBase"])
    frames = SamplingPlan(moments, tuple(video["pts"]), base, video["start"], video["seconds"])
    return MediumPlan(held["sha256"], kind, MediumLayout(resolution, grids * len(moments), moments), frames, scaling)


def _grids(view: MediumLayout) -> list[list[Any]]:
    """How each picture is laid out; of a video, whose frames are all alike, the first alone."""
    some = view.grids[:1] if view.moments_s else view.grids
    return [[grid.width, grid.height, grid.rows, grid.columns, list(grid.tiles)] for grid in some]

"""What each example will be for the model, one JSON line each, beside the dataset: training holds to it.

The media of an example are listed in the order in which they first occur; frames by moment and presentation time, so
that whatever decodes them later takes the very same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import orjson

from kastor.dataset.gate import Plan
from kastor.dataset.seen import Seen
from kastor.domain.content import Example, Media, Resolution
from kastor.domain.errors import Internal
from kastor.domain.media import MediaKind, SamplingPlan
from kastor.domain.vision import TokenCount, View


@dataclass(frozen=True, slots=True)
class PlannedMedium:
    """One medium of an example: its content, what the model is shown of it, and of a video the frames."""

    sha256: str
    kind: MediaKind
    view: View
    frames: SamplingPlan | None


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One example, as planned; `line` is that of the file it came from."""

    line: int
    tokens: TokenCount
    media: tuple[PlannedMedium, ...]

    def views(self, example: Example) -> dict[Media, View]:
        """The views of this example's media."""
        return {media: planned.view for media, planned in self.by_media(example).items()}

    def by_media(self, example: Example) -> dict[Media, PlannedMedium]:
        """The plans of this example's media.

        Raises:
            Internal: the plan is of another example.

        """
        distinct = list(dict.fromkeys(example.media))
        if len(distinct) != len(self.media):
            raise Internal(f"The plan of line {self.line} has {len(self.media)} media, the example {len(distinct)}.")
        return dict(zip(distinct, self.media, strict=True))


def encode_row(line: int, example: Example, plan: Plan, seen: Mapping[Media, Seen]) -> bytes:
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
            "media": [_medium(seen[media], plan.views[media]) for media in dict.fromkeys(example.media)],
        }
    )


def decode_row(line: bytes) -> PlannedRow:
    """What `encode_row` wrote."""
    held = orjson.loads(line)
    return PlannedRow(held["line"], TokenCount(held["tokens"], held["supervised"]), tuple(map(_planned, held["media"])))


def _medium(seen: Seen, view: View) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sha256": seen.file.sha256,
        "kind": seen.probe.kind,
        "resolution": view.resolution,
        "pictures": view.num_pictures,
    }
    if seen.plan is not None:
        plan = seen.plan
        found["video"] = {
            "moments": plan.moments_s,
            "pts": plan.pts,
            "timeBase": str(plan.time_base),
            "start": plan.start_pts,
            "seconds": plan.duration_s,
        }
    return found


def _planned(held: dict[str, Any]) -> PlannedMedium:
    video, resolution = held.get("video"), Resolution(held["resolution"])
    kind = MediaKind(held["kind"])
    if video is None:
        return PlannedMedium(held["sha256"], kind, View(resolution, held["pictures"]), None)
    moments = tuple(video["moments"])
    base = Fraction(video["timeBase"])
    frames = SamplingPlan(moments, tuple(video["pts"]), base, video["start"], video["seconds"])
    return PlannedMedium(held["sha256"], kind, View(resolution, len(moments), moments), frames)

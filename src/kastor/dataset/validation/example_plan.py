"""The plan file of a dataset: for each accepted example its token counts and media plans, one JSON line each.

Training follows the plan exactly. The media of an example are listed in the order of their first use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.media.plan_codec import decode_medium, encode_medium
from kastor.dataset.validation.validator import ExamplePlan
from kastor.domain.content import Example, Media
from kastor.domain.errors import Internal
from kastor.domain.vision import MediumLayout, MediumPlan, TokenCount


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """The plan of one example; `line` is its line in the uploaded file."""

    line: int
    tokens: TokenCount
    media: tuple[MediumPlan, ...]

    def views(self, example: Example) -> dict[Media, MediumLayout]:
        """The layout of each medium of this example."""
        return {media: planned.view for media, planned in self.by_media(example).items()}

    def by_media(self, example: Example) -> dict[Media, MediumPlan]:
        """The plan of each medium of this example.

        Raises:
            Internal: the plan belongs to another example.

        """
        distinct = list(dict.fromkeys(example.media))
        if len(distinct) != len(self.media):
            raise Internal(f"The plan of line {self.line} has {len(self.media)} media, the example {len(distinct)}.")
        return dict(zip(distinct, self.media, strict=True))


def encode_row(line: int, example: Example, plan: ExamplePlan, inspected: Mapping[Media, InspectedMedium]) -> bytes:
    """One line of the plan file, without its newline.

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
                encode_medium(inspected[media].medium_plan(plan.views[media])) for media in dict.fromkeys(example.media)
            ],
        }
    )


def decode_row(line: bytes) -> PlannedRow:
    """The row that `encode_row` encoded."""
    row = orjson.loads(line)
    return PlannedRow(
        row["line"], TokenCount(row["tokens"], row["supervised"]), tuple(map(decode_medium, row["media"]))
    )

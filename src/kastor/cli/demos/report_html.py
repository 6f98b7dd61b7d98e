"""The report of a demo as one self-contained HTML page: embedded images, no scripts, no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from kastor.cli.client.messages import Step
from kastor.cli.console.output_files import replacing_file

CURVE_WIDTH, CURVE_HEIGHT = 640, 150
MAX_POINTS = 120


@dataclass(frozen=True, slots=True)
class Score:
    """A score from 0 to 1; `who` is the base, the tuned model or a reference."""

    who: str
    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with the score of each model and reference."""

    name: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG; `marked` if it shows the event in question."""

    jpeg: bytes
    caption: str = ""
    marked: bool = False

    @property
    def source(self) -> str:
        """The image as a data URL."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """An answer; `right` is `None` for the ground truth; `span` is an interval in fractions of the clip."""

    who: str
    text: str
    right: bool | None = None
    span: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class PageItem:
    """A held-out example: its images and the answers."""

    name: str
    thumbs: tuple[Thumbnail, ...]
    said: tuple[ModelAnswer, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Column names and rows; all but the first column are numeric."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportPart:
    """The results of one task."""

    title: str
    question: str
    lead: str
    metrics: tuple[Metric, ...]
    table: Table
    steps: Sequence[Step]
    facts: tuple[tuple[str, str], ...]
    shown: tuple[PageItem, ...]
    credit: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """The loss curve as a polyline in a box of `CURVE_WIDTH` by `CURVE_HEIGHT`."""

    points: str
    most: float
    last: float
    num_steps: int


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The whole page."""

    title: str
    lead: str
    parts: tuple[ReportPart, ...]
    closing: tuple[str, ...] = ()  # remarks on all parts

    def write(self, path: Path) -> None:
        """Write the page to a file."""
        with replacing_file(path) as file:
            file.write(self.html())

    def html(self) -> str:
        """Render the page."""
        source = resources.files("kastor.cli").joinpath("assets", "demo.html").read_text("utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
        return environment.from_string(source).render(
            report=self, curve=curve, width=CURVE_WIDTH, height=CURVE_HEIGHT, decimal=decimal
        )


def decimal(share: float) -> str:
    """A score with two decimals and no leading zero.

    >>> decimal(0.7), decimal(1), decimal(0)
    ('.70', '1.00', '.00')
    """
    return f"{share:.2f}".removeprefix("0") if share < 1 else f"{share:.2f}"


def curve(steps: Sequence[Step]) -> Curve | None:
    """The loss curve; many steps are averaged in groups. `None` for fewer than two steps.

    >>> curve([Step(1, 1, 2.0, None), Step(2, 1, 1.0, None)])
    Curve(points='0.0,0.0 640.0,75.0', most=2.0, last=1.0, num_steps=2)
    """
    if len(steps) < 2:
        return None
    group = -(-len(steps) // MAX_POINTS)
    cut = [steps[at : at + group] for at in range(0, len(steps), group)]
    losses = [sum(step.mean_loss for step in some) / len(some) for some in cut]
    most = max(losses) or 1.0
    across = CURVE_WIDTH / (len(losses) - 1)
    points = [f"{index * across:.1f},{CURVE_HEIGHT * (1 - loss / most):.1f}" for index, loss in enumerate(losses)]
    return Curve(" ".join(points), most, losses[-1], len(steps))

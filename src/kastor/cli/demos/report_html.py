"""What a demo found, as one HTML page that needs nothing else: pictures stand in it as text, no script, no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from kastor.cli.client.messages import Step
from kastor.cli.console.output_files import replacing_file

CURVE_WIDTH, CURVE_HEIGHT = 640, 150
MOST_POINTS = 120


@dataclass(frozen=True, slots=True)
class Score:
    """How good somebody is, from 0 to 1; `who` is base, tuned, or what they are held against."""

    who: str
    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to be good, and how good each is in it."""

    name: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture; `marked` where it shows what was asked for."""

    jpeg: bytes
    caption: str = ""
    marked: bool = False

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """An answer; `right` is absent for the truth itself; `span` is from where to where, as shares of the clip."""

    who: str
    text: str
    right: bool | None = None
    span: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class PageItem:
    """One question that was held out: what was seen and what was said to it."""

    name: str
    thumbs: tuple[Thumbnail, ...]
    said: tuple[ModelAnswer, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and rows of cells; all but the first column hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportPart:
    """One task: how it was asked, what came out, what was said."""

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
    """The loss as a line in a box of `CURVE_WIDTH` by `CURVE_HEIGHT`."""

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
    closing: tuple[str, ...] = ()  # what is worth knowing about all of it

    def write(self, path: Path) -> None:
        """The page, into a file."""
        with replacing_file(path) as file:
            file.write(self.html())

    def html(self) -> str:
        """The page."""
        source = resources.files("kastor.cli").joinpath("assets", "demo.html").read_text("utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
        return environment.from_string(source).render(
            report=self, curve=curve, width=CURVE_WIDTH, height=CURVE_HEIGHT, decimal=decimal
        )


def decimal(share: float) -> str:
    """A share as scores are written.

    >>> decimal(0.7), decimal(1), decimal(0)
    ('.70', '1.00', '.00')
    """
    return f"{share:.2f}".removeprefix("0") if share < 1 else f"{share:.2f}"


def curve(steps: Sequence[Step]) -> Curve | None:
    """The loss of the steps; of many, means of neighbours. `None` of fewer than two.

    >>> curve([Step(1, 1, 2.0, None), Step(2, 1, 1.0, None)])
    Curve(points='0.0,0.0 640.0,75.0', most=2.0, last=1.0, num_steps=2)
    """
    if len(steps) < 2:
        return None
    group = -(-len(steps) // MOST_POINTS)
    cut = [steps[at : at + group] for at in range(0, len(steps), group)]
    losses = [sum(step.mean_loss for step in some) / len(some) for some in cut]
    most = max(losses) or 1.0
    across = CURVE_WIDTH / (len(losses) - 1)
    points = [f"{index * across:.1f},{CURVE_HEIGHT * (1 - loss / most):.1f}" for index, loss in enumerate(losses)]
    return Curve(" ".join(points), most, losses[-1], len(steps))

"""Renders a report as one self-contained HTML page: no scripts, no other files, no network; images are inlined.

Any text in it may come from an untrusted dataset, so all text is escaped and a content security policy in the page
forbids everything else.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from kastor.dataset.validation.report_json import Document
from kastor.dataset.validation.stats import NUM_BINS

CHART_WIDTH, CHART_HEIGHT = 320, 96
GAP = 2  # between bars, in pixels
DISTRIBUTIONS = {"inputTokens": "Input tokens", "outputTokens": "Output tokens", "messages": "Messages"}


@dataclass(frozen=True, slots=True)
class PreviewSegment:
    """A segment of an example as the model sees it; `kind` is given, learnt, picture or note."""

    kind: str
    text: str = ""
    jpeg: bytes = b""
    caption: str = ""
    name: str = ""  # of the picture's file

    @property
    def source(self) -> str:
        """The picture as a data: URL."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True, slots=True)
class PreviewSample:
    """The preview of one accepted row."""

    line: int
    num_tokens: int | None
    segments: tuple[PreviewSegment, ...]

    @property
    def groups(self) -> list[tuple[str, list[PreviewSegment]]]:
        """Adjacent segments grouped by kind; pictures with only whitespace between them form one grid."""
        found: list[tuple[str, list[PreviewSegment]]] = []
        for place, segment in enumerate(self.segments):
            after = self.segments[place + 1].kind if place + 1 < len(self.segments) else ""
            ahead = found[-1][0] if found else ""
            if ahead == after == "picture" and segment.kind == "given" and not segment.text.strip():
                continue
            if ahead == segment.kind:
                found[-1][1].append(segment)
            else:
                found.append((segment.kind, [segment]))
        return found


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """A bar of a chart, in pixels from the chart's upper left corner."""

    x: float
    y: float
    width: float
    height: float
    label: str


def report_page(report: Document, notices: Sequence[str], samples: Sequence[PreviewSample]) -> str:
    """The page for a report's document; `notices` are sentences shown at its top."""
    source = resources.files("kastor.dataset").joinpath("templates", "report.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    return environment.from_string(source).render(
        report=report,
        files=[part for part in (report, report["validation"]) if part],
        charts=_charts,
        notices=notices,
        samples=samples,
        width=CHART_WIDTH,
        height=CHART_HEIGHT,
    )


def _charts(part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], list[HistogramBar]]]:
    """Name, figures and bars of each available distribution."""
    return [(title, part[key], bars(part[key])) for key, title in DISTRIBUTIONS.items() if part[key]]


def bars(spread: Mapping[str, Any]) -> list[HistogramBar]:
    """The histogram of a distribution: each bar is as wide as its bucket's range, at least a sixth of the chart.

    >>> [bar.x for bar in bars({"min": 1, "max": 4, "buckets": [{"left": 1, "right": 2, "count": 3}]})]
    [0.0]
    """
    span = max(spread["max"] - spread["min"] + 1, NUM_BINS)
    most = max(bucket["count"] for bucket in spread["buckets"])
    found = []
    for bucket in spread["buckets"]:
        height = max(1.0, round(CHART_HEIGHT * bucket["count"] / most, 1))
        width = CHART_WIDTH * (bucket["right"] - bucket["left"] + 1) / span
        found.append(
            HistogramBar(
                round(CHART_WIDTH * (bucket["left"] - spread["min"]) / span, 1),
                CHART_HEIGHT - height,
                round(max(1.0, width - GAP), 1),
                height,
                f"{_number(bucket['left'])} to {_number(bucket['right'])}: {_number(bucket['count'])} rows",
            )
        )
    return found


def _number(value: float | str) -> str:
    """The number with thousands separators and only significant digits."""
    number = float(value)
    return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:,.1f}"

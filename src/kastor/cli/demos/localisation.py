"""Clips in which something comes and goes: how they are asked about, and how answers are scored.

An answer is a JSON object of the event, its start and its end. Its interval is held against the true one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from rich.table import Table as TerminalTable
from rich.text import Text

from kastor.cli.console.output import table
from kastor.cli.demos.clip_data import SHAPES, Clip
from kastor.cli.demos.report_html import Metric, ModelAnswer, Score, Table, decimal
from kastor.cli.demos.runner import AnswerSchema, DemoExample, local_file
from kastor.domain.vision import clock_timestamp
from kastor.metrics.intervals import Interval, best_constant, parse_interval, temporal_iou
from kastor.metrics.json_fields import extract_json_object, field_f1
from kastor.metrics.labels import accuracy, exact_match, majority_label

QUESTION = "What appears, and when?"
GOOD_IOU = 0.5
BASE, TUNED, CONSTANT = "base", "tuned", "one answer"
MEAN_IOU, RECALL, LABEL, FIELDS = "mean temporal IoU", "IoU of .5 or more", "right event", "F1 of the fields"


@dataclass(frozen=True, slots=True)
class LocalisedEvent:
    """What an answer says happens, and from when to when; either may be missing."""

    label: str
    interval: Interval | None

    @classmethod
    def of(cls, answer: str) -> "LocalisedEvent":
        """Read off an answer."""
        return cls(str((extract_json_object(answer) or {}).get("event", "")), parse_interval(answer))


def answer(event: str, start_s: float, end_s: float) -> str:
    """As it is learnt.

    >>> answer("circle", 3, 6)
    '{"event": "circle", "start": "00:03", "end": "00:06"}'
    """
    return f'{{"event": "{event}", "start": "{clock_timestamp(start_s)}", "end": "{clock_timestamp(end_s)}"}}'


def row(path: Path, clip: Clip) -> DemoExample:
    """The question about a clip."""
    return DemoExample((local_file(path, "video/mp4"),), QUESTION, answer(clip.shape, clip.start_s, clip.end_s))


def row_of_window(path: Path, clip: Clip, begin_s: int, end_s: int) -> DemoExample:
    """The same question about a segment in which the shape is seen: what of its time lies in there is the answer."""
    seen = {"startOffset": f"{begin_s}s", "endOffset": f"{end_s}s"}
    media = {**local_file(path, "video/mp4"), "videoMetadata": seen}
    return DemoExample((media,), QUESTION, answer(clip.shape, max(begin_s, clip.start_s), min(end_s, clip.end_s)))


def windows(clip: Clip, length_s: int) -> list[tuple[int, int]]:
    """All segments of this length, in whole seconds, in which the shape is seen.

    >>> windows(Clip(0, 6, "ring", 2, 3), 2)
    [(1, 3), (2, 4)]
    """
    begins = range(clip.seconds - length_s + 1)
    return [(at, at + length_s) for at in begins if at < clip.end_s and at + length_s > clip.start_s]


def form(seconds: int) -> AnswerSchema:
    """Answers that are let through: the untuned base, too, names an event and two moments of the clip."""
    moments = {"type": "STRING", "enum": [clock_timestamp(second) for second in range(seconds + 1)]}
    properties = {"event": {"type": "STRING", "enum": list(SHAPES)}, "start": moments, "end": moments}
    names = list(properties)
    schema = {"type": "OBJECT", "properties": properties, "required": names, "propertyOrdering": names}
    return AnswerSchema(max_tokens=64, schema=schema)


@dataclass(frozen=True)
class LocalisationResult:
    """The clips that were held out, and what was said to them."""

    clips: Sequence[Clip]
    answers: Mapping[str, Sequence[str]]  # who -> to each clip

    @classmethod
    def of(
        cls, learnt: Sequence[Clip], clips: Sequence[Clip], base: Sequence[str], tuned: Sequence[str]
    ) -> "LocalisationResult":
        """With the best that one answer, always the same, could say to the clips that were learnt from."""
        start, end = best_constant([span(clip) for clip in learnt])
        always = answer(majority_label([clip.shape for clip in learnt]), float(start), float(end))
        return cls(clips, {CONSTANT: [always] * len(clips), BASE: base, TUNED: tuned})

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """By metric, of each."""
        found: dict[str, dict[str, float]] = {MEAN_IOU: {}, RECALL: {}, LABEL: {}, FIELDS: {}}
        truths = [clip.shape for clip in self.clips]
        for who, said in self.answers.items():
            ious = [self.iou(who, index) for index in range(len(self.clips))]
            found[MEAN_IOU][who] = sum(ious) / len(ious)
            found[RECALL][who] = sum(iou >= GOOD_IOU for iou in ious) / len(ious)
            found[LABEL][who] = accuracy(truths, [LocalisedEvent.of(one).label for one in said])
            found[FIELDS][who] = field_f1([answer(clip.shape, clip.start_s, clip.end_s) for clip in self.clips], said)
        return found

    def iou(self, who: str, index: int) -> float:
        """How much of the true interval and of what was said is common."""
        return temporal_iou(LocalisedEvent.of(self.answers[who][index]).interval, span(self.clips[index]))

    def metrics(self) -> tuple[Metric, ...]:
        """For the page."""
        notes = {CONSTANT: "the best that never looks", BASE: "untuned, kept to the form"}
        return tuple(
            Metric(name, tuple(Score(who, value, notes.get(who, "")) for who, value in values.items()))
            for name, values in self.scores.items()
        )

    def by_class(self) -> Table:
        """Of each event how often it was named and how well it was placed by the tuned model."""
        rows = []
        for event in SHAPES:
            chosen = [index for index, clip in enumerate(self.clips) if clip.shape == event]
            if chosen:
                named = [exact_match(LocalisedEvent.of(self.answers[TUNED][index]).label, event) for index in chosen]
                placed = sum(self.iou(TUNED, index) for index in chosen) / len(chosen)
                rows.append((event, str(len(chosen)), decimal(sum(named) / len(named)), decimal(placed)))
        return Table(("event", "held out", "named", "IoU"), tuple(rows))

    def said(self, index: int) -> tuple[ModelAnswer, ...]:
        """What was said to one clip, the truth first."""
        clip = self.clips[index]
        given = [ModelAnswer("truth", answer(clip.shape, clip.start_s, clip.end_s), None, _shares(span(clip), clip))]
        for who in (TUNED, BASE):
            text, iou = self.answers[who][index], self.iou(who, index)
            event = LocalisedEvent.of(text)
            right = exact_match(event.label, clip.shape) and iou >= GOOD_IOU
            given.append(ModelAnswer(who, text, right, _shares(event.interval, clip), f"IoU {decimal(iou)}"))
        return tuple(given)

    def shown(self) -> TerminalTable:
        """For the terminal."""
        rows = table("held-out clips", *self.answers, right=tuple(self.answers))
        for name, values in self.scores.items():
            cells = [Text(decimal(value), style="bold" if who == TUNED else "") for who, value in values.items()]
            rows.add_row(name, *cells)
        return rows

    def document(self) -> dict[str, object]:
        """For `--json`."""
        keys = {MEAN_IOU: "meanTemporalIou", RECALL: "recallAtIou50", LABEL: "labelAccuracy", FIELDS: "fieldF1"}
        rounded = {keys[name]: {who: round(value, 4) for who, value in of.items()} for name, of in self.scores.items()}
        return rounded | {"numHeldOut": len(self.clips)}


def span(clip: Clip) -> Interval:
    """When the shape is there."""
    return Fraction(clip.start_s), Fraction(clip.end_s)


def _shares(interval: Interval | None, clip: Clip) -> tuple[float, float] | None:
    """Of the clip's length; nothing where there is nothing to draw."""
    if interval is None or interval[0] >= interval[1]:
        return None
    return float(interval[0] / clip.seconds), min(1.0, float(interval[1] / clip.seconds))

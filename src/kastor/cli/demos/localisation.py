"""Locating an event in a clip: the question, the form of answers and their scores.

An answer is a JSON object with the event, its start and its end. Its interval is compared with the true one.
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
from kastor.evaluation.interval_parser import parse_interval
from kastor.metrics.intervals import Interval, best_constant, temporal_iou
from kastor.metrics.json_fields import extract_json_object, field_f1
from kastor.metrics.labels import accuracy, exact_match, majority_label

QUESTION = "What appears, and when?"
GOOD_IOU = 0.5
BASE, TUNED, CONSTANT = "base", "tuned", "one answer"
MEAN_IOU, RECALL, LABEL, FIELDS = "mean temporal IoU", "IoU of .5 or more", "right event", "F1 of the fields"


@dataclass(frozen=True, slots=True)
class LocalisedEvent:
    """The event and interval that an answer names; either may be missing."""

    label: str
    interval: Interval | None

    @classmethod
    def of(cls, answer: str) -> "LocalisedEvent":
        """Parse an answer."""
        return cls(str((extract_json_object(answer) or {}).get("event", "")), parse_interval(answer))


def answer(event: str, start_s: float, end_s: float) -> str:
    """The training answer for an event.

    >>> answer("circle", 3, 6)
    '{"event": "circle", "start": "00:03", "end": "00:06"}'
    """
    return f'{{"event": "{event}", "start": "{clock_timestamp(start_s)}", "end": "{clock_timestamp(end_s)}"}}'


def row(path: Path, clip: Clip) -> DemoExample:
    """An example on a whole clip."""
    return DemoExample((local_file(path, "video/mp4"),), QUESTION, answer(clip.shape, clip.start_s, clip.end_s))


def row_of_window(path: Path, clip: Clip, begin_s: int, end_s: int) -> DemoExample:
    """An example on a segment in which the shape is visible; the answer is the part of its interval in there."""
    seen = {"startOffset": f"{begin_s}s", "endOffset": f"{end_s}s"}
    media = {**local_file(path, "video/mp4"), "videoMetadata": seen}
    return DemoExample((media,), QUESTION, answer(clip.shape, max(begin_s, clip.start_s), min(end_s, clip.end_s)))


def windows(clip: Clip, length_s: int) -> list[tuple[int, int]]:
    """All segments of this length, in whole seconds, in which the shape is visible.

    >>> windows(Clip(0, 6, "ring", 2, 3), 2)
    [(1, 3), (2, 4)]
    """
    begins = range(clip.seconds - length_s + 1)
    return [(at, at + length_s) for at in begins if at < clip.end_s and at + length_s > clip.start_s]


def form(seconds: int) -> AnswerSchema:
    """The schema of answers: it makes the untuned base, too, name an event and two times of the clip."""
    moments = {"type": "STRING", "enum": [clock_timestamp(second) for second in range(seconds + 1)]}
    properties = {"event": {"type": "STRING", "enum": list(SHAPES)}, "start": moments, "end": moments}
    names = list(properties)
    schema = {"type": "OBJECT", "properties": properties, "required": names, "propertyOrdering": names}
    return AnswerSchema(max_tokens=64, schema=schema)


@dataclass(frozen=True)
class LocalisationResult:
    """The held-out clips and the answers to them."""

    clips: Sequence[Clip]
    answers: Mapping[str, Sequence[str]]  # model or reference -> one per clip

    @classmethod
    def of(
        cls, training_clips: Sequence[Clip], clips: Sequence[Clip], base: Sequence[str], tuned: Sequence[str]
    ) -> "LocalisationResult":
        """With the constant answer that scores best on the training clips as a reference."""
        start, end = best_constant([span(clip) for clip in training_clips])
        constant = answer(majority_label([clip.shape for clip in training_clips]), float(start), float(end))
        return cls(clips, {CONSTANT: [constant] * len(clips), BASE: base, TUNED: tuned})

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores by metric, then by model or reference."""
        found: dict[str, dict[str, float]] = {MEAN_IOU: {}, RECALL: {}, LABEL: {}, FIELDS: {}}
        truths = [clip.shape for clip in self.clips]
        for who, answers in self.answers.items():
            ious = [self.iou(who, index) for index in range(len(self.clips))]
            found[MEAN_IOU][who] = sum(ious) / len(ious)
            found[RECALL][who] = sum(iou >= GOOD_IOU for iou in ious) / len(ious)
            found[LABEL][who] = accuracy(truths, [LocalisedEvent.of(one).label for one in answers])
            found[FIELDS][who] = field_f1(
                [answer(clip.shape, clip.start_s, clip.end_s) for clip in self.clips], answers
            )
        return found

    def iou(self, who: str, index: int) -> float:
        """Temporal intersection over union of the true interval and the answered one."""
        return temporal_iou(LocalisedEvent.of(self.answers[who][index]).interval, span(self.clips[index]))

    def metrics(self) -> tuple[Metric, ...]:
        """The scores for the report."""
        notes = {CONSTANT: "the best constant answer", BASE: "untuned, constrained to the schema"}
        return tuple(
            Metric(name, tuple(Score(who, value, notes.get(who, "")) for who, value in values.items()))
            for name, values in self.scores.items()
        )

    def by_class(self) -> Table:
        """For each event, how often the tuned model named it and its mean IoU."""
        rows = []
        for event in SHAPES:
            chosen = [index for index, clip in enumerate(self.clips) if clip.shape == event]
            if chosen:
                named = [exact_match(LocalisedEvent.of(self.answers[TUNED][index]).label, event) for index in chosen]
                placed = sum(self.iou(TUNED, index) for index in chosen) / len(chosen)
                rows.append((event, str(len(chosen)), decimal(sum(named) / len(named)), decimal(placed)))
        return Table(("event", "held out", "named", "IoU"), tuple(rows))

    def answers_to(self, index: int) -> tuple[ModelAnswer, ...]:
        """The answers to one clip, preceded by the true one."""
        clip = self.clips[index]
        given = [ModelAnswer("truth", answer(clip.shape, clip.start_s, clip.end_s), None, _shares(span(clip), clip))]
        for who in (TUNED, BASE):
            text, iou = self.answers[who][index], self.iou(who, index)
            event = LocalisedEvent.of(text)
            right = exact_match(event.label, clip.shape) and iou >= GOOD_IOU
            given.append(ModelAnswer(who, text, right, _shares(event.interval, clip), f"IoU {decimal(iou)}"))
        return tuple(given)

    def terminal_table(self) -> TerminalTable:
        """The scores for the terminal."""
        rows = table("held-out clips", *self.answers, right=tuple(self.answers))
        for name, values in self.scores.items():
            cells = [Text(decimal(value), style="bold" if who == TUNED else "") for who, value in values.items()]
            rows.add_row(name, *cells)
        return rows

    def document(self) -> dict[str, object]:
        """The scores for `--json`."""
        keys = {MEAN_IOU: "meanTemporalIou", RECALL: "recallAtIou50", LABEL: "labelAccuracy", FIELDS: "fieldF1"}
        rounded = {keys[name]: {who: round(value, 4) for who, value in of.items()} for name, of in self.scores.items()}
        return rounded | {"numHeldOut": len(self.clips)}


def span(clip: Clip) -> Interval:
    """The interval in which the shape is visible."""
    return Fraction(clip.start_s), Fraction(clip.end_s)


def _shares(interval: Interval | None, clip: Clip) -> tuple[float, float] | None:
    """The interval in fractions of the clip's length; `None` if it is missing or empty."""
    if interval is None or interval[0] >= interval[1]:
        return None
    return float(interval[0] / clip.seconds), min(1.0, float(interval[1] / clip.seconds))

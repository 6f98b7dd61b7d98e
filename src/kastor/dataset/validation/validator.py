"""Validates every row of a dataset before training: accepted, dropped by a rule, or rejected. No torch, no weights.

Rows stream through in chunks: the media of a chunk are inspected together and its texts tokenised together. Nothing of
a row is kept after its verdict.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.validation.function_rules import tool_violations
from kastor.dataset.validation.rules import (
    RuleViolation,
    blank_answers,
    media_count_violations,
    media_notes,
    media_resolution,
    media_violations,
    medium_layout,
    part_violations,
    text_only_num_chars,
    text_violations,
    token_violations,
)
from kastor.dataset.validation.segment_timestamps import timestamps_outside_segment
from kastor.domain.content import Example, Media, Resolution, SupervisedTurns, Text
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.tools import ToolCallSupport
from kastor.domain.vision import MediaLayouts, MediumLayout, TokenCount, VisionSpec

CHUNK_ROWS = 128  # a few hundred KB, which fit a core's cache: 512 were up to a tenth slower
CHUNK_BYTES = 8_000_000  # a row with 20 MB of inline media is a chunk of its own
CHUNK_MEDIA = 32  # approximately: inspecting a long video takes a second

InspectMedia = Callable[[Iterable[Media]], dict[Media, InspectionResult]]


@dataclass(frozen=True, slots=True)
class ExamplePlan:
    """The token counts and media layouts of an accepted example. Training asserts that they are met."""

    tokens: TokenCount | None  # `None` without the base's tokenizer
    views: Mapping[Media, MediumLayout]


NO_PLAN = ExamplePlan(None, {})  # for a text row whose tokens are not counted
NO_INSPECTION: Mapping[Media, InspectedMedium] = MappingProxyType({})


class TokenCounter(Protocol):
    """The part of a renderer that validation needs."""

    def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts]) -> list[TokenCount]:
        """The token counts of each example, equal to those in training."""


class RowOutcome(StrEnum):
    """The outcome of a row's validation."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"  # left out; training proceeds without it
    REJECTED = "rejected"  # must be corrected: nothing is trained while one is left


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """The outcome of one row."""

    line: int
    outcome: RowOutcome
    issues: tuple[Issue, ...] = ()  # why the row was not accepted; notes if it was
    example: Example | None = None
    plan: ExamplePlan | None = None
    seen: Mapping[Media, InspectedMedium] | None = None


@dataclass(frozen=True, slots=True)
class BaseModelLimits:
    """The properties of a base model that validation needs; `renderer` is `None` without its tokenizer."""

    name: str
    max_tokens: int
    vision: VisionSpec | None
    renderer: TokenCounter | None = None
    calling: ToolCallSupport | None = None  # how the model writes function calls, if it can
    supervise: SupervisedTurns = SupervisedTurns.ALL  # the turns that are learnt; the same as the renderer's


class DatasetValidator:
    """Validates the rows of one dataset, or of a training and then a validation dataset."""

    def __init__(self, limits: DatasetLimits, base: BaseModelLimits, look: InspectMedia) -> None:
        self.limits = limits
        self.base = base
        self._look = look
        self.max_tokens = min(base.max_tokens, limits.max_tokens or base.max_tokens)
        bounds = (limits.max_input_chars, limits.max_output_chars)
        self._surely_fine = min([most for most in bounds if most is not None], default=sys.maxsize)
        self._resolution: tuple[Resolution, int] | None = None  # of the first line with media, and its number

    def verdicts(self, rows: Iterable[ParsedRow | Issue]) -> Iterator[RowVerdict]:
        """A verdict for each row, in order."""
        for chunk in _chunks(rows):
            yield from self._chunk(chunk)

    def _chunk(self, rows: Sequence[ParsedRow | Issue]) -> Iterable[RowVerdict]:
        at_sight = [_unreadable(row) if isinstance(row, Issue) else self._text_verdict(row) for row in rows]
        left = [
            row for row, verdict in zip(rows, at_sight, strict=True) if verdict is None and isinstance(row, ParsedRow)
        ]
        looked = self._look({medium for row in left for medium in row.example.media}) if left else {}
        rest = iter([self._with_media(row, looked) for row in left])
        return self._counted([next(rest) if verdict is None else verdict for verdict in at_sight])

    def _text_verdict(self, row: ParsedRow) -> RowVerdict | None:
        """The verdict, if it does not depend on inspecting media; otherwise `None`."""
        example = row.example
        num_chars = text_only_num_chars(example)
        if num_chars is not None and num_chars <= self._surely_fine:
            return RowVerdict(row.line, RowOutcome.ACCEPTED, row.notes, example, NO_PLAN, NO_INSPECTION)
        faults = list(text_violations(example, self.limits, self.base.supervise))
        if example.tools or example.others:
            faults += tool_violations(example, self.base.calling, self.base.name)
            faults += part_violations(example, self.base.vision, self.base.name, self.base.supervise)
            faults += media_count_violations(example, self.limits)
        if faults:
            return _refused(row, faults)
        if example.media:
            return None
        return RowVerdict(row.line, RowOutcome.ACCEPTED, self._notes(row), example, NO_PLAN, NO_INSPECTION)

    def _notes(self, row: ParsedRow) -> tuple[Issue, ...]:
        """Notes about an accepted row."""
        blank = ", ".join(blank_answers(row.example, self.base.supervise))
        if not blank:
            return row.notes
        return (*row.notes, Issue(row.line, blank, "blank_output", "holds only whitespace, which is learnt"))

    def _with_media(self, row: ParsedRow, looked: Mapping[Media, InspectionResult]) -> RowVerdict:
        example, vision = row.example, self.base.vision
        assert vision is not None  # noqa: S101  # a text-only base has rejected the row already
        faults = list(media_violations(example, looked, self.limits, vision)) + list(self._mixed(row, vision))
        if faults:
            return _refused(row, faults)
        seen = {media: found for media in example.media if isinstance(found := looked[media], InspectedMedium)}
        views = {
            media: medium_layout(media, found, media_resolution(media, example, vision), vision)
            for media, found in seen.items()
        }
        notes = (
            *self._notes(row),
            *timestamps_outside_segment(row.line, example),
            *_issues(row, media_notes(example, seen)),
        )
        return RowVerdict(row.line, RowOutcome.ACCEPTED, notes, example, ExamplePlan(None, views), seen)

    def _mixed(self, row: ParsedRow, vision: VisionSpec) -> Iterator[RuleViolation]:
        """Violations of the profile's rule that all lines have one resolution."""
        if not self.limits.one_resolution:
            return
        asked = {media_resolution(media, row.example, vision) for media in row.example.media}
        if self._resolution is None:
            self._resolution = (min(asked), row.line)
        first, line = self._resolution
        for other in sorted(asked - {first}):
            message = f"{other}, while line {line} has {first}; it must be the same on every line"
            yield RuleViolation("generationConfig.mediaResolution", "mixed_resolution", message)

    def _counted(self, verdicts: list[RowVerdict]) -> Iterable[RowVerdict]:
        """The verdicts with token counts by the base's tokenizer; examples that are too long are dropped."""
        return verdicts if self.base.renderer is None else self._count(self.base.renderer, verdicts)

    def _count(self, renderer: TokenCounter, verdicts: list[RowVerdict]) -> Iterator[RowVerdict]:
        accepted = [(v.example, v.plan.views) for v in verdicts if v.example is not None and v.plan is not None]
        counts = iter(renderer.counts([example for example, _ in accepted], [views for _, views in accepted]))
        for verdict in verdicts:
            if verdict.example is None or verdict.plan is None:
                yield verdict
                continue
            count = next(counts)
            row = ParsedRow(verdict.line, verdict.example, verdict.issues)
            faults = list(token_violations(count.total, self.max_tokens, self.base.name))
            plan = ExamplePlan(count, verdict.plan.views)
            if faults:
                yield _refused(row, faults)
            else:
                yield RowVerdict(row.line, RowOutcome.ACCEPTED, row.notes, row.example, plan, verdict.seen)


def _chunks(rows: Iterable[ParsedRow | Issue]) -> Iterator[list[ParsedRow | Issue]]:
    """Rows in chunks of `CHUNK_ROWS`, or fewer if their lines are long."""
    chunk: list[ParsedRow | Issue] = []
    room = CHUNK_BYTES
    for row in rows:
        chunk.append(row)
        if type(row) is ParsedRow:
            room -= row.num_bytes
            for content in row.example.contents:
                if len(content.parts) != 1 or type(content.parts[0]) is not Text:
                    room -= CHUNK_BYTES // CHUNK_MEDIA
        if room < 0 or len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk, room = [], CHUNK_BYTES
    if chunk:
        yield chunk


def _unreadable(issue: Issue) -> RowVerdict:
    return RowVerdict(issue.line, RowOutcome.REJECTED, (issue,))


def _refused(row: ParsedRow, faults: Sequence[RuleViolation]) -> RowVerdict:
    """The verdict for a row with violations: dropped if all of them drop, otherwise rejected."""
    outcome = RowOutcome.DROPPED if all(fault.drops for fault in faults) else RowOutcome.REJECTED
    return RowVerdict(row.line, outcome, _issues(row, faults))


def _issues(row: ParsedRow, faults: Iterable[RuleViolation]) -> tuple[Issue, ...]:
    return tuple(Issue(row.line, fault.path, fault.rule, fault.message, fault.hint) for fault in faults)

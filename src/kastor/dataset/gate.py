"""Judges every row of a dataset before any training: accepted, dropped by a rule, or rejected. No torch, no weights.

Streams: rows are taken in chunks, whose media are looked at together and whose texts are tokenised in one go; nothing
is kept of a row once its verdict is given.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from kastor.dataset.calls import call_faults
from kastor.dataset.issues import Issue, Row
from kastor.dataset.rules import (
    Fault,
    blank_answers,
    media_faults,
    media_notes,
    number_faults,
    part_faults,
    plain_chars,
    resolution_of,
    text_faults,
    token_faults,
    view_of,
)
from kastor.dataset.seen import Looked, Seen
from kastor.dataset.segment_moments import moments_outside
from kastor.domain.content import Example, Media, Resolution, SupervisedTurns, Text
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.tools import ToolCallSupport
from kastor.domain.vision import MediaLayouts, MediumLayout, TokenCount, VisionSpec

CHUNK_ROWS = 128  # a few hundred KB stay in the cache of a core: 512 were up to a tenth slower
CHUNK_BYTES = 8_000_000  # inline media of 20 MB take a chunk of their own
CHUNK_MEDIA = 32  # or about as many: looking at a long video takes a second

Look = Callable[[Iterable[Media]], dict[Media, Looked]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an accepted example will be for the model. Training asserts that it is."""

    tokens: TokenCount | None  # absent where the base's tokenizer is not at hand
    views: Mapping[Media, MediumLayout]


UNSEEN = Plan(None, {})  # of a row of text whose tokens are not counted
UNLOOKED: Mapping[Media, Seen] = MappingProxyType({})


class Counter(Protocol):
    """What the gate needs of a renderer."""

    def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts]) -> list[TokenCount]:
        """The tokens of each example, as training will make them."""


class Outcome(StrEnum):
    """What becomes of a row."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"  # left out, and training goes on without it
    REJECTED = "rejected"  # to be mended: nothing is trained while there is one


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row, judged."""

    line: int
    outcome: Outcome
    issues: tuple[Issue, ...] = ()  # why it was not accepted; of one that was, what to know about it
    example: Example | None = None
    plan: Plan | None = None
    seen: Mapping[Media, Seen] | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """What the gate needs to know of a base model; `renderer` is absent where its tokenizer is not at hand."""

    name: str
    max_tokens: int
    vision: VisionSpec | None
    renderer: Counter | None = None
    calling: ToolCallSupport | None = None  # how it writes function calls, if it can
    supervise: SupervisedTurns = SupervisedTurns.ALL  # the turns that are learnt, as the renderer has it


class Gate:
    """Judges rows of one dataset, or of a training and a validation dataset one after the other."""

    def __init__(self, limits: DatasetLimits, base: Base, look: Look) -> None:
        self.limits = limits
        self.base = base
        self._look = look
        self.max_tokens = min(base.max_tokens, limits.max_tokens or base.max_tokens)
        bounds = (limits.max_input_chars, limits.max_output_chars)
        self._surely_fine = min([most for most in bounds if most is not None], default=sys.maxsize)
        self._resolution: tuple[Resolution, int] | None = None  # of the first line with media, and that line

    def verdicts(self, rows: Iterable[Row | Issue]) -> Iterator[Verdict]:
        """A verdict for each row, in order."""
        for chunk in _chunks(rows):
            yield from self._chunk(chunk)

    def _chunk(self, rows: Sequence[Row | Issue]) -> Iterable[Verdict]:
        at_sight = [_unreadable(row) if isinstance(row, Issue) else self._at_sight(row) for row in rows]
        left = [row for row, verdict in zip(rows, at_sight, strict=True) if verdict is None and isinstance(row, Row)]
        looked = self._look({medium for row in left for medium in row.example.media}) if left else {}
        rest = iter([self._with_media(row, looked) for row in left])
        return self._counted([next(rest) if verdict is None else verdict for verdict in at_sight])

    def _at_sight(self, row: Row) -> Verdict | None:
        """The verdict, if the example alone decides it: nobody has to look at media."""
        example = row.example
        num_chars = plain_chars(example)
        if num_chars is not None and num_chars <= self._surely_fine:
            return Verdict(row.line, Outcome.ACCEPTED, row.notes, example, UNSEEN, UNLOOKED)
        faults = list(text_faults(example, self.limits, self.base.supervise))
        if example.tools or example.others:
            faults += call_faults(example, self.base.calling, self.base.name)
            faults += part_faults(example, self.base.vision, self.base.name, self.base.supervise)
            faults += number_faults(example, self.limits)
        if faults:
            return _refused(row, faults)
        if example.media:
            return None
        return Verdict(row.line, Outcome.ACCEPTED, self._notes(row), example, UNSEEN, UNLOOKED)

    def _notes(self, row: Row) -> tuple[Issue, ...]:
        """What to know about a row that is kept."""
        blank = ", ".join(blank_answers(row.example, self.base.supervise))
        if not blank:
            return row.notes
        return (*row.notes, Issue(row.line, blank, "blank_output", "holds blanks only, which are learnt"))

    def _with_media(self, row: Row, looked: Mapping[Media, Looked]) -> Verdict:
        example, vision = row.example, self.base.vision
        assert vision is not None  # noqa: S101  # what a base that reads text only cannot read has its verdict
        faults = list(media_faults(example, looked, self.limits, vision)) + list(self._mixed(row, vision))
        if faults:
            return _refused(row, faults)
        seen = {media: found for media in example.media if isinstance(found := looked[media], Seen)}
        views = {
            media: view_of(media, found, resolution_of(media, example, vision), vision) for media, found in seen.items()
        }
        notes = (*self._notes(row), *moments_outside(row.line, example), *_issues(row, media_notes(example, seen)))
        return Verdict(row.line, Outcome.ACCEPTED, notes, example, Plan(None, views), seen)

    def _mixed(self, row: Row, vision: VisionSpec) -> Iterator[Fault]:
        """One resolution for all lines, where the profile asks for it."""
        if not self.limits.one_resolution:
            return
        asked = {resolution_of(media, row.example, vision) for media in row.example.media}
        if self._resolution is None:
            self._resolution = (min(asked), row.line)
        first, line = self._resolution
        for other in sorted(asked - {first}):
            message = f"{other}, while line {line} has {first}; it must be the same on every line"
            yield Fault("generationConfig.mediaResolution", "mixed_resolution", message)

    def _counted(self, verdicts: list[Verdict]) -> Iterable[Verdict]:
        """The verdicts with the tokens of what is accepted, by the base's own tokenizer; too long ones are dropped."""
        return verdicts if self.base.renderer is None else self._count(self.base.renderer, verdicts)

    def _count(self, renderer: Counter, verdicts: list[Verdict]) -> Iterator[Verdict]:
        accepted = [(v.example, v.plan.views) for v in verdicts if v.example is not None and v.plan is not None]
        counts = iter(renderer.counts([example for example, _ in accepted], [views for _, views in accepted]))
        for verdict in verdicts:
            if verdict.example is None or verdict.plan is None:
                yield verdict
                continue
            count = next(counts)
            row = Row(verdict.line, verdict.example, verdict.issues)
            faults = list(token_faults(count.total, self.max_tokens, self.base.name))
            plan = Plan(count, verdict.plan.views)
            if faults:
                yield _refused(row, faults)
            else:
                yield Verdict(row.line, Outcome.ACCEPTED, row.notes, row.example, plan, verdict.seen)


def _chunks(rows: Iterable[Row | Issue]) -> Iterator[list[Row | Issue]]:
    """Rows to be judged together: so many, or fewer where their lines are long."""
    chunk: list[Row | Issue] = []
    room = CHUNK_BYTES
    for row in rows:
        chunk.append(row)
        if type(row) is Row:
            room -= row.num_bytes
            for content in row.example.contents:
                if len(content.parts) != 1 or type(content.parts[0]) is not Text:
                    room -= CHUNK_BYTES // CHUNK_MEDIA
        if room < 0 or len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk, room = [], CHUNK_BYTES
    if chunk:
        yield chunk


def _unreadable(issue: Issue) -> Verdict:
    return Verdict(issue.line, Outcome.REJECTED, (issue,))


def _refused(row: Row, faults: Sequence[Fault]) -> Verdict:
    """Dropped if every fault is one that drops; else rejected."""
    outcome = Outcome.DROPPED if all(fault.drops for fault in faults) else Outcome.REJECTED
    return Verdict(row.line, outcome, _issues(row, faults))


def _issues(row: Row, faults: Iterable[Fault]) -> tuple[Issue, ...]:
    return tuple(Issue(row.line, fault.path, fault.rule, fault.message, fault.hint) for fault in faults)

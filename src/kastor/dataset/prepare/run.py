"""`kastor prepare`: a dataset over the limits -> one within them, with the originals untouched.

    DIR/dataset.jsonl   the rows: as they were, or cut, with their moments on the new timelines
    DIR/media/          what was made, and local media as they were (linked, or copied where that cannot be)
    DIR/changes.html    every rewritten text, before and after
    DIR/prepare.json    the ledger: rows in = kept + changed + left out
    DIR/state.jsonl     what is finished, so that a run that was stopped goes on where it was

The rows are read twice, so that memory does not grow with them: once to judge, once to write.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.prepare.media import Fetch, MediaBuilder, OnDone
from kastor.dataset.prepare.plan import (
    REPAIRABLE_RULES,
    DatasetSurvey,
    ExcludedRow,
    MediaSource,
    Options,
    PreparePlan,
    SourceRequirements,
    TimestampOrigin,
    counts_from_segment,
    decide_steps,
    key_of,
    longest_s,
    source_key,
    too_large,
    too_long,
)
from kastor.dataset.prepare.write import DatasetWriter, PrepareLedger, ReadRows
from kastor.dataset.validation.rules import media_resolution
from kastor.dataset.validation.segment_timestamps import timestamps_outside_segment
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, InspectMedia, RowOutcome, RowVerdict
from kastor.domain.content import Example, Media, Resolution
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import MediaKind
from kastor.domain.vision import VisionSpec
from kastor.media.decode_limits import DecodeLimits

LOCK = ".lock"


class DatasetPreparation:
    """One dataset being prepared. `base` decides what is seen of a picture and, if its tokenizer is at hand, tokens."""

    def __init__(
        self,
        read: ReadRows,
        limits: DatasetLimits,
        base: BaseModelLimits,
        look: InspectMedia,
        fetch: Fetch,
        options: Options,
        guards: DecodeLimits,
    ) -> None:
        self._read = read
        self._limits = limits
        self._base = base
        self._look = look
        self._fetch = fetch
        self._options = options
        self._guards = guards

    def plan(self, on_row: Callable[[int], None] = lambda _: None) -> PreparePlan:
        """Judge every row and decide what is done; touches nothing."""
        survey = DatasetSurvey()
        gate = DatasetValidator(self._limits, self._base, lambda media: self._noted(media, survey))
        pending: deque[ParsedRow | Issue] = deque()

        def rows() -> Iterator[ParsedRow | Issue]:
            for row in self._read():
                pending.append(row)
                yield row

        for verdict in gate.verdicts(rows()):
            survey.num_rows += 1
            self._judge(pending.popleft(), verdict, survey)
            on_row(survey.num_rows)
        return decide_steps(survey, self._limits, self._options)

    def run(self, plan: PreparePlan, folder: Path, on_done: OnDone = lambda step, made: None) -> PrepareLedger:
        """Do what the plan says and write the new dataset.

        Raises:
            FailedPrecondition: the folder cannot be written to.

        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"Cannot write to {folder}: {error.strerror or error}.") from error
        steps = [step for step in plan.steps.values() if step.makes_files]
        workshop = MediaBuilder(folder, self._limits, self._fetch, self._guards)
        try:
            with FileLock(folder / LOCK, timeout=0):
                made = workshop.make(steps, self._options.num_jobs, on_done)
                return DatasetWriter(self._read, plan, made, self._options, folder).run()
        except Timeout as error:
            raise FailedPrecondition(
                f"Another kastor prepare is at work in {folder}; wait until it is done."
            ) from error
        except OSError as error:
            raise FailedPrecondition(f"Cannot write to {folder}: {error.strerror or error}.") from error

    def _noted(self, media: Iterable[Media], survey: DatasetSurvey) -> dict[Media, InspectionResult]:
        looked = self._look(media)
        for medium, seen in looked.items():
            if isinstance(seen, InspectedMedium):
                key = source_key(medium, seen.file.sha256)
                survey.sources.setdefault(key, MediaSource(key, seen.file.path, seen.file.sha256, seen.probe))
        return looked

    def _judge(self, row: ParsedRow | Issue, verdict: RowVerdict, survey: DatasetSurvey) -> None:
        if isinstance(row, Issue):
            survey.left_out[row.line] = ExcludedRow(row.rule, str(row))
            return
        survey.prompts.add(row.example)
        rules = {issue.rule for issue in verdict.issues} if verdict.outcome is not RowOutcome.ACCEPTED else set()
        wants = self._wants(row.example, survey, tokens="too_many_tokens" in rules)
        if rules - REPAIRABLE_RULES or (rules and not wants):
            first = next(issue for issue in verdict.issues if issue.rule in (rules - REPAIRABLE_RULES or rules))
            survey.left_out[row.line] = ExcludedRow(first.rule, first.message)
        elif wants:
            self._mend(row, wants, survey)
        if self._options.times_from is TimestampOrigin.FILE and row.line not in survey.left_out:
            found = tuple(
                timestamps_outside_segment(row.line, row.example)
            )  # the gate notes them of accepted rows only
            survey.findings.update({row.line: found} if found else {})

    def _wants(
        self, example: Example, survey: DatasetSurvey, *, tokens: bool
    ) -> list[tuple[Media, MediaSource, float | None]]:
        """The media of an example that need something, and the longest part allowed."""
        vision = self._base.vision
        if vision is None:
            return []
        found = []
        for medium in example.media:
            source = self._source(medium, survey)
            if source is None:
                continue
            most = self._most_tokens() if tokens or self._base.renderer is not None else None
            longest = longest_s(medium, example, self._limits, vision, self._options, most if tokens else None)
            if (
                too_large(source, self._limits)
                or too_long(medium, source, longest)
                or counts_from_segment(medium, source, self._options)
            ):
                most_s = longest_s(medium, example, self._limits, vision, self._options, most)
                found.append((medium, source, most_s))
        return found

    def _source(self, medium: Media, survey: DatasetSurvey) -> MediaSource | None:
        return survey.sources.get(key_of(medium))

    def _most_tokens(self) -> int:
        return min(self._base.max_tokens, self._limits.max_tokens or self._base.max_tokens)

    def _mend(
        self, row: ParsedRow, wants: list[tuple[Media, MediaSource, float | None]], survey: DatasetSurvey
    ) -> None:
        vision = self._base.vision
        videos = [medium for medium in row.example.media if self._is_video(medium, survey)]
        if any(longest is not None and longest < 1 for _, _, longest in wants):
            why = "its texts leave no room for a second of video"
            survey.left_out[row.line] = ExcludedRow("too_many_tokens", why)
            return
        if len(videos) > 1:
            survey.left_out[row.line] = ExcludedRow(
                "cannot_cut", f"{len(videos)} videos share one text; cut it by hand"
            )
            return
        survey.to_mend.add(row.line)
        large = False
        for medium, source, longest in wants:
            need = survey.needs.setdefault(source.key, SourceRequirements(source, medium))
            need.too_large = too_large(source, self._limits)
            large = large or need.too_large
            lines = 0 if vision is None else _lines(source, media_resolution(medium, row.example, vision), vision)
            need.add(lines, longest, too_long=too_long(medium, source, longest))
        survey.num_oversized_rows += large

    def _is_video(self, medium: Media, survey: DatasetSurvey) -> bool:
        source = self._source(medium, survey)
        return source is not None and source.probe.kind is MediaKind.VIDEO


def _lines(source: MediaSource, resolution: Resolution, vision: VisionSpec) -> int:
    """Pixels of the shorter side with which the model sees all that it would see of the original."""
    width, height = source.probe.width or 1, source.probe.height or 1
    grid = vision.layout(resolution, (width, height))
    return math.ceil(max(grid.width / width, grid.height / height) * min(width, height))

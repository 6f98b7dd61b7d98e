"""The rows of a prepared dataset written: as they were, or shared out over the parts of their video."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.prepare.media import MEDIA, Made, stem_of
from kastor.dataset.prepare.plan import (
    ExcludedRow,
    MediaAction,
    MediaSource,
    Options,
    PreparePlan,
    SourceRequirements,
    TimestampOrigin,
    VideoPart,
    key_of,
    overlapping_parts,
)
from kastor.dataset.prepare.report import ChangedRow, ChangeReport, clock, write_ledger
from kastor.dataset.prepare.split_example import (
    CannotSplit,
    SplitRow,
    Window,
    example_timestamps,
    part_boundaries,
    split_example,
    unconverted_timestamps,
)
from kastor.dataset.validation.segment_timestamps import timestamps_outside_segment
from kastor.domain.content import Example, Media
from kastor.domain.content import Part as TurnPart
from kastor.domain.media import MediaFault, MediaKind
from kastor.media.transcode import exact_seconds
from kastor.runtime.atomic import rename_synced

DATASET, CHANGES, LEDGER = "dataset.jsonl", "changes.html", "prepare.json"
TIGHT_S = Fraction(1, 1000)

ReadRows = Callable[[], Iterable[ParsedRow | Issue]]
"""Begins to read the dataset anew."""


@dataclass(slots=True)
class PrepareLedger:
    """What became of every row: rows in = kept + changed + left out."""

    num_rows: int = 0
    num_kept: int = 0
    num_changed: int = 0
    num_rows_out: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by rule
    media: Counter[str] = field(default_factory=Counter)  # by what was done
    findings: Counter[str] = field(default_factory=Counter)  # by rule, of rows that are in the outcome
    num_empty_parts: int = 0  # parts of a row's video that none of its texts is about


class DatasetWriter:
    """Writes the rows of a prepared dataset into a folder whose media are made."""

    def __init__(
        self, read: ReadRows, plan: PreparePlan, made: Mapping[str, Made], options: Options, folder: Path
    ) -> None:
        self._read, self._plan, self._made = read, plan, made
        self._options, self._folder = options, folder
        self._ledger = PrepareLedger(num_rows=plan.survey.num_rows)
        self._linked: dict[str, str] = {}

    def run(self) -> PrepareLedger:
        """Write everything; the dataset comes last, so that it is there only when all else is."""
        part = self._folder / f"{DATASET}.part"
        for key, step in self._plan.steps.items():
            failed = isinstance(self._made.get(key), MediaFault)
            self._ledger.media["failed" if failed else str(step.act)] += 1
        with part.open("wb") as file, ChangeReport(self._folder / CHANGES, lambda: document(self._ledger)) as report:
            for row in self._read():
                for example in self._rows(row, report):
                    file.write(encode_example(example) + b"\n")
                    self._ledger.num_rows_out += 1
        write_ledger(self._folder / LEDGER, document(self._ledger))
        rename_synced(part, self._folder / DATASET)
        return self._ledger

    def _rows(self, row: ParsedRow | Issue, report: ChangeReport) -> list[Example]:
        survey = self._plan.survey
        left = survey.left_out.get(row.line)
        if left is None and isinstance(row, ParsedRow):
            found = survey.findings.get(row.line, ())
            if row.line not in survey.to_mend:
                self._ledger.num_kept += 1
                self._ledger.findings.update(issue.rule for issue in found)
                report.kept(row.line, row.example, found)
                return [self._relocated(row.example)]
            mended = self._mended(row)
            if not isinstance(mended, ExcludedRow):
                return self._changed(row, mended, found, report)
            left = mended
        left = left or ExcludedRow("unreadable", "the row was not readable the second time")
        self._ledger.left_out[left.rule] += 1
        report.left_out(row.line, left, row.example if isinstance(row, ParsedRow) else None)
        return []

    def _changed(
        self, row: ParsedRow, mended: ChangedRow, found: Sequence[Issue], report: ChangeReport
    ) -> list[Example]:
        if self._options.times_from is TimestampOrigin.SEGMENT:
            found = [issue for cut in mended.rows for issue in timestamps_outside_segment(row.line, cut.example)]
        self._ledger.findings.update(issue.rule for issue in found)
        self._ledger.num_changed += 1
        self._ledger.num_empty_parts += len(mended.empty_parts)
        retimed = len(mended.rows) > 1 or any(cut.changes for cut in mended.rows)
        notes = [*map(_told, found), *(self._notes(row.example) if retimed else ())]
        report.changed(row.line, row.example, mended, notes)
        return [cut.example for cut in mended.rows]

    def _mended(self, row: ParsedRow) -> ChangedRow | ExcludedRow:
        """What the row becomes."""
        example = row.example
        for medium in example.media:
            step = self._plan.steps.get(key_of(medium))
            made = None if step is None else self._made.get(key_of(medium))
            if step is not None and step.act is MediaAction.DROP:
                return ExcludedRow("oversized_left_out", f"{medium.name}: {step.why}")
            if isinstance(made, MediaFault):
                return ExcludedRow(made.rule, f"{medium.name}: {made.message}")
        video = next((medium for medium in example.media if self._step_of_video(medium)), None)
        if video is None:
            return ChangedRow((SplitRow(0, self._relocated(example), ()),))
        try:
            return self._cut(example, video)
        except CannotSplit as cannot:
            return ExcludedRow("cannot_cut", f"cannot be cut automatically: {cannot.why}")

    def _step_of_video(self, medium: Media) -> bool:
        step = self._plan.steps.get(key_of(medium))
        return step is not None and step.need.source.probe.kind is MediaKind.VIDEO

    def _cut(self, example: Example, video: Media) -> ChangedRow:
        """Raises `CannotSplit`."""
        need = self._plan.steps[key_of(video)].need
        duration = exact_seconds(need.source.probe.duration_s or 0)
        start = exact_seconds(video.start_s or 0)
        end = duration if video.end_s is None else min(duration, exact_seconds(video.end_s))
        origin = start if self._options.times_from is TimestampOrigin.SEGMENT else Fraction(0)
        counted = (end - start) if origin else duration
        pieces = self._pieces(example, video, need, (start, end), origin, counted)
        windows = [
            Window(low - origin, high - origin, zero - origin, place == 0, place == len(pieces) - 1)
            for place, (_, low, high, zero) in enumerate(pieces)
        ]

        def medium_of(place: int, medium: Media) -> Media:
            if medium is not video and medium != video:
                return self._moved(medium)
            part, low, high, _ = pieces[place]
            return _placed(self._moved(medium), part, low, high, self._longest(video))

        if len(windows) == 1 and windows[0].zero == 0:  # nothing moves, so nothing need be understood
            return ChangedRow((SplitRow(0, self._with_media(example, lambda medium: medium_of(0, medium)), ()),))
        rows = split_example(
            example,
            windows,
            medium_of,
            counted,
            self._options.forms,
            copy_untimed=self._options.copy_untimed,
            is_shared=self._plan.survey.prompts.are_shared,
        )
        told = {row.part for row in rows}
        empty = [piece for place, piece in enumerate(pieces) if place not in told]
        return ChangedRow(rows, tuple(f"{clock(low)} to {clock(high)}" for _, low, high, _ in empty))

    def _pieces(
        self,
        example: Example,
        video: Media,
        need: SourceRequirements,
        segment: tuple[Fraction, Fraction],
        origin: Fraction,
        counted: Fraction,
    ) -> list[tuple[VideoPart, Fraction, Fraction, Fraction]]:
        """(part, from, to, new zero) for each row to come, all as the source's seconds."""
        made = self._made.get(need.source.key)
        parts: tuple[VideoPart, ...] = made if isinstance(made, tuple) else ()
        if not parts:
            parts = (
                VideoPart(
                    "", video.mime_type, Fraction(0), max(segment[1], exact_seconds(need.source.probe.duration_s or 0))
                ),
            )
        longest = self._longest(video)
        found = []
        for part, low, high in overlapping_parts(parts, *segment):
            edges = [low, high]
            if longest is not None and high - low > longest:
                moments = example_timestamps(
                    example, counted, self._options.forms, self._plan.survey.prompts.are_shared
                )
                edges = part_boundaries(low, high, longest, [(one + origin, other + origin) for one, other in moments])
            for begin, stop in zip(edges, edges[1:], strict=False):
                found.append((part, begin, stop, part.start_s))
        if not found:
            raise CannotSplit("its segment lies outside the video")
        return found

    def _longest(self, video: Media) -> Fraction | None:
        need = self._plan.steps[key_of(video)].need
        return None if need.max_s is None else exact_seconds(need.max_s)

    def _notes(self, example: Example) -> tuple[str, ...]:
        video = next((medium for medium in example.media if self._step_of_video(medium)), None)
        if video is None:
            return ()
        duration = self._plan.steps[key_of(video)].need.source.probe.duration_s or 0
        return unconverted_timestamps(
            example, exact_seconds(duration), self._options.forms, self._plan.survey.prompts.are_shared
        )

    def _relocated(self, example: Example) -> Example:
        """The example with its media where they are now."""
        return self._with_media(example, self._moved) if example.others else example

    def _with_media(self, example: Example, placed: Callable[[Media], Media]) -> Example:
        def parts_of(parts: tuple[TurnPart, ...]) -> tuple[TurnPart, ...]:
            return tuple(placed(part) if isinstance(part, Media) else part for part in parts)

        contents = tuple(replace(content, parts=parts_of(content.parts)) for content in example.contents)
        return replace(example, contents=contents, system=None if example.system is None else parts_of(example.system))

    def _moved(self, medium: Media) -> Media:
        """The medium at its new address: a file that was made, or one linked; remote ones stay where they are."""
        made = self._made.get(key_of(medium))
        if isinstance(made, tuple) and len(made) == 1 and made[0].name:
            return replace(medium, uri=f"{MEDIA}/{made[0].name}", data=b"", mime_type=made[0].mime_type)
        if not medium.uri or "://" in medium.uri.removeprefix("file://") or medium.uri.startswith("files/"):
            return medium
        source = self._plan.survey.sources.get(key_of(medium))
        if source is None or isinstance(made, tuple):
            return medium
        if self._options.leave_media:
            return replace(medium, uri=str(source.path))
        if source.key not in self._linked:
            self._linked[source.key] = self._link(source)
        return replace(medium, uri=self._linked[source.key])

    def _link(self, source: MediaSource) -> str:
        name = f"{stem_of(source.key)}-{source.sha256[:12]}{source.path.suffix or Path(source.key).suffix}"
        to = self._folder / MEDIA / name
        if not to.exists():
            part = to.with_name(f"{name}.part")
            part.unlink(missing_ok=True)
            try:
                part.hardlink_to(source.path)
            except OSError:  # another disk, or one that knows no links
                shutil.copyfile(source.path, part)
            part.replace(to)
        return f"{MEDIA}/{name}"


def _told(issue: Issue) -> str:
    return f"{issue.path}: {issue.message} ({issue.hint})"


def _placed(medium: Media, part: VideoPart, low: Fraction, high: Fraction, longest: Fraction | None) -> Media:
    """The medium's segment within its part. One as long as it may be names its end: the file's may round above it."""
    uri = f"{MEDIA}/{part.name}" if part.name else medium.uri
    data = b"" if part.name else medium.data
    start = None if low == part.start_s else float(low - part.start_s)
    tight = longest is not None and high - low > longest - TIGHT_S
    end = None if high == part.end_s and not tight else float(high - part.start_s)
    if end is not None and longest is not None and end - (start or 0.0) > longest:
        end -= float(TIGHT_S)  # what floating point made too long
    return replace(medium, uri=uri, data=data, mime_type=part.mime_type, start_s=start, end_s=end)


def document(ledger: PrepareLedger) -> dict[str, Any]:
    """The ledger as `prepare.json` and `--json` have it."""
    return {
        "rowsIn": ledger.num_rows,
        "rowsKept": ledger.num_kept,
        "rowsChanged": ledger.num_changed,
        "rowsLeftOut": sum(ledger.left_out.values()),
        "leftOutByRule": dict(sorted(ledger.left_out.items())),
        "rowsOut": ledger.num_rows_out,
        "findings": dict(sorted(ledger.findings.items())),
        "partsWithoutRows": ledger.num_empty_parts,
        "media": dict(sorted(ledger.media.items())),
    }

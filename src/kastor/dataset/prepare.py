"""`kastor prepare`: a dataset over the limits -> one within them, with the originals untouched.

    DIR/dataset.jsonl   the rows: as they were, or cut, with their moments on the new timelines
    DIR/media/          what was made, and local media as they were (linked, or copied where that cannot be)
    DIR/changes.html    every rewritten text, before and after
    DIR/prepare.json    the ledger: rows in = kept + changed + left out
    DIR/state.jsonl     what is finished, so that a run that was stopped goes on where it was

The rows are read twice, so that memory does not grow with them: once to judge, once to write.
"""

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from kastor.dataset.gate import Base, Gate, Look, Outcome, Verdict
from kastor.dataset.issues import Issue, Row
from kastor.dataset.parse import encode_example
from kastor.dataset.prepare_media import MEDIA, Fetch, Made, OnDone, Workshop, stem_of
from kastor.dataset.prepare_plan import (
    MENDABLE,
    Act,
    LeftOut,
    Need,
    Options,
    Part,
    Plan,
    Source,
    Survey,
    TimesFrom,
    decided,
    longest_s,
    parts_met,
    source_key,
    too_large,
    too_long,
)
from kastor.dataset.prepare_report import Report, write_ledger
from kastor.dataset.retime import CannotCut, CutRow, Window, borders, cut_example, left_alone, moments_of
from kastor.dataset.rules import resolution_of
from kastor.dataset.seen import Looked, Seen
from kastor.domain.content import Content, Example, Media
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import MediaFault, MediaKind
from kastor.media.guards import Guards
from kastor.media.rewrite import exact

DATASET, CHANGES, LEDGER = "dataset.jsonl", "changes.html", "prepare.json"

ReadRows = Callable[[], Iterable[Row | Issue]]
"""Begins to read the dataset anew."""


@dataclass(slots=True)
class Ledger:
    """What became of every row: rows in = kept + changed + left out."""

    num_rows: int = 0
    num_kept: int = 0
    num_changed: int = 0
    num_rows_out: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by rule
    media: Counter[str] = field(default_factory=Counter)  # by what was done


class Preparation:
    """One dataset being prepared. `base` decides what is seen of a picture and, if its tokenizer is at hand, tokens."""

    def __init__(
        self,
        read: ReadRows,
        limits: DatasetLimits,
        base: Base,
        look: Look,
        fetch: Fetch,
        options: Options,
        guards: Guards,
    ) -> None:
        self._read = read
        self._limits = limits
        self._base = base
        self._look = look
        self._fetch = fetch
        self._options = options
        self._guards = guards

    def plan(self, on_row: Callable[[int], None] = lambda _: None) -> Plan:
        """Judge every row and decide what is done; touches nothing."""
        survey = Survey()
        gate = Gate(self._limits, self._base, lambda media: self._noted(media, survey))
        pending: deque[Row | Issue] = deque()

        def rows() -> Iterator[Row | Issue]:
            for row in self._read():
                pending.append(row)
                yield row

        for verdict in gate.verdicts(rows()):
            survey.num_rows += 1
            self._judge(pending.popleft(), verdict, survey)
            on_row(survey.num_rows)
        return decided(survey, self._limits, self._options)

    def run(self, plan: Plan, folder: Path, on_done: OnDone = lambda step, made: None) -> Ledger:
        """Do what the plan says and write the new dataset.

        Raises:
            FailedPrecondition: the folder cannot be written to.

        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"Cannot write to {folder}: {error.strerror or error}.") from error
        steps = [step for step in plan.steps.values() if step.makes_files]
        made = Workshop(folder, self._limits, self._fetch, self._guards).make(steps, self._options.num_jobs, on_done)
        try:
            return _Writer(self._read, plan, made, self._options, self._base, folder).run()
        except OSError as error:
            raise FailedPrecondition(f"Cannot write to {folder}: {error.strerror or error}.") from error

    def _noted(self, media: Iterable[Media], survey: Survey) -> dict[Media, Looked]:
        looked = self._look(media)
        for medium, seen in looked.items():
            if isinstance(seen, Seen):
                key = source_key(medium, seen.file.sha256)
                survey.sources.setdefault(key, Source(key, seen.file.path, seen.file.sha256, seen.probe))
        return looked

    def _judge(self, row: Row | Issue, verdict: Verdict, survey: Survey) -> None:
        if isinstance(row, Issue):
            survey.left_out[row.line] = LeftOut(row.rule, str(row))
            return
        rules = {issue.rule for issue in verdict.issues} if verdict.outcome is not Outcome.ACCEPTED else set()
        wants = self._wants(row.example, survey, tokens="too_many_tokens" in rules)
        if rules - MENDABLE or (rules and not wants):
            first = next(issue for issue in verdict.issues if issue.rule in (rules - MENDABLE or rules))
            survey.left_out[row.line] = LeftOut(first.rule, first.message)
        elif wants:
            self._mend(row, wants, survey)

    def _wants(self, example: Example, survey: Survey, *, tokens: bool) -> list[tuple[Media, Source, float | None]]:
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
            if too_large(source, self._limits) or too_long(medium, source, longest):
                most_s = longest_s(medium, example, self._limits, vision, self._options, most)
                found.append((medium, source, most_s))
        return found

    def _source(self, medium: Media, survey: Survey) -> Source | None:
        return survey.sources.get(key_of(medium))

    def _most_tokens(self) -> int:
        return min(self._base.max_tokens, self._limits.max_tokens or self._base.max_tokens)

    def _mend(self, row: Row, wants: list[tuple[Media, Source, float | None]], survey: Survey) -> None:
        vision = self._base.vision
        videos = [medium for medium in row.example.media if self._is_video(medium, survey)]
        if any(longest is not None and longest < 1 for _, _, longest in wants):
            why = "its texts leave no room for a second of video"
            survey.left_out[row.line] = LeftOut("too_many_tokens", why)
            return
        if len(videos) > 1:
            survey.left_out[row.line] = LeftOut("cannot_cut", f"{len(videos)} videos share one text; cut it by hand")
            return
        survey.to_mend.add(row.line)
        large = False
        for medium, source, longest in wants:
            need = survey.needs.setdefault(source.key, Need(source, medium))
            need.too_large = too_large(source, self._limits)
            large = large or need.too_large
            lines = 0 if vision is None else vision.size[resolution_of(medium, row.example, vision)]
            need.add(lines, longest, too_long=too_long(medium, source, longest))
        survey.num_oversized_rows += large

    def _is_video(self, medium: Media, survey: Survey) -> bool:
        source = self._source(medium, survey)
        return source is not None and source.probe.kind is MediaKind.VIDEO


def key_of(medium: Media) -> str:
    """The key of a medium's source."""
    return source_key(medium, "" if medium.uri else hashlib.sha256(medium.data).hexdigest())


class _Writer:
    """Writes the rows of a prepared dataset."""

    def __init__(
        self, read: ReadRows, plan: Plan, made: Mapping[str, Made], options: Options, base: Base, folder: Path
    ) -> None:
        self._read, self._plan, self._made = read, plan, made
        self._options, self._base, self._folder = options, base, folder
        self._ledger = Ledger(num_rows=plan.survey.num_rows)
        self._linked: dict[str, str] = {}

    def run(self) -> Ledger:
        part = self._folder / f"{DATASET}.part"
        with part.open("wb") as file, Report(self._folder / CHANGES) as report:
            for row in self._read():
                for example in self._rows(row, report):
                    file.write(encode_example(example) + b"\n")
                    self._ledger.num_rows_out += 1
            file.flush()
            os.fsync(file.fileno())
        for key, step in self._plan.steps.items():
            failed = isinstance(self._made.get(key), MediaFault)
            self._ledger.media["failed" if failed else str(step.act)] += 1
        write_ledger(self._folder / LEDGER, document(self._ledger))
        part.replace(self._folder / DATASET)
        return self._ledger

    def _rows(self, row: Row | Issue, report: Report) -> list[Example]:
        survey = self._plan.survey
        left = survey.left_out.get(row.line)
        if left is None and isinstance(row, Row):
            if row.line not in survey.to_mend:
                self._ledger.num_kept += 1
                return [self._relocated(row.example)]
            mended = self._mended(row)
            if not isinstance(mended, LeftOut):
                self._ledger.num_changed += 1
                report.changed(row.line, row.example, mended, self._notes(row.example))
                return [cut.example for cut in mended]
            left = mended
        left = left or LeftOut("unreadable", "the row was not readable the second time")
        self._ledger.left_out[left.rule] += 1
        report.left_out(row.line, left)
        return []

    def _mended(self, row: Row) -> tuple[CutRow, ...] | LeftOut:
        """What the row becomes."""
        example = row.example
        for medium in example.media:
            step = self._plan.steps.get(key_of(medium))
            made = None if step is None else self._made.get(key_of(medium))
            if step is not None and step.act is Act.DROP:
                return LeftOut("oversized_left_out", f"{medium.name}: {step.why}")
            if isinstance(made, MediaFault):
                return LeftOut(made.rule, f"{medium.name}: {made.message}")
        video = next((medium for medium in example.media if self._step_of_video(medium)), None)
        if video is None:
            return (CutRow(0, self._relocated(example), ()),)
        try:
            return self._cut(example, video)
        except CannotCut as cannot:
            return LeftOut("cannot_cut", f"cannot be cut automatically: {cannot.why}")

    def _step_of_video(self, medium: Media) -> bool:
        step = self._plan.steps.get(key_of(medium))
        return step is not None and step.need.source.probe.kind is MediaKind.VIDEO

    def _cut(self, example: Example, video: Media) -> tuple[CutRow, ...]:
        """Raises `CannotCut`."""
        need = self._plan.steps[key_of(video)].need
        duration = exact(need.source.probe.duration_s or 0)
        start = exact(video.start_s or 0)
        end = duration if video.end_s is None else min(duration, exact(video.end_s))
        origin = start if self._options.times_from is TimesFrom.SEGMENT else Fraction(0)
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
            return _placed(self._moved(medium), part, low, high)

        return cut_example(
            example, windows, medium_of, counted, self._options.forms, copy_untimed=self._options.copy_untimed
        )

    def _pieces(
        self,
        example: Example,
        video: Media,
        need: Need,
        segment: tuple[Fraction, Fraction],
        origin: Fraction,
        counted: Fraction,
    ) -> list[tuple[Part, Fraction, Fraction, Fraction]]:
        """(part, from, to, new zero) for each row to come, all as the source's seconds."""
        made = self._made.get(need.source.key)
        parts: tuple[Part, ...] = made if isinstance(made, tuple) else ()
        if not parts:
            parts = (Part("", video.mime_type, Fraction(0), max(segment[1], exact(need.source.probe.duration_s or 0))),)
        longest = self._longest(example, video)
        found = []
        for part, low, high in parts_met(parts, *segment):
            edges = [low, high]
            if longest is not None and high - low > longest:
                moments = moments_of(example, counted, self._options.forms)
                edges = borders(low, high, longest, [(one + origin, other + origin) for one, other in moments])
            for begin, stop in zip(edges, edges[1:], strict=False):
                own = self._options.times_from is TimesFrom.SEGMENT
                found.append((part, begin, stop, begin if own else part.start_s))
        if not found:
            raise CannotCut("its segment lies outside the video")
        return found

    def _longest(self, example: Example, video: Media) -> Fraction | None:
        need = self._plan.steps[key_of(video)].need
        return None if need.max_s is None else exact(need.max_s)

    def _notes(self, example: Example) -> tuple[str, ...]:
        video = next((medium for medium in example.media if self._step_of_video(medium)), None)
        if video is None:
            return ()
        duration = self._plan.steps[key_of(video)].need.source.probe.duration_s or 0
        return left_alone(example, exact(duration), self._options.forms)

    def _relocated(self, example: Example) -> Example:
        """The example with its media where they are now."""
        if not example.others:
            return example
        contents = tuple(
            Content(
                content.role,
                tuple(self._moved(part) if isinstance(part, Media) else part for part in content.parts),
            )
            for content in example.contents
        )
        return replace(example, contents=contents)

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

    def _link(self, source: Source) -> str:
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


def _placed(medium: Media, part: Part, low: Fraction, high: Fraction) -> Media:
    """The medium's segment within its part."""
    uri = f"{MEDIA}/{part.name}" if part.name else medium.uri
    data = b"" if part.name else medium.data
    start = None if low == part.start_s else float(low - part.start_s)
    end = None if high == part.end_s else float(high - part.start_s)
    return replace(medium, uri=uri, data=data, mime_type=part.mime_type, start_s=start, end_s=end)


def document(ledger: Ledger) -> dict[str, Any]:
    """The ledger as `prepare.json` and `--json` have it."""
    return {
        "rowsIn": ledger.num_rows,
        "rowsKept": ledger.num_kept,
        "rowsChanged": ledger.num_changed,
        "rowsLeftOut": sum(ledger.left_out.values()),
        "leftOutByRule": dict(sorted(ledger.left_out.items())),
        "rowsOut": ledger.num_rows_out,
        "media": dict(sorted(ledger.media.items())),
    }

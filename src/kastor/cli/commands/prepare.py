"""`kastor prepare`: rewrites a dataset to fit the limits; the plan is shown before anything is written."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kastor.cli.commands.dataset_limits import raised_dataset_limits
from kastor.cli.console.dataset_input import dataset_file
from kastor.cli.console.output import Output, fields, megabytes, table
from kastor.cli.console.output_files import check_output_files, check_output_folder, is_same_file
from kastor.dataset.formats.issues import FileFacts
from kastor.dataset.formats.read import Columns, read_rows
from kastor.dataset.media.inspect import DatasetMediaInspector
from kastor.dataset.prepare.media import MEDIA, STATE
from kastor.dataset.prepare.plan import MediaStep, Options, PreparePlan, Strategy, TimestampOrigin
from kastor.dataset.prepare.run import LOCK, DatasetPreparation
from kastor.dataset.prepare.write import CHANGES, DATASET, LEDGER, PrepareLedger, document
from kastor.dataset.timestamps.config import TimestampConfig, load_timestamp_config
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, RowOutcome
from kastor.domain.content import Media
from kastor.domain.counts import counted
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import Rendering
from kastor.domain.media import MediaFault
from kastor.media.cache import MediaCache
from kastor.media.decode_limits import DecodeLimits
from kastor.media.fetch import AllowedSources, Fetcher
from kastor.media.probe import MediaProber
from kastor.models import download
from kastor.models.catalog import load_catalog
from kastor.models.chat.families import NANO_VL
from kastor.models.chat.render import Renderer
from kastor.settings import Settings, load_settings

MAX_SHOWN = 20
OUTPUTS = (DATASET, CHANGES, LEDGER, STATE, f"{DATASET}.part")  # files that are overwritten
RUN_FILES = (LOCK, STATE)  # files that identify the folder of an earlier run
UNLIMITED_TOKENS = 1 << 40  # without a base model there is no token limit


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """Output folder and limits, from the command line."""

    folder: Path
    profile: str
    base: str | None
    dry_run: bool
    raised: tuple[str, ...] = ()
    patterns: Path | None = None


def options_of(
    words: Mapping[str, str],
    *,
    drop_share: float,
    max_s: float | None,
    patterns: Path | None,
    num_jobs: int,
    leave_media: bool,
) -> Options:
    """The preparation options that the user chose.

    Raises:
        InvalidArgument: a choice is unknown, or the patterns are invalid.

    """
    choices = {"strategy": tuple(Strategy), "times_from": tuple(TimestampOrigin), "untimed": ("leave-out", "copy")}
    for name, word in words.items():
        if word not in choices[name]:
            option = f"--{name.replace('_', '-')}"
            raise InvalidArgument(f"{option} {word} is unknown; use {', '.join(choices[name])}.")
    return Options(
        strategy=Strategy(words["strategy"]),
        drop_share=drop_share,
        max_s=max_s,
        times_from=TimestampOrigin(words["times_from"]),
        copy_untimed=words["untimed"] == "copy",
        leave_media=leave_media,
        num_jobs=num_jobs,
        forms=TimestampConfig() if patterns is None else load_timestamp_config(patterns),
    )


def run(data: Path, columns: Columns, prepare_options: PrepareOptions, options: Options, out: Output) -> None:
    """Prepare the dataset; exits with 1 if no row is left or an output row would be refused."""
    settings = load_settings()
    _check_folder(prepare_options, data, settings)
    with dataset_file(data) as file:
        _run(file, data.absolute().parent, columns, prepare_options, options, settings, out)


def _run(
    data: Path,
    folder: Path,
    columns: Columns,
    prepare_options: PrepareOptions,
    options: Options,
    settings: Settings,
    out: Output,
) -> None:
    limits, base = (
        raised_dataset_limits(prepare_options.profile, prepare_options.raised, settings),
        _base(prepare_options.base, settings),
    )
    target, facts = prepare_options.folder.absolute(), FileFacts()
    with _media(settings, folder) as (inspector, fetcher):

        def path_of(medium: Media) -> Path:
            return (fetcher.fetch_bytes(medium.data) if medium.data else fetcher.fetch(medium.uri)).path

        preparation = DatasetPreparation(
            lambda: read_rows(data, input_key=columns[0], output_key=columns[1], facts=facts),
            limits,
            base,
            inspector.look,
            path_of,
            options,
            DecodeLimits(),
        )
        plan = _plan_with_progress(preparation, out)
        if facts.sentence:
            out.say(f"Read as {facts.sentence}; rows are written in Google's format.")
        _print_plan_summary(plan, out)
        if prepare_options.dry_run:
            out.result({"plan": _plan_document(plan)}, *_plan_lines(plan))
            return
        for line in _plan_lines(plan):
            out.err.print(line)
        ledger = _run_with_progress(preparation, plan, target, out)
    refused = _count_refused(target, limits, base, settings)
    out.result(document(ledger) | {"dataset": str(target / DATASET), "refused": refused.total()}, _summary(ledger))
    out.say(f"Rewritten texts, before and after: {prepare_options.folder / CHANGES}")
    for rule, count in refused.items():
        out.say(f"{counted(count, 'output row')} would be refused: {rule}", style="red")
    if refused or not ledger.num_rows_out:
        raise typer.Exit(1)


def _check_folder(prepare_options: PrepareOptions, data: Path, settings: Settings) -> None:
    """Check before any work that no file of the user would be overwritten."""
    folder = prepare_options.folder
    if is_same_file(folder, data.absolute().parent) or is_same_file(folder, Path(os.path.realpath(data)).parent):
        message = f"{folder} is the folder of the dataset, which stays unchanged; name another folder."
        raise typer.BadParameter(message, param_hint="--out")
    check_output_folder("--out", folder)
    if not any((folder / name).exists() for name in RUN_FILES):
        found = next((name for name in (*OUTPUTS, MEDIA) if os.path.lexists(folder / name)), None)
        if found is not None:
            message = (
                f"{folder / found} was not created by kastor prepare and would be overwritten; name another folder."
            )
            raise typer.BadParameter(message, param_hint="--out")
    for name in OUTPUTS:
        check_output_files({"--out": folder / name}, {"DATA": data, "--patterns": prepare_options.patterns}, settings)


def _base(name: str | None, settings: Settings) -> BaseModelLimits:
    if name is None:
        return BaseModelLimits("the base model", UNLIMITED_TOKENS, NANO_VL.vision, calling=NANO_VL.calling)
    base = load_catalog(settings.catalog_file).base(name)
    renderer = None
    if download.is_local(base, settings.cache_dir):
        renderer = Renderer.open(
            download.ensure_local(base, settings.cache_dir), base.family, rendering=Rendering.TUNED
        )
    max_tokens = base.input_token_limit + base.output_token_limit
    return BaseModelLimits(base.name, max_tokens, base.family.vision, renderer, base.family.calling)


@contextmanager
def _media(settings: Settings, folder: Path) -> Iterator[tuple[DatasetMediaInspector, Fetcher]]:
    """An inspector and a fetcher of media from any folder the user can read."""
    cache = MediaCache(settings.cache_dir / "media")
    lease = cache.lease("prepare")
    try:
        fetcher = Fetcher(cache, lease, AllowedSources(folders=(Path("/"),), buckets=("gs://", "s3://"), base=folder))
        with DatasetMediaInspector(fetcher, MediaProber()) as inspector:
            yield inspector, fetcher
    finally:
        lease.close()


@contextmanager
def _bar(out: Output, what: str, total: int | None) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=22, complete_style="cyan"), MofNCompleteColumn())
    with Progress(*columns, console=out.err, transient=True, disable=not out.err.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _plan_with_progress(preparation: DatasetPreparation, out: Output) -> PreparePlan:
    with _bar(out, "inspecting rows", None) as show:
        return preparation.plan(show)


def _run_with_progress(preparation: DatasetPreparation, plan: PreparePlan, folder: Path, out: Output) -> PrepareLedger:
    total = sum(step.makes_files for step in plan.steps.values())
    finished = 0
    with _bar(out, "converting media", total) as show:

        def on_done(step: MediaStep, result: object) -> None:
            nonlocal finished
            finished += 1
            show(finished)
            if isinstance(result, MediaFault):
                out.say(f"{step.need.source.key}: {result.message}", style="red")
            elif not out.err.is_terminal:
                out.say(f"{finished}/{total}  {step.act}  {step.need.source.key}")

        return preparation.run(plan, folder, on_done)


def _count_refused(folder: Path, limits: DatasetLimits, base: BaseModelLimits, settings: Settings) -> Counter[str]:
    """The number of output rows that the validator refuses, by rule."""
    with _media(settings, folder) as (inspector, _):
        verdicts = DatasetValidator(limits, base, inspector.look).verdicts(read_rows(folder / DATASET))
        return Counter(v.issues[0].rule for v in verdicts if v.outcome is not RowOutcome.ACCEPTED)


def _print_plan_summary(plan: PreparePlan, out: Output) -> None:
    survey = plan.survey
    num_mended, num_unchanged = len(survey.to_mend), plan.num_unchanged
    out.say(
        f"{counted(survey.num_rows, 'row')}: "
        f"{num_unchanged:,} {'passes as it is' if num_unchanged == 1 else 'pass as they are'}, "
        f"{num_mended:,} {'needs' if num_mended == 1 else 'need'} changes, {len(survey.left_out):,} cannot be used."
    )
    if any(step.makes_files for step in plan.steps.values()):
        out.say("Converted files have no sound, as models are not trained on it.")


def _plan_lines(plan: PreparePlan) -> list[Any]:
    shown = table("medium", "size", "rows", "action", right=("size", "rows"))
    for step in list(plan.steps.values())[:MAX_SHOWN]:
        need = step.need
        shown.add_row(
            need.source.key, megabytes(need.source.num_bytes), f"{need.num_rows:,}", f"{step.act}: {step.why}"
        )
    lines: list[Any] = [shown] if plan.steps else []
    more = len(plan.steps) - MAX_SHOWN
    if more > 0:
        lines.append(f"and {more:,} more media")
    rules = Counter(left.rule for left in plan.survey.left_out.values())
    return [*lines, *(f"left out: {counted(count, 'row')}, {rule}" for rule, count in rules.most_common())] or [
        "nothing to do"
    ]


def _plan_document(plan: PreparePlan) -> dict[str, Any]:
    return {
        "rows": plan.survey.num_rows,
        "unchanged": plan.num_unchanged,
        "media": [
            {"medium": key, "action": str(step.act), "why": step.why, "rows": step.need.num_rows}
            for key, step in plan.steps.items()
        ],
        "leftOut": [
            {"line": line, "rule": left.rule, "message": left.message} for line, left in plan.survey.left_out.items()
        ],
    }


def _summary(ledger: PrepareLedger) -> Any:  # noqa: ANN401  # a rich table
    rows: list[tuple[str, Any]] = [
        ("rows in", f"{ledger.num_rows:,}"),
        ("kept", f"{ledger.num_kept:,}"),
        ("changed", f"{ledger.num_changed:,}"),
        ("left out", f"{sum(ledger.left_out.values()):,}"),
        *((f"  {rule}", f"{count:,}") for rule, count in ledger.left_out.most_common()),
        ("rows out", f"{ledger.num_rows_out:,}"),
        *((f"to review: {rule}", f"{count:,}") for rule, count in ledger.findings.most_common()),
        *([("parts without rows", f"{ledger.num_empty_parts:,}")] if ledger.num_empty_parts else []),
        *((f"media: {what}", f"{count:,}") for what, count in ledger.media.most_common()),
    ]
    return fields(rows)

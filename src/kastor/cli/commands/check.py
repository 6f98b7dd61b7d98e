"""`kastor check`: validates every row of a dataset and estimates what training on it takes."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from rich.text import Text

from kastor.cli.check import report_view
from kastor.cli.check.progress import CheckProgress
from kastor.cli.check.throughput import machine_speed, measured_pace
from kastor.cli.check.token_preview import Pieces, RowSampler, preview_sample, token_pieces
from kastor.cli.commands.dataset_limits import raised_dataset_limits
from kastor.cli.commands.models import fetch_base
from kastor.cli.console.dataset_input import dataset_file
from kastor.cli.console.output import Output, program
from kastor.cli.console.output_files import check_output_files, is_same_file, replacing_file
from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.formats.read import Columns
from kastor.dataset.media.inspect import DatasetMediaInspector, open_inspector
from kastor.dataset.validation.cost_estimate import Estimate, MeasuredPace, ModelSize, estimate_cost
from kastor.dataset.validation.rejected_rows import RejectedRowsFile
from kastor.dataset.validation.report import DatasetReport, DatasetValidation
from kastor.dataset.validation.report_html import PreviewSample, report_page
from kastor.dataset.validation.report_json import report_document
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, InspectMedia, RowVerdict
from kastor.domain.content import SupervisedTurns
from kastor.domain.dataset_limits import DEFAULT_PROFILE, DatasetLimits
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import Hyperparameters, Rendering, RequestedHyperparameters, resolve_hyperparameters
from kastor.domain.request_limits import PROFILES
from kastor.media.cache import MediaCache
from kastor.media.fetch import AllowedSources
from kastor.models import download
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.chat.render import Renderer
from kastor.security.url_guard import UrlGuard
from kastor.settings import Settings, load_settings

LEARNT, GIVEN = "bold green", "dim"
NUM_SAMPLES = 24  # rows shown in the HTML report


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Options of the command line."""

    data: Path
    base: str
    validation: Path | None = None
    columns: Columns = (None, None)
    profile: str | None = None
    raised: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    show_tokens: int = 0
    html: Path | None = None
    rejects: Path | None = None
    media_roots: tuple[Path, ...] = ()
    supervise: SupervisedTurns = SupervisedTurns.ALL
    media_folder: Path | None = None  # base of relative media paths, if not the dataset's folder

    @property
    def folder(self) -> Path:
        """The base of relative media paths."""
        return self.media_folder or self.data.absolute().parent

    @property
    def outputs(self) -> dict[str, Path | None]:
        """Output files by the option that names them."""
        return {"--html": self.html, "--rejects": self.rejects}


def run(options: CheckOptions, out: Output) -> None:
    """Check a dataset; exits with 1 if a job on it would be refused, with 2 if the options make no sense."""
    settings = load_settings()
    check_output_files(options.outputs, {"DATA": options.data, "--validation": options.validation}, settings)
    with ExitStack() as stack:
        once = options.rejects is None
        data = stack.enter_context(dataset_file(options.data, is_read_once=once))
        validation = options.validation and stack.enter_context(dataset_file(options.validation, is_read_once=once))
        _run(replace(options, data=data, validation=validation, media_folder=options.folder), settings, out)


def _run(options: CheckOptions, settings: Settings, out: Output) -> None:
    base = load_catalog(settings.catalog_file).base(options.base)
    limits = _limits(options, settings, base)
    _hyperparameters(options, settings, 1)
    renderer = _renderer(base, options, settings, out)
    max_tokens = base.input_token_limit + base.output_token_limit
    base_limits = BaseModelLimits(
        base.name, max_tokens, base.family.vision, renderer, base.family.calling, options.supervise
    )
    samples = RowSampler(NUM_SAMPLES if options.html else options.show_tokens)
    files = [file for file in (options.data, options.validation) if file is not None]
    with _media_inspector(options, settings) as inspector:
        progress = CheckProgress(out, files)
        validator = _OverwriteGuardValidator(limits, base_limits, progress.with_media_count(inspector.look), options)
        validation_run = DatasetValidation(validator, options.data, options.validation)
        try:
            _validate(validation_run, options, progress, samples)
        except KeyboardInterrupt:
            partial = validation_run.report()
            _print_report(partial, _estimate(partial, options, base, settings), [], out)
            raise
        report = validation_run.report()
        shown = [token_pieces(renderer, kept) for kept in samples.rows[: options.show_tokens]] if renderer else []
        estimate = _estimate(report, options, base, settings)
        _print_report(report, estimate, shown, out)
        if options.html:
            previews = [
                preview_sample(kept, renderer, options.supervise, base.family.vision)
                for kept in samples.rows[:NUM_SAMPLES]
            ]
            _write_html(options.html, report, estimate, previews)
    for path, what in ((options.html, "HTML report"), (options.rejects, "Rows that were not accepted")):
        if path is not None:
            out.say(f"{what}: {path}")
    if report.refusals:
        raise typer.Exit(1)


def _validate(
    validation_run: DatasetValidation, options: CheckOptions, progress: CheckProgress, samples: RowSampler
) -> None:
    with ExitStack() as stack:
        stack.enter_context(progress)
        rejects = RejectedRowsFile(stack.enter_context(replacing_file(options.rejects))) if options.rejects else None

        def on_verdict(path: Path, verdict: RowVerdict) -> None:
            progress.on_verdict(path, verdict)
            samples.add(verdict)
            if rejects is not None:
                rejects.add(path, verdict)

        validation_run.run(columns=options.columns, on_verdict=on_verdict, on_bytes=progress.on_bytes)


def _limits(options: CheckOptions, settings: Settings, base: BaseModel) -> DatasetLimits:
    """The profile with raised limits; by default the profile that `kastor tune` would use.

    Text pairs are held to the installation's profile; datasets for a vision base are uploaded and held to `open`.
    """
    profile = options.profile or (settings.profile if base.family.vision is None else DEFAULT_PROFILE)
    return raised_dataset_limits(profile, options.raised, settings)


def _hyperparameters(
    options: CheckOptions, settings: Settings, num_examples: int, *, has_media: bool = False
) -> Hyperparameters:
    requested = RequestedHyperparameters(num_epochs=options.epochs, batch_size=options.batch_size)
    try:
        return resolve_hyperparameters(requested, num_examples, PROFILES[settings.profile], has_media=has_media)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from error


@contextmanager
def _media_inspector(options: CheckOptions, settings: Settings) -> Iterator[DatasetMediaInspector]:
    """An inspector that reads media from any folder the user can read, unless folders are named."""
    cache = MediaCache(settings.cache_dir / "media", max_bytes=settings.media_cache_bytes)
    folders = options.media_roots or (Path("/"),)
    places = AllowedSources(folders=folders, buckets=("gs://", "s3://"), base=options.folder)
    with open_inspector(
        cache, places, name="check", guard=UrlGuard(allowed=tuple(settings.media_addresses))
    ) as inspector:
        yield inspector


class _OverwriteGuardValidator(DatasetValidator):
    """A validator that ends the check at a row that refers to a file which would be overwritten."""

    def __init__(self, limits: DatasetLimits, base: BaseModelLimits, look: InspectMedia, options: CheckOptions) -> None:
        super().__init__(limits, base, look)
        self._folder = options.folder
        self._outputs = {option: path for option, path in options.outputs.items() if path is not None and path.exists()}

    def verdicts(self, rows: Iterable[ParsedRow | Issue]) -> Iterator[RowVerdict]:
        """A verdict for each row, in order."""
        return super().verdicts(map(self._checked, rows) if self._outputs else rows)

    def _checked(self, row: ParsedRow | Issue) -> ParsedRow | Issue:
        local_media = [] if isinstance(row, Issue) else [medium for medium in row.example.media if medium.uri]
        for medium in local_media:
            shown = self._folder / medium.uri.removeprefix("file://")
            for option, path in self._outputs.items():
                if is_same_file(path, shown):
                    message = f"{path} would overwrite {medium.name}, a medium of the dataset; name another file."
                    raise typer.BadParameter(message, param_hint=option)
        return row


def _renderer(base: BaseModel, options: CheckOptions, settings: Settings, out: Output) -> Renderer | None:
    if not options.show_tokens and not download.is_local(base, settings.cache_dir):
        out.say(
            f"Tokens are not counted: {base.name} is not downloaded. To download it: {program()} models pull {base.id}"
        )
        return None
    return Renderer.open(fetch_base(base, settings, out), base.family, options.supervise, Rendering.TUNED)


def _pace(base: BaseModel, shape: ModelSize, settings: Settings) -> MeasuredPace:
    sees = base.family.vision is not None
    return measured_pace(base.id, settings, sees=sees) or shape.calibrated(machine_speed(settings))


def _estimate(report: DatasetReport, options: CheckOptions, base: BaseModel, settings: Settings) -> Estimate | None:
    number = report.training.ledger.num_accepted
    if not number:
        return None
    statistics, shape = report.training.statistics, ModelSize(base.num_parameters, base.adapter.rank)
    longest = statistics.longest(1)
    return estimate_cost(
        _hyperparameters(options, settings, number, has_media=report.training.has_media),
        shape,
        num_examples=number,
        num_tokens=statistics.num_tokens,
        num_media_tokens=statistics.num_media_tokens,
        longest=longest[0][1] if longest else 0,
        num_bytes=options.data.stat().st_size,
        pace=_pace(base, shape, settings) if statistics.num_tokens else None,
    )


def _print_report(report: DatasetReport, estimate: Estimate | None, shown: list[Pieces], out: Output) -> None:
    """Print the report on stdout; with --json, also print on stderr why a job would be refused."""
    if not out.as_json:
        out.result(
            None, *report_view.render_report(report, estimate), *_token_legend(shown), *map(_coloured_tokens, shown)
        )
        return
    views = [[{"text": text, "supervised": learnt} for text, learnt in view] for view in shown]
    out.result(report_document(report, estimate) | {"views": views})
    for sentence in report.refusals:
        out.say(sentence, style="bold red")


def _write_html(target: Path, report: DatasetReport, estimate: Estimate | None, previews: list[PreviewSample]) -> None:
    text = report_page(report_document(report, estimate), report_view.notice_lines(report), previews)
    with replacing_file(target) as file:
        file.write(text)


def _token_legend(views: list[Pieces]) -> list[Text]:
    if not views:
        return []
    return [Text.assemble("\nTokens, separated by bars: ", ("prompt", GIVEN), ", ", ("trained on", LEARNT), "\n")]


def _coloured_tokens(view: Pieces) -> Text:
    text = Text()
    for token, learnt in view:
        text.append(token.replace("\n", "⏎\n"), style=LEARNT if learnt else GIVEN)
        if not token.endswith("\n"):
            text.append("|", style="dim blue")
    return text.append("\n")

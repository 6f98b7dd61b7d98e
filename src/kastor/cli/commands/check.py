"""`kastor check`: every row of a dataset looked at before any training, and what training on it would take."""

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
NUM_SAMPLES = 24  # rows shown in the page


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What was asked for on the command line."""

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
    media_folder: Path | None = None  # where relative names of media begin, if that is not the dataset's folder

    @property
    def folder(self) -> Path:
        """Where relative names of media begin."""
        return self.media_folder or self.data.absolute().parent

    @property
    def outputs(self) -> dict[str, Path | None]:
        """The files that are written, by the option that names them."""
        return {"--html": self.html, "--rejects": self.rejects}


def run(wanted: CheckOptions, out: Output) -> None:
    """Look at a dataset; exits with 1 if it would be refused, with 2 if the question makes no sense."""
    settings = load_settings()
    check_output_files(wanted.outputs, {"DATA": wanted.data, "--validation": wanted.validation}, settings)
    with ExitStack() as stack:
        once = wanted.rejects is None
        data = stack.enter_context(dataset_file(wanted.data, is_read_once=once))
        validation = wanted.validation and stack.enter_context(dataset_file(wanted.validation, is_read_once=once))
        _run(replace(wanted, data=data, validation=validation, media_folder=wanted.folder), settings, out)


def _run(wanted: CheckOptions, settings: Settings, out: Output) -> None:
    base = load_catalog(settings.catalog_file).base(wanted.base)
    limits = _limits(wanted, settings, base)
    _hyperparameters(wanted, settings, 1)
    renderer = _renderer(base, wanted, settings, out)
    most = base.input_token_limit + base.output_token_limit
    known = BaseModelLimits(base.name, most, base.family.vision, renderer, base.family.calling, wanted.supervise)
    samples = RowSampler(NUM_SAMPLES if wanted.html else wanted.show_tokens)
    files = [file for file in (wanted.data, wanted.validation) if file is not None]
    with _looker(wanted, settings) as looker:
        watch = CheckProgress(out, files)
        gate = _ProtectiveGate(limits, known, watch.looking(looker.look), wanted)
        judging = DatasetValidation(gate, wanted.data, wanted.validation)
        try:
            _judge(judging, wanted, watch, samples)
        except KeyboardInterrupt:
            partial = judging.report()
            _tell(partial, _estimate(partial, wanted, base, settings), [], out)
            raise
        report = judging.report()
        shown = [token_pieces(renderer, kept) for kept in samples.rows[: wanted.show_tokens]] if renderer else []
        estimate = _estimate(report, wanted, base, settings)
        _tell(report, estimate, shown, out)
        if wanted.html:
            looks = [
                preview_sample(kept, renderer, wanted.supervise, base.family.vision)
                for kept in samples.rows[:NUM_SAMPLES]
            ]
            _write_page(wanted.html, report, estimate, looks)
    for path, what in ((wanted.html, "The report as a page"), (wanted.rejects, "The rows that were not accepted")):
        if path is not None:
            out.say(f"{what}: {path}")
    if report.refusals:
        raise typer.Exit(1)


def _judge(judging: DatasetValidation, wanted: CheckOptions, watch: CheckProgress, samples: RowSampler) -> None:
    with ExitStack() as stack:
        stack.enter_context(watch)
        rejects = RejectedRowsFile(stack.enter_context(replacing_file(wanted.rejects))) if wanted.rejects else None

        def judged(path: Path, verdict: RowVerdict) -> None:
            watch.on_verdict(path, verdict)
            samples.add(verdict)
            if rejects is not None:
                rejects.add(path, verdict)

        judging.run(columns=wanted.columns, on_verdict=judged, on_bytes=watch.on_bytes)


def _limits(wanted: CheckOptions, settings: Settings, base: BaseModel) -> DatasetLimits:
    """The profile with what was raised; where nothing is said, the one that `kastor tune` comes to.

    Pairs go through the installation's profile; what a base that sees is for goes as a dataset file, under `open`.
    """
    profile = wanted.profile or (settings.profile if base.family.vision is None else DEFAULT_PROFILE)
    return raised_dataset_limits(profile, wanted.raised, settings)


def _hyperparameters(
    wanted: CheckOptions, settings: Settings, num_examples: int, *, has_media: bool = False
) -> Hyperparameters:
    asked = RequestedHyperparameters(num_epochs=wanted.epochs, batch_size=wanted.batch_size)
    try:
        return resolve_hyperparameters(asked, num_examples, PROFILES[settings.profile], has_media=has_media)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from error


@contextmanager
def _looker(wanted: CheckOptions, settings: Settings) -> Iterator[DatasetMediaInspector]:
    """Media are looked for beside the dataset, and wherever its owner may read unless folders are named."""
    cache = MediaCache(settings.cache_dir / "media", max_bytes=settings.media_cache_bytes)
    folders = wanted.media_roots or (Path("/"),)
    places = AllowedSources(folders=folders, buckets=("gs://", "s3://"), base=wanted.folder)
    with open_inspector(cache, places, name="check", guard=UrlGuard(allowed=tuple(settings.media_addresses))) as looker:
        yield looker


class _ProtectiveGate(DatasetValidator):
    """A gate that ends the check at a row which shows a file that would be overwritten."""

    def __init__(self, limits: DatasetLimits, base: BaseModelLimits, look: InspectMedia, wanted: CheckOptions) -> None:
        super().__init__(limits, base, look)
        self._folder = wanted.folder
        self._outputs = {option: path for option, path in wanted.outputs.items() if path is not None and path.exists()}

    def verdicts(self, rows: Iterable[ParsedRow | Issue]) -> Iterator[RowVerdict]:
        """A verdict for each row, in order."""
        return super().verdicts(map(self._checked, rows) if self._outputs else rows)

    def _checked(self, row: ParsedRow | Issue) -> ParsedRow | Issue:
        local = [] if isinstance(row, Issue) else [medium for medium in row.example.media if medium.uri]
        for medium in local:
            shown = self._folder / medium.uri.removeprefix("file://")
            for option, path in self._outputs.items():
                if is_same_file(path, shown):
                    said = f"{path} would overwrite {medium.name}, which the dataset shows; name another."
                    raise typer.BadParameter(said, param_hint=option)
        return row


def _renderer(base: BaseModel, wanted: CheckOptions, settings: Settings, out: Output) -> Renderer | None:
    if not wanted.show_tokens and not download.is_local(base, settings.cache_dir):
        out.say(f"Tokens are not counted: {base.name} is not fetched. Fetch it: {program()} models pull {base.id}")
        return None
    return Renderer.open(fetch_base(base, settings, out), base.family, wanted.supervise, Rendering.TUNED)


def _pace(base: BaseModel, shape: ModelSize, settings: Settings) -> MeasuredPace:
    sees = base.family.vision is not None
    return measured_pace(base.id, settings, sees=sees) or shape.calibrated(machine_speed(settings))


def _estimate(report: DatasetReport, wanted: CheckOptions, base: BaseModel, settings: Settings) -> Estimate | None:
    number = report.training.ledger.num_accepted
    if not number:
        return None
    statistics, shape = report.training.statistics, ModelSize(base.num_parameters, base.adapter.rank)
    longest = statistics.longest(1)
    return estimate_cost(
        _hyperparameters(wanted, settings, number, has_media=report.training.has_media),
        shape,
        num_examples=number,
        num_tokens=statistics.num_tokens,
        num_media_tokens=statistics.num_media_tokens,
        longest=longest[0][1] if longest else 0,
        num_bytes=wanted.data.stat().st_size,
        pace=_pace(base, shape, settings) if statistics.num_tokens else None,
    )


def _tell(report: DatasetReport, estimate: Estimate | None, shown: list[Pieces], out: Output) -> None:
    """The report on stdout; why nothing can be trained on stderr, too, where stdout is for a program."""
    if not out.as_json:
        out.result(None, *report_view.render_report(report, estimate), *_legend(shown), *map(_coloured, shown))
        return
    views = [[{"text": text, "supervised": learnt} for text, learnt in view] for view in shown]
    out.result(report_document(report, estimate) | {"views": views})
    for sentence in report.refusals:
        out.say(sentence, style="bold red")


def _write_page(target: Path, report: DatasetReport, estimate: Estimate | None, looks: list[PreviewSample]) -> None:
    text = report_page(report_document(report, estimate), report_view.notice_lines(report), looks)
    with replacing_file(target) as file:
        file.write(text)


def _legend(views: list[Pieces]) -> list[Text]:
    if not views:
        return []
    return [Text.assemble("\nTokens, one between bars: ", ("given", GIVEN), ", ", ("learnt", LEARNT), "\n")]


def _coloured(view: Pieces) -> Text:
    text = Text()
    for token, learnt in view:
        text.append(token.replace("\n", "⏎\n"), style=LEARNT if learnt else GIVEN)
        if not token.endswith("\n"):
            text.append("|", style="dim blue")
    return text.append("\n")

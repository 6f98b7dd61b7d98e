"""The gate inside a job: a dataset file becomes the examples that are trained on, or the reason why nothing is."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import orjson

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.media.inspect import open_inspector
from kastor.dataset.media.sampling_record import encode_sampling
from kastor.dataset.validation.example_plan import encode_row
from kastor.dataset.validation.report import DatasetReport, validate_dataset
from kastor.dataset.validation.report_json import report_document
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, RowOutcome, RowVerdict
from kastor.domain.counts import counted
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import TuningJob, TuningSpec, resolve_hyperparameters
from kastor.models.catalog import BaseModel
from kastor.models.chat.render import Renderer
from kastor.runtime.atomic import rename_synced
from kastor.worker.job_monitor import JobMonitor
from kastor.worker.pipeline.inputs import DatasetConfig, Workspace
from kastor.worker.pipeline.rendered_examples import PreparedFiles


class JobDatasetValidation:
    """Judges one job's dataset file."""

    def __init__(self, job: TuningJob, config: DatasetConfig | None, workspace: Workspace, monitor: JobMonitor) -> None:
        """`config` is there where the job has a dataset file."""
        self._job = job
        self._config = config
        self._workspace = workspace
        self._monitor = monitor

    def validated(self, base: BaseModel, renderer: Renderer) -> TuningSpec:
        """The job's spec once its dataset file is judged; nothing happens where that was done, or there is none.

        Raises:
            InvalidArgument: nothing may be trained on this file; says why.

        """
        file = self._job.spec.file
        if file is None or file.settled or self._config is None:
            return self._job.spec
        report = self._judged(self._config, base, renderer)
        ledger = report.training.ledger
        if report.refusals:
            raise InvalidArgument(f"{file.name}: {' '.join(report.refusals)}")
        dropped = f", {ledger.num_dropped:,} dropped" if ledger.num_dropped else ""
        if report.training.facts.sentence:
            self._monitor.log_event(f"{file.name} is read as {report.training.facts.sentence}")
        self._monitor.log_event(f"{ledger.num_accepted:,} of {counted(ledger.num_rows, 'example')} accepted{dropped}")
        shows_media = base.family.vision is not None and report.training.has_media
        return replace(
            self._job.spec,
            num_examples=ledger.num_accepted,
            hyperparameters=resolve_hyperparameters(
                file.asked,
                ledger.num_accepted,
                self._config.request_limits,
                has_media=report.training.has_media,
            ),
            file=replace(file, settled=True),
            checksums=self._checksums(shows_media=shows_media),
        )

    def _checksums(self, *, shows_media: bool) -> dict[str, str]:
        """Those of the files that were made of the dataset, after the sampling record was, where there are media."""
        workspace = self._workspace
        paths = [workspace.dataset, workspace.plan]
        if shows_media:
            workspace.write(workspace.sampling, encode_sampling(PreparedFiles(*paths).media()))
            paths.append(workspace.sampling)
        return {path.name: workspace.sha256(path) for path in paths}

    def _judged(self, config: DatasetConfig, base: BaseModel, renderer: Renderer) -> DatasetReport:
        """The report, stored; what was accepted lies in the job's folder."""
        source = self._workspace.source
        known = BaseModelLimits(
            base.name,
            base.input_token_limit + base.output_token_limit,
            base.family.vision,
            renderer,
            base.family.calling,
            self._job.spec.supervise,
        )
        with ExitStack() as stack:
            looker = stack.enter_context(
                open_inspector(
                    config.media.open_media_cache(),
                    config.media.sources,
                    name=self._job.id,
                    guard=config.media.guard,
                    uploads=config.media.uploads,
                )
            )
            accepted = stack.enter_context(_Accepted(self._workspace))
            report = validate_dataset(
                DatasetValidator(config.limits, known, looker.look), source, on_verdict=accepted.add
            )
            self._workspace.write(self._workspace.report, [orjson.dumps(report_document(report))])
            if not report.refusals:
                accepted.keep()
        return report


class _Accepted:
    """Accepted examples and their plans, written as they come; they get their names only when all are there."""

    def __init__(self, workspace: Workspace) -> None:
        self._targets = (workspace.dataset, workspace.plan)
        self._files: tuple[BinaryIO, ...] = ()

    def __enter__(self) -> "_Accepted":
        self._files = tuple(_partial(target).open("wb") for target in self._targets)
        return self

    def __exit__(self, *_: object) -> None:
        for file, target in zip(self._files, self._targets, strict=True):
            file.close()
            _partial(target).unlink(missing_ok=True)

    def add(self, verdict: RowVerdict) -> None:
        """Write the row, if it was accepted."""
        if verdict.outcome is not RowOutcome.ACCEPTED or verdict.example is None or verdict.plan is None:
            return
        dataset, plans = self._files
        dataset.write(encode_example(verdict.example) + b"\n")
        plans.write(encode_row(verdict.line, verdict.example, verdict.plan, verdict.seen or {}) + b"\n")

    def keep(self) -> None:
        """Give both files their names."""
        for file, target in zip(self._files, self._targets, strict=True):
            file.flush()
            rename_synced(_partial(target), target)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")

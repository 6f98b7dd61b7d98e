"""The gate inside a job: a dataset file becomes the examples that are trained on, or the reason why nothing is."""

import os
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
from kastor.domain.dataset_limits import dataset_limits
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import DatasetFile, TuningJob, TuningSpec, resolve_hyperparameters
from kastor.domain.request_limits import PROFILES
from kastor.models.catalog import BaseModel
from kastor.models.chat.render import Renderer
from kastor.settings import Settings
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.manifests import sha256_of
from kastor.worker.lease import JobLease
from kastor.worker.media_config import allowed_media_sources, media_cache, upload_resolver, url_guard
from kastor.worker.pipeline.rendered_examples import PreparedFiles


class JobDatasetValidation:
    """Judges one job's dataset file."""

    def __init__(self, settings: Settings, job: TuningJob, blobs: JobFiles, ownership: JobLease) -> None:
        self._settings = settings
        self._job = job
        self._blobs = blobs
        self._ownership = ownership

    def validated(self, base: BaseModel, renderer: Renderer) -> TuningSpec:
        """The job's spec once its dataset file is judged; nothing happens where that was done, or there is none.

        Raises:
            InvalidArgument: nothing may be trained on this file; says why.

        """
        file = self._job.spec.file
        if file is None or file.settled:
            return self._job.spec
        report = self._judged(file, base, renderer)
        ledger = report.training.ledger
        if report.refusals:
            raise InvalidArgument(f"{file.name}: {' '.join(report.refusals)}")
        dropped = f", {ledger.num_dropped:,} dropped" if ledger.num_dropped else ""
        if report.training.facts.sentence:
            self._ownership.log_event(f"{file.name} is read as {report.training.facts.sentence}")
        self._ownership.log_event(f"{ledger.num_accepted:,} of {counted(ledger.num_rows, 'example')} accepted{dropped}")
        shows_media = base.family.vision is not None and report.training.has_media
        spec = replace(
            self._job.spec,
            num_examples=ledger.num_accepted,
            hyperparameters=resolve_hyperparameters(
                file.asked,
                ledger.num_accepted,
                PROFILES[self._settings.profile],
                has_media=report.training.has_media,
            ),
            file=replace(file, settled=True),
            checksums=self._checksums(shows_media=shows_media),
        )
        self._ownership.store_spec(spec)
        return spec

    def _checksums(self, *, shows_media: bool) -> dict[str, str]:
        """Those of the files that were made of the dataset, after the sampling record was, where there are media."""
        blobs, job_id = self._blobs, self._job.id
        paths = [blobs.dataset(job_id), blobs.plan(job_id)]
        if shows_media:
            blobs.write(blobs.sampling(job_id), encode_sampling(PreparedFiles(*paths).media()))
            paths.append(blobs.sampling(job_id))
        return {path.name: sha256_of(path) for path in paths}

    def _judged(self, file: DatasetFile, base: BaseModel, renderer: Renderer) -> DatasetReport:
        """The report, stored; what was accepted lies in the job's folder."""
        source = self._blobs.source(self._job.id)
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
                    media_cache(self._settings, self._ownership.log_event),
                    allowed_media_sources(self._settings, file),
                    name=self._job.id,
                    guard=url_guard(self._settings),
                    uploads=upload_resolver(self._settings, self._job),
                )
            )
            accepted = stack.enter_context(_Accepted(self._blobs, self._job.id))
            limits = dataset_limits(file.profile, self._settings.dataset_limits)
            report = validate_dataset(DatasetValidator(limits, known, looker.look), source, on_verdict=accepted.add)
            self._blobs.write(self._blobs.report(self._job.id), [orjson.dumps(report_document(report))])
            if not report.refusals:
                accepted.keep()
        return report


class _Accepted:
    """Accepted examples and their plans, written as they come; they get their names only when all are there."""

    def __init__(self, blobs: JobFiles, job_id: str) -> None:
        self._targets = (blobs.dataset(job_id), blobs.plan(job_id))
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
            os.fsync(file.fileno())
            _partial(target).replace(target)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")

"""A data folder with a tiny base model and jobs, for tests that run workers."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file

from kastor.dataset.formats.encode import encode_example
from kastor.domain.content import Example, SupervisedTurns
from kastor.domain.job import (
    AdapterShape,
    DatasetFile,
    Hyperparameters,
    RequestedHyperparameters,
    TuningJob,
    TuningSpec,
)
from kastor.executors.local import LocalExecutor
from kastor.models.catalog import load_catalog
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.models.chat.render import Renderer
from kastor.services.scheduler import Scheduler
from kastor.settings import Settings
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.job_workspace import DATASET, SOURCE
from kastor.store.database import migrate, open_database
from kastor.store.jobs import JobStore
from kastor.worker.media_config import dataset_config
from kastor.worker.outcome import run_job
from kastor.worker.pipeline.validate import JobDatasetValidation
from kastor.worker.run import JobRunner
from kastor.worker.sql_lease import SqlJobLease
from support.domain_values import make_job, make_model
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_base, tiny_seeing_base

PAIRS = [(f"{number}", f"{number + 1}") for number in range(12)]


class Place:
    """A data folder with a tiny base in its catalog, and jobs on it; a base that is `seeing` reads media.

    `base` is another family's name and what builds its base in a folder.
    """

    def __init__(
        self, folder: Path, *, seeing: bool = False, base: tuple[str, Callable[[Path], Path]] | None = None
    ) -> None:
        own = ("kastor-nano-vl", tiny_seeing_base) if seeing else ("smollm2", tiny_base)
        family, build = base or own
        made, longest = build(folder / "base"), 400 if base is None else 3000
        self.media = folder / "media"
        self.media.mkdir()
        self.settings = Settings(
            data_dir=folder,
            cache_dir=folder / "cache",
            catalog_file=tiny_catalog(
                folder / "catalog.toml", {"tiny": made}, family=family, input_token_limit=longest
            ),
            heartbeat_timeout_s=5,
            media_folders=[self.media],
        )
        self.database = open_database(self.settings.resolved_database_url)
        migrate(self.database)
        self.jobs, self.blobs = JobStore(self.database), JobFiles(folder)

    def add(
        self,
        job_id: str = "job1",
        *,
        num_epochs: int = 3,
        pairs: list[tuple[str, str]] = PAIRS,
        learning_rate: float = 0.01,
        on: str | None = None,
    ) -> TuningJob:
        """A queued job; `on` is the job whose adapter it goes on from."""
        spec = TuningSpec(
            base_model="tiny",
            hyperparameters=Hyperparameters(num_epochs=num_epochs, batch_size=4, learning_rate=learning_rate),
            adapter=AdapterShape(rank=4, alpha=8.0, targets=LLAMA_LINEARS),
            num_examples=len(pairs),
            from_tuned=on is not None,
        )
        at = datetime.now(UTC)
        written = self.blobs.write_dataset(job_id, (encode_example(Example.pair(*pair)) for pair in pairs))
        job = make_job(job_id, spec=replace(spec, checksums={DATASET: written}), created_at=at, updated_at=at)
        if on is not None:
            self.blobs.copy_adapter(on, job_id)
        self.jobs.add(job, make_model(job))
        return job

    def add_file(
        self,
        rows: Sequence[object],
        job_id: str = "job1",
        *,
        profile: str = "open",
        name: str = "data.jsonl",
        asked: RequestedHyperparameters | None = None,
        on: str | None = None,
        supervise: SupervisedTurns = SupervisedTurns.ALL,
        train_tower: bool = False,
    ) -> None:
        """A queued job on a dataset file of these rows (text as it is, all else as JSON), its media in `media`."""
        source = self.settings.data_dir / "given.jsonl"
        source.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        spec = TuningSpec(
            "tiny",
            Hyperparameters(2, 4, 0.01),
            AdapterShape(4, 8.0, LLAMA_LINEARS),
            num_examples=0,
            file=DatasetFile(name, profile, str(self.media), asked or RequestedHyperparameters(2, 4, 0.01)),
            supervise=supervise,
            train_tower=train_tower,
            from_tuned=on is not None,
        )
        at = datetime.now(UTC)
        kept = self.blobs.keep_source(job_id, source, name)
        job = make_job(job_id, spec=replace(spec, checksums={SOURCE: kept}), created_at=at, updated_at=at)
        if on is not None:
            self.blobs.copy_adapter(on, job_id)
        self.jobs.add(job, make_model(job))

    def claim(self) -> TuningJob:
        job = self.jobs.claim(at=datetime.now(UTC), max_active=9)
        assert job is not None
        return job

    def validate_dataset(self, job: TuningJob) -> TuningSpec:
        """Validate the job's dataset file, and do nothing more; the spec as it then is stored."""
        lease = SqlJobLease(self.jobs, job, beat_every_s=1)
        base = load_catalog(self.settings.catalog_file).base("tiny")
        renderer = Renderer.open(self.settings.data_dir / "base", base.family)
        config = dataset_config(self.settings, job, lease.log_event)
        validation = JobDatasetValidation(job, config, self.blobs.workspace(job.id), lease)
        spec = validation.validated(base, renderer)
        if spec != job.spec:
            lease.store_spec(spec)
        return spec

    def work(self, job: TuningJob, ownership: SqlJobLease | None = None) -> int:
        ownership = ownership or SqlJobLease(self.jobs, job, beat_every_s=1)
        return run_job(
            JobRunner(self.settings, job, self.blobs.workspace(job.id), ownership).run,
            ownership,
            self.settings.data_dir,
            self.settings.cache_dir,
        )


def adapter(place: Place, job_id: str, file: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return dict(load_file(place.blobs.adapter(job_id) / file))


def run_until(place: Place, scheduler: Scheduler, job_id: str, *, timeout_s: float = 90) -> None:
    """Let the scheduler work until the job has ended."""
    deadline = time.monotonic() + timeout_s
    while not place.jobs.get(job_id).state.terminal:
        assert time.monotonic() < deadline, place.blobs.log(job_id).read_text()[-3000:]
        scheduler.step()
        time.sleep(0.05)


def scheduler_of(place: Place, executor: LocalExecutor, *, cancel_timeout_s: float = 60.0) -> Scheduler:
    return Scheduler(
        place.jobs,
        executor,
        max_running=1,
        max_deaths=3,
        heartbeat_timeout_s=10,
        cancel_timeout_s=cancel_timeout_s,
        clock=lambda: datetime.now(UTC),
    )

"""A data folder with a tiny base and jobs on it, for tests that run workers."""

from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file

from kastor.dataset.parse import encode_example
from kastor.domain.content import Example
from kastor.domain.job import AdapterShape, Hyperparameters, TuningJob, TuningSpec
from kastor.models.families import LLAMA_LINEARS
from kastor.settings import Settings
from kastor.store.blobs import Blobs
from kastor.store.database import migrate, open_database
from kastor.store.jobs import JobStore
from kastor.worker.outcome import work
from kastor.worker.ownership import Ownership
from kastor.worker.steps import Steps
from making import make_job, make_model
from tiny import tiny_base
from tiny_catalog import tiny_catalog

PAIRS = [(f"{number}", f"{number + 1}") for number in range(12)]


class Place:
    """A data folder with a tiny base in its catalog, and one queued job."""

    def __init__(self, folder: Path) -> None:
        catalog = tiny_catalog(folder / "catalog.toml", {"tiny": tiny_base(folder / "base")})
        self.settings = Settings(
            data_dir=folder, cache_dir=folder / "cache", catalog_file=catalog, heartbeat_timeout_s=5
        )
        self.database = open_database(self.settings.resolved_database_url)
        migrate(self.database)
        self.jobs, self.blobs = JobStore(self.database), Blobs(folder)

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
        job = make_job(job_id, spec=spec, created_at=at, updated_at=at)
        self.blobs.write_dataset(job_id, (encode_example(Example.pair(*pair)) for pair in pairs))
        if on is not None:
            self.blobs.copy_adapter(on, job_id)
        self.jobs.add(job, make_model(job))
        return job

    def claim(self) -> TuningJob:
        job = self.jobs.claim(at=datetime.now(UTC), max_active=9)
        assert job is not None
        return job

    def work(self, job: TuningJob) -> int:
        ownership = Ownership(self.jobs, job, beat_every_s=1)
        return work(Steps(self.settings, job, self.blobs, ownership).run, ownership, self.settings.data_dir)


def adapter(place: Place, job_id: str) -> dict[str, torch.Tensor]:
    return dict(load_file(place.blobs.adapter(job_id) / "adapter_model.safetensors"))

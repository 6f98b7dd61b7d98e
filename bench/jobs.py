"""A job of the worker, run in this process on a dataset file: what the benchmarks tune with."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kastor.domain.job import DatasetFile, Event, RequestedHyperparameters, Snapshot, State, TuningJob, TuningSpec
from kastor.settings import Settings


@dataclass(frozen=True, slots=True)
class Ran:
    """What a job left."""

    job: TuningJob
    snapshots: list[Snapshot]
    events: list[Event]
    adapter: Path


def ran(
    settings: Settings, base_model: str, source: Path, asked: RequestedHyperparameters, *, name: str, seed: int = 0
) -> Ran:
    """The job `name` on the lines of `source`, from the queue to its end.

    Raises:
        SystemExit: it did not succeed; says why.

    """
    from kastor.domain.job import resolve
    from kastor.domain.limits import PROFILES
    from kastor.domain.tuned_model import TunedModel
    from kastor.models.catalog import load_catalog
    from kastor.store.blobs import Blobs
    from kastor.store.database import migrate, open_database
    from kastor.store.jobs import JobStore
    from kastor.worker.outcome import work
    from kastor.worker.ownership import Ownership
    from kastor.worker.steps import Steps

    with source.open("rb") as lines:
        num_examples = sum(1 for _ in lines)
    settled = resolve(asked, num_examples, PROFILES["open"], has_media=True)
    file = DatasetFile(source.name, "open", "", asked)
    spec = TuningSpec(base_model, settled, load_catalog().base(base_model).adapter, 0, seed=seed, file=file)
    at = datetime.now(UTC)
    job = TuningJob(name, name, spec, State.QUEUED, at, at)
    database, blobs = open_database(settings.resolved_database_url), Blobs(settings.data_dir)
    with closing(database):
        migrate(database)
        jobs = JobStore(database)
        blobs.keep_source(name, source, source.name)
        jobs.add(job, TunedModel(name, name, f"models/{base_model}", "bench", at, at))
        claimed = jobs.claim(at=at, max_active=1)
        assert claimed is not None
        ownership = Ownership(jobs, claimed, beat_every_s=2)
        work(Steps(settings, claimed, blobs, ownership).run, ownership, settings.data_dir)
        held = Ran(jobs.get(name), jobs.snapshots(name), list(jobs.events(name)), blobs.adapter(name))
    if held.job.state is not State.SUCCEEDED:
        raise SystemExit(f"The job is {held.job.state}: {held.job.error}")
    return held

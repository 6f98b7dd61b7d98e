"""Runs worker jobs on dataset files for the benchmarks."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kastor.domain.job import (
    DatasetFile,
    JobEvent,
    Rendering,
    RequestedHyperparameters,
    State,
    StepMetrics,
    TuningJob,
    TuningSpec,
)
from kastor.executors.local import LocalExecutor
from kastor.services.scheduler import Scheduler
from kastor.settings import COMPUTE_VARIABLES, Settings, environment
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import migrate, open_database
from kastor.store.jobs import JobStore

STEP_EVERY_S = 0.05
SPARE_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True)
class Ran:
    """The results of a job."""

    job: TuningJob
    snapshots: list[StepMetrics]
    events: list[JobEvent]
    adapter: Path


class Queue:
    """The jobs of a data folder."""

    def __init__(self, settings: Settings, jobs: JobStore) -> None:
        self._settings = settings
        self._blobs = JobFiles(settings.data_dir)
        self.jobs = jobs

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings) -> Iterator["Queue"]:
        """Its database stays open for as long."""
        with closing(open_database(settings.resolved_database_url)) as database:
            migrate(database)
            yield cls(settings, JobStore(database))

    def add(self, base_model: str, source: Path, asked: RequestedHyperparameters, *, name: str, seed: int = 0) -> None:
        """A job on the lines of `source`."""
        from kastor.domain.job import resolve_hyperparameters
        from kastor.domain.request_limits import PROFILES
        from kastor.domain.tuned_model import TunedModel
        from kastor.models.catalog import load_catalog

        with source.open("rb") as lines:
            num_examples = sum(1 for _ in lines)
        settled = resolve_hyperparameters(asked, num_examples, PROFILES["open"], has_media=True)
        file = DatasetFile(source.name, "open", "", asked)
        spec = TuningSpec(
            base_model,
            settled,
            load_catalog(self._settings.catalog_file).base(base_model).adapter,
            0,
            seed=seed,
            file=file,
            rendering=Rendering.TUNED,
        )
        at = datetime.now(UTC)
        self._blobs.keep_source(name, source, source.name)
        self.jobs.add(
            TuningJob(name, name, spec, State.QUEUED, at, at, "bench@example.org"),
            TunedModel(name, name, base_model, "bench", at, at),
        )

    def run_here(self) -> None:
        """The next job, in this process."""
        for variable, value in COMPUTE_VARIABLES.items():  # as a worker's process has them; read where torch is loaded
            os.environ.setdefault(variable, value)
        from kastor.worker.outcome import run_job
        from kastor.worker.run import JobRunner
        from kastor.worker.sql_lease import SqlJobLease

        claimed = self.jobs.claim(at=datetime.now(UTC), max_active=1)
        assert claimed is not None
        ownership = SqlJobLease(self.jobs, claimed, beat_every_s=2)
        run_job(
            JobRunner(self._settings, claimed, self._blobs.workspace(claimed.id), ownership).run,
            ownership,
            self._settings.data_dir,
        )

    @contextmanager
    def served(self, *, spare_idle_s: float) -> Iterator["Served"]:
        """Jobs run in processes of their own, as the server has them run."""
        executor = LocalExecutor(environment(self._settings), self._blobs, spare_idle_s=spare_idle_s)
        scheduler = Scheduler(
            self.jobs, executor, max_running=1, max_deaths=1, heartbeat_timeout_s=60, clock=lambda: datetime.now(UTC)
        )
        try:
            yield Served(self.jobs, scheduler, executor)
        finally:
            scheduler.shutdown()

    def left(self, name: str) -> Ran:
        """What the job left.

        Raises:
            SystemExit: it did not succeed; says why.

        """
        job = self.jobs.get(name)
        if job.state is not State.SUCCEEDED:
            raise SystemExit(f"The job is {job.state}: {job.error}")
        return Ran(job, self.jobs.snapshots(name), list(self.jobs.events(name)), self._blobs.adapter(name))


@dataclass(frozen=True, slots=True)
class Served:
    """A scheduler over processes, stepped by hand."""

    jobs: JobStore
    scheduler: Scheduler
    executor: LocalExecutor

    def finish(self, name: str) -> None:
        """Until the job has ended."""
        self._until(lambda: self.jobs.get(name).state.terminal)

    def wait_for_spare(self) -> None:
        """Until a worker waits with everything loaded.

        Raises:
            SystemExit: none does after `SPARE_WITHIN_S`.

        """
        deadline = time.monotonic() + SPARE_WITHIN_S
        self._until(lambda: self.executor.spare_waits or time.monotonic() > deadline)
        if not self.executor.spare_waits:
            raise SystemExit(f"No spare worker waits after {SPARE_WITHIN_S:g} s.")

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.scheduler.step()
            time.sleep(STEP_EVERY_S)


def ran(
    settings: Settings, base_model: str, source: Path, asked: RequestedHyperparameters, *, name: str, seed: int = 0
) -> Ran:
    """The job `name` on the lines of `source`, from the queue to its end, in this process.

    Raises:
        SystemExit: it did not succeed; says why.

    """
    with Queue.opened(settings) as queue:
        queue.add(base_model, source, asked, name=name, seed=seed)
        queue.run_here()
        return queue.left(name)

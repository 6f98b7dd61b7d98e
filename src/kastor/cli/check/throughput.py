"""How fast jobs train on a base model here: by this installation's earlier jobs, else by how fast it multiplies."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kastor.dataset.validation.cost_estimate import MachineSpeed, MeasuredPace
from kastor.domain.errors import KastorError
from kastor.domain.job import State, StepMetrics, TuningJob
from kastor.settings import Settings
from kastor.store.database import open_database
from kastor.store.jobs import JobStore

NUM_JOBS = 5
NUM_SEARCHED = 100
NUM_STEPS = 500  # the latest ones of each
PROBE_S = 0.4
PROBE_SIZE = 64  # matrices of this size, and as many, are multiplied in one thread: what others leave of one core
MOST_JOB_S = 600.0  # beside its steps; more is waiting, not work
START_S = 8.0  # of a job before its first step, for its process and the base; more of it goes to looking at media


def measured_pace(base_id: str, settings: Settings, *, sees: bool = False) -> MeasuredPace | None:
    """The pace of the latest jobs on the base; `None` if there were none, or the database cannot be read."""
    if settings.database_url is None and not (Path(settings.data_dir) / "kastor.db").is_file():
        return None
    try:
        database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
        try:
            return _pace(JobStore(database), base_id, sees=sees)
        finally:
            database.close()
    except KastorError:
        return None  # an estimate is no reason to fail


def machine_speed(settings: Settings) -> MachineSpeed:
    """How fast numpy multiplies on the cores of a job just now, in less than half a second.

    One thread is measured and taken for as many as there are cores: several would measure how they wait for each other
    where other programs run.
    """
    import numpy as np

    ones = np.ones((PROBE_SIZE, PROBE_SIZE, PROBE_SIZE), np.float32)
    made = np.matmul(ones, ones)
    started, number = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - started) < PROBE_S or not number:
        np.matmul(ones, ones, out=made)
        number += 1
    gflops = 2 * PROBE_SIZE**4 * number / elapsed_s / 1e9
    cores = os.cpu_count() or 1
    has_tiles = settings.base_dtype != "float32" and _has_tiles()
    return MachineSpeed(gflops * min(cores, settings.num_threads or cores), has_tiles)


def _has_tiles() -> bool:
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _pace(jobs: JobStore, base_id: str, *, sees: bool) -> MeasuredPace | None:
    trained = [job for job in jobs.page(limit=NUM_SEARCHED) if job.spec.base_model == base_id and job.completed_steps]
    latest = trained[:NUM_JOBS]
    held = jobs.snapshots_of([job.id for job in latest], latest=NUM_STEPS)
    of_jobs = {job.id: steps for job in latest if (steps := held.get(job.id))}
    if sum(step.elapsed_s for steps in of_jobs.values() for step in steps) <= 0:
        return None
    named = "the last job" if len(of_jobs) == 1 else f"the last {len(of_jobs)} jobs"
    ended = [job for job in latest if job.id in of_jobs and job.state is State.SUCCEEDED]
    overheads = [_overhead(job, of_jobs[job.id], sees=sees) for job in ended]
    return pace_of([step for steps in of_jobs.values() for step in steps], overheads, f"{named} on this base here")


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of one job that are in none of its steps: for media seen before the first, and for all else."""

    media_s: float
    job_s: float
    num_tokens: int  # of its first epoch


def _overhead(job: TuningJob, steps: Sequence[StepMetrics], *, sees: bool) -> Overhead:
    num_tokens = sum(step.num_tokens for step in steps if step.epoch <= 1)
    if job.started_at is None or job.finished_at is None:
        return Overhead(0.0, 0.0, num_tokens)
    whole_s = (job.finished_at - job.started_at).total_seconds() - sum(step.elapsed_s for step in steps)
    begun = steps[0].computed_at - timedelta(seconds=steps[0].elapsed_s)
    media_s = (begun - job.started_at).total_seconds() - START_S if sees and steps[0].step == 1 else 0.0
    media_s = min(MOST_JOB_S, max(0.0, media_s))
    return Overhead(media_s, min(MOST_JOB_S, max(0.0, whole_s - media_s)), num_tokens)


def pace_of(steps: Sequence[StepMetrics], overheads: Sequence[Overhead], source: str) -> MeasuredPace:
    """The pace that explains these steps best: steps and tokens by the later epochs, media by the first and before."""
    later = [step for step in steps if step.epoch > 1] or list(steps)
    step_s, token_s = _line([step.num_tokens for step in later], [step.elapsed_s for step in later])
    first = [step for step in steps if step.epoch <= 1]
    beyond_s = sum(step.elapsed_s - step_s - token_s * step.num_tokens for step in first)
    media_token_s = max(0.0, beyond_s) / max(1, sum(step.num_tokens for step in first))
    media_token_s += sum(one.media_s for one in overheads) / max(1, sum(one.num_tokens for one in overheads))
    job_s = sorted(one.job_s for one in overheads)[len(overheads) // 2] if overheads else 0.0
    return MeasuredPace(step_s, token_s, media_token_s, job_s, source)


def _line(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds a step and a token, neither below 0, by least squares."""
    number, sum_x, sum_y = len(tokens), sum(tokens), sum(seconds)
    spread = number * sum(x * x for x in tokens) - sum_x**2
    product = sum(x * y for x, y in zip(tokens, seconds, strict=True))
    slope = (number * product - sum_x * sum_y) / spread if spread > 0 else -1.0
    start = (sum_y - slope * sum_x) / number
    if slope < 0 or start < 0:
        return 0.0, sum_y / max(1, sum_x)
    return start, slope

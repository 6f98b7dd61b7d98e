"""Training speed on this machine: measured on earlier jobs of the base model, else from a matrix benchmark."""

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
NUM_STEPS = 500  # the latest of each job
PROBE_S = 0.4
PROBE_SIZE = 64  # as many matrices of this size are multiplied in one thread
MAX_OVERHEAD_S = 600.0  # of a job outside its steps; more than that is waiting
START_S = 8.0  # to start a job's process and load its base; the rest before the first step is media work


def measured_pace(base_id: str, settings: Settings, *, sees: bool = False) -> MeasuredPace | None:
    """The pace of the latest jobs on the base model; `None` if there are none or the database cannot be read."""
    if settings.database_url is None and not (Path(settings.data_dir) / "kastor.db").is_file():
        return None
    try:
        database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
        try:
            return _pace(JobStore(database), base_id, sees=sees)
        finally:
            database.close()
    except KastorError:
        return None  # the check works without an estimate


def machine_speed(settings: Settings) -> MachineSpeed:
    """Current matrix multiplication speed on the cores of a job, measured in less than half a second.

    One thread is measured and the result multiplied by the number of cores: on a busy machine, several threads would
    measure how long they wait for each other.
    """
    import numpy as np

    ones = np.ones((PROBE_SIZE, PROBE_SIZE, PROBE_SIZE), np.float32)
    product = np.matmul(ones, ones)
    started, number = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - started) < PROBE_S or not number:
        np.matmul(ones, ones, out=product)
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
    jobs_with_steps = [
        job for job in jobs.page(limit=NUM_SEARCHED) if job.spec.base_model == base_id and job.completed_steps
    ]
    latest = jobs_with_steps[:NUM_JOBS]
    snapshots = jobs.snapshots_of([job.id for job in latest], latest=NUM_STEPS)
    steps_by_job = {job.id: steps for job in latest if (steps := snapshots.get(job.id))}
    if sum(step.elapsed_s for steps in steps_by_job.values() for step in steps) <= 0:
        return None
    source = "the last job" if len(steps_by_job) == 1 else f"the last {len(steps_by_job)} jobs"
    ended = [job for job in latest if job.id in steps_by_job and job.state is State.SUCCEEDED]
    overheads = [_overhead(job, steps_by_job[job.id], sees=sees) for job in ended]
    return pace_of(
        [step for steps in steps_by_job.values() for step in steps], overheads, f"{source} on this base here"
    )


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of one job outside its steps: for media before the first step, and for everything else."""

    media_s: float
    job_s: float
    num_tokens: int  # of the first epoch


def _overhead(job: TuningJob, steps: Sequence[StepMetrics], *, sees: bool) -> Overhead:
    num_tokens = sum(step.num_tokens for step in steps if step.epoch <= 1)
    if job.started_at is None or job.finished_at is None:
        return Overhead(0.0, 0.0, num_tokens)
    whole_s = (job.finished_at - job.started_at).total_seconds() - sum(step.elapsed_s for step in steps)
    begun = steps[0].computed_at - timedelta(seconds=steps[0].elapsed_s)
    media_s = (begun - job.started_at).total_seconds() - START_S if sees and steps[0].step == 1 else 0.0
    media_s = min(MAX_OVERHEAD_S, max(0.0, media_s))
    return Overhead(media_s, min(MAX_OVERHEAD_S, max(0.0, whole_s - media_s)), num_tokens)


def pace_of(steps: Sequence[StepMetrics], overheads: Sequence[Overhead], source: str) -> MeasuredPace:
    """Fit a pace to the steps: cost per step and token from the later epochs, per media token from the first."""
    later = [step for step in steps if step.epoch > 1] or list(steps)
    step_s, token_s = _fit_line([step.num_tokens for step in later], [step.elapsed_s for step in later])
    first = [step for step in steps if step.epoch <= 1]
    beyond_s = sum(step.elapsed_s - step_s - token_s * step.num_tokens for step in first)
    media_token_s = max(0.0, beyond_s) / max(1, sum(step.num_tokens for step in first))
    media_token_s += sum(one.media_s for one in overheads) / max(1, sum(one.num_tokens for one in overheads))
    job_s = sorted(one.job_s for one in overheads)[len(overheads) // 2] if overheads else 0.0
    return MeasuredPace(step_s, token_s, media_token_s, job_s, source)


def _fit_line(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Least-squares seconds per step and per token, neither negative."""
    number, sum_x, sum_y = len(tokens), sum(tokens), sum(seconds)
    spread = number * sum(x * x for x in tokens) - sum_x**2
    product = sum(x * y for x, y in zip(tokens, seconds, strict=True))
    slope = (number * product - sum_x * sum_y) / spread if spread > 0 else -1.0
    start = (sum_y - slope * sum_x) / number
    if slope < 0 or start < 0:
        return 0.0, sum_y / max(1, sum_x)
    return start, slope

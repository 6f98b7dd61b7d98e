"""Factories of valid domain values for tests; every field can be overridden."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kastor.domain.job import AdapterShape, Hyperparameters, State, StepMetrics, TuningJob, TuningSpec
from kastor.domain.tuned_model import TunedModel

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SPEC = TuningSpec(
    base_model="smollm2-135m-instruct",
    hyperparameters=Hyperparameters(num_epochs=5, batch_size=4, learning_rate=0.001),
    adapter=AdapterShape(rank=8, alpha=16.0, targets=("q_proj", "v_proj")),
    num_examples=15,
    seed=7,
)


def after(seconds: float) -> datetime:
    """A moment that many seconds after `START`."""
    return START + timedelta(seconds=seconds)


def make_job(job_id: str = "job1", **changes: Any) -> TuningJob:
    """A queued job that makes the model `model-of-{job_id}`."""
    job = TuningJob(
        id=job_id,
        tuned_model_id=f"model-of-{job_id}",
        spec=SPEC,
        state=State.QUEUED,
        created_at=START,
        updated_at=START,
        creator="ada@example.org",
    )
    return replace(job, **changes)


def make_model(job: TuningJob, **changes: Any) -> TunedModel:
    """The model that a job makes."""
    model = TunedModel(
        id=job.tuned_model_id,
        job_id=job.id,
        base_model="gemini-1.5-flash-001-tuning",
        owner="ada@example.org",
        created_at=job.created_at,
        updated_at=job.created_at,
    )
    return replace(model, **changes)


def make_snapshot(step: int = 1, **changes: Any) -> StepMetrics:
    """What step `step` did."""
    snapshot = StepMetrics(
        step=step,
        epoch=1,
        mean_loss=2.5 / step,
        num_tokens=120,
        num_supervised=14,
        elapsed_s=0.25,
        computed_at=after(step),
    )
    return replace(snapshot, **changes)

"""Jobs and snapshots, from rows of their tables and back."""

import math
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import Code
from kastor.domain.job import (
    AdapterShape,
    DatasetFile,
    Hyperparameters,
    JobError,
    Rendering,
    RequestedHyperparameters,
    State,
    StepMetrics,
    TuningJob,
    TuningSpec,
)
from kastor.store.tables import jobs


def tuning_job(row: RowMapping) -> TuningJob:
    """The job in a row that holds the columns of `tables.jobs`, possibly among others."""
    spec, code = row[jobs.c.spec], row[jobs.c.error_code]
    return TuningJob(
        id=row[jobs.c.id],
        tuned_model_id=row[jobs.c.tuned_model_id],
        spec=TuningSpec(
            **spec
            | {
                "file": _dataset_file(spec.get("file")),
                "rendering": Rendering(spec.get("rendering", Rendering.FIRST)),
                "supervise": SupervisedTurns(spec.get("supervise", SupervisedTurns.LAST)),  # jobs of before the choice
                "hyperparameters": Hyperparameters(**spec["hyperparameters"]),
                "adapter": AdapterShape(**spec["adapter"] | {"targets": tuple(spec["adapter"]["targets"])}),
            }
        ),
        state=State(row[jobs.c.state]),
        created_at=row[jobs.c.created_at],
        updated_at=row[jobs.c.updated_at],
        creator=row[jobs.c.creator] or "",
        attempt=row[jobs.c.attempt],
        deaths=row[jobs.c.deaths],
        started_at=row[jobs.c.started_at],
        finished_at=row[jobs.c.finished_at],
        heartbeat_at=row[jobs.c.heartbeat_at],
        completed_steps=row[jobs.c.completed_steps],
        error=None if code is None else JobError(Code(code), row[jobs.c.error_message]),
        resumed_as=row[jobs.c.resumed_as],
    )


def _dataset_file(fields: dict[str, Any] | None) -> DatasetFile | None:
    if fields is None:
        return None
    return DatasetFile(**fields | {"asked": RequestedHyperparameters(**fields["asked"])})


def job_values(job: TuningJob) -> dict[str, Any]:
    """The columns of `tables.jobs` that hold the job."""
    values = asdict(job)
    error = values.pop("error")
    return values | {
        "error_code": None if error is None else int(error["code"]),
        "error_message": None if error is None else error["message"],
    }


def snapshot(values: list[Any]) -> StepMetrics:
    """The snapshot with these fields. A list may hold a million of them, so they are not looked up by name."""
    step, epoch, mean_loss, *others = values
    return StepMetrics(step, epoch, math.nan if mean_loss is None else mean_loss, *others)

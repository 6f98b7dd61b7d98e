"""What the use cases of tuning give back: tuned models, jobs, and pages of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kastor.domain.certificate import unreadable_certificate
from kastor.domain.generation import Sampling
from kastor.domain.job import JobEvent, StepMetrics, TuningJob
from kastor.domain.tuned_model import TunedModel

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TunedModelView:
    """A tuned model with the job that makes it."""

    model: TunedModel
    job: TuningJob
    sampling: Sampling  # the model's defaults, the base's where it has none of its own
    snapshots: tuple[StepMetrics, ...]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of a job's dataset file, by its report."""

    num_rows: int
    num_accepted: int  # trained on; those that were left out since do not count
    num_dropped: int

    @classmethod
    def of(cls, report: Path) -> "RowCounts | None":
        """Those of the report; `None` where there is none, or it cannot be read."""
        try:
            held = json.loads(report.read_bytes())
            return cls(int(held["rows"]), int(held["accepted"]), int(held["dropped"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with what happened to it; in short, without its events, only the latest snapshots."""

    job: TuningJob
    snapshots: tuple[StepMetrics, ...]
    events: tuple[JobEvent, ...] = ()
    certificate: Mapping[str, Any] | None = None  # as it was stored; absent before success, and in short
    rows: RowCounts | None = None  # where there is a file and it was judged; absent in short
    resumable: bool = False  # it failed, kept a checkpoint, and no other goes on for it


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list, and whether more follows."""

    items: tuple[Item, ...]
    more: bool


def read_certificate(path: Path, job_id: str) -> Mapping[str, Any] | None:
    """The certificate as it was stored; `None` where there is none, and one that says so where it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else unreadable_certificate(job_id)

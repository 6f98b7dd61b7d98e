"""What the use cases of tuning give back: tuned models, jobs, and pages of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kastor.domain.generation import Sampling
from kastor.domain.job import Event, Snapshot, TuningJob
from kastor.domain.tuned_model import TunedModel

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Tuning:
    """A tuned model with the job that makes it."""

    model: TunedModel
    job: TuningJob
    sampling: Sampling  # the model's defaults, the base's where it has none of its own
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with what happened to it; in short, without its events, only the latest snapshots."""

    job: TuningJob
    snapshots: tuple[Snapshot, ...]
    events: tuple[Event, ...] = ()
    certificate: Mapping[str, Any] | None = None  # as it was stored; absent before success, and in short
    resumable: bool = False  # it failed, kept a checkpoint, and no other goes on for it


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list, and whether more follows."""

    items: tuple[Item, ...]
    more: bool

"""Requests to create or change tuned models, as values, and their rules. Arithmetic only: no input or output.

Defaults come from the base model. Errors name fields by the names of the values here; dialects translate them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypedDict

from kastor.dataset.validation.rules import text_violations, too_long
from kastor.domain.content import Example, SupervisedTurns
from kastor.domain.dataset_limits import dataset_limits
from kastor.domain.errors import FieldViolation, InvalidArgument
from kastor.domain.job import AdapterShape, DatasetFile, Rendering, RequestedHyperparameters
from kastor.domain.model_ref import ModelRef
from kastor.domain.request_limits import Limits
from kastor.domain.tuned_model import TunedModel
from kastor.models.catalog import BaseModel
from kastor.services.generation_request import sampling_violations

EXAMPLES = "examples"
MAX_VIOLATIONS = 100  # a data set may be wrong in every line; nobody reads more


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset file to train on: where it lies and what it is called."""

    path: Path
    name: str
    profile: str
    media_base: Path | None = None


@dataclass(frozen=True, slots=True)
class NewTuning:
    """A tuning to start. What is `None` or empty was not said."""

    source: ModelRef  # a base, or the tuned model to go on from
    limits: Limits  # of the dialect that the request came by
    examples: tuple[Example, ...] = ()
    file: NewDataset | None = None  # in place of the examples
    hyperparameters: RequestedHyperparameters = RequestedHyperparameters()
    supervise: SupervisedTurns = SupervisedTurns.ALL
    train_tower: bool = False  # the base's vision tower, too
    tuned_model_id: str | None = None
    display_name: str = ""
    description: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class TuningStart:
    """What a job begins with."""

    base: BaseModel
    adapter: AdapterShape
    base_name: str  # the id or alias that the caller, or the caller of the source, named
    source: TunedModel | None = None  # whose adapter it goes on from
    rendering: Rendering = Rendering.TUNED


class ModelChange(TypedDict, total=False):
    """The fields of a tuned model to set; `None` goes back to the base's value."""

    display_name: str
    description: str
    temperature: float | None
    top_p: float | None
    top_k: int | None


def dataset_file(new: NewTuning, file: NewDataset) -> DatasetFile:
    """The file as the job keeps it until it is judged."""
    base = "" if file.media_base is None else str(file.media_base)
    return DatasetFile(file.name, dataset_limits(file.profile).name, base, new.hyperparameters)


def check_examples(examples: tuple[Example, ...], limits: Limits) -> None:
    """Nothing, if every example may be trained on.

    Raises:
        InvalidArgument: there are none, an output is empty, or a text is too long; names index, field and limit.

    """
    if not examples:
        raise InvalidArgument.of(EXAMPLES, "there are no training examples in the request")
    wrong = tuple(islice(_example_violations(examples, limits), MAX_VIOLATIONS))
    if wrong:
        raise InvalidArgument.of_all(wrong)


def _example_violations(examples: Iterable[Example], limits: Limits) -> Iterator[FieldViolation]:
    for index, example in enumerate(examples):
        for fault in text_violations(example, limits):
            yield FieldViolation(f"{EXAMPLES}[{index}].{fault.path}", fault.message)


def check_tower(base: BaseModel) -> None:
    """Nothing, if the base has a vision tower that jobs can train.

    Raises:
        InvalidArgument: it has none, or one that stays as it was pretrained.

    """
    vision = base.family.vision
    if vision is None:
        raise InvalidArgument.of("train_tower", f"{base.name} reads text only and has no vision tower; leave it out")
    if vision.pretrained:
        raise InvalidArgument.of(
            "train_tower", f"the tower of {base.name} was trained with its language model and stays so; leave it out"
        )


def check_settings(model: TunedModel, limits: Limits) -> None:
    """Nothing, if the fields that a caller sets on a tuned model are in range.

    Raises:
        InvalidArgument: names each field that is not.

    """
    wrong = []
    if len(model.display_name) > limits.max_display_name_chars:
        wrong.append(FieldViolation("display_name", too_long(len(model.display_name), limits.max_display_name_chars)))
    wrong += [
        FieldViolation(field, "holds the character U+0000; leave it out")
        for field, text in (("display_name", model.display_name), ("description", model.description))
        if "\0" in text  # PostgreSQL keeps none
    ]
    wrong += sampling_violations("", model.temperature, model.top_p, model.top_k, max_temperature=1.0)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))

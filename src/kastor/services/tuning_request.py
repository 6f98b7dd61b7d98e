"""What callers ask to be made or changed, as values, and its rules. Arithmetic only: nothing is read or written here.

Fields are named as the caller wrote them, so that a refusal can be understood; defaults are filled in from the base.
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
from kastor.domain.request_limits import Limits
from kastor.domain.tuned_model import TunedModel
from kastor.models.catalog import BaseModel
from kastor.services.generation_request import sampling_violations

EXAMPLES = "tuningTask.trainingData.examples.examples"
NO_EXAMPLES = (
    "there are no training examples in the request. If you use google-genai: its releases from 1.47.0 on (and the Node "
    "SDK) do not send training_dataset to this API. Pass the examples as extra body: CreateTuningJobConfig("
    'http_options=HttpOptions(extra_body={"tuningTask": {"trainingData": {"examples": {"examples": '
    '[{"textInput": "1", "output": "2"}]}}}})), or use google-genai 1.46.0 or `kastor tune`'
)
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

    base_model: str  # a base, or `tunedModels/…`: the tuned model to go on from
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
    base_name: str  # as the caller, or the caller of the source, named it
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
        raise InvalidArgument.of(EXAMPLES, NO_EXAMPLES)
    wrong = tuple(islice(_example_violations(examples, limits), MAX_VIOLATIONS))
    if wrong:
        raise InvalidArgument.of_all(wrong)


def _example_violations(examples: Iterable[Example], limits: Limits) -> Iterator[FieldViolation]:
    for index, example in enumerate(examples):
        for fault in text_violations(example, limits):
            field = "textInput" if fault.path == "input" else "output"
            yield FieldViolation(f"{EXAMPLES}[{index}].{field}", fault.message)


def check_tower(base: BaseModel) -> None:
    """Nothing, if the base has a vision tower that jobs can train.

    Raises:
        InvalidArgument: it has none, or one that stays as it was pretrained.

    """
    vision = base.family.vision
    if vision is None:
        raise InvalidArgument.of("trainTower", f"{base.name} reads text only and has no vision tower; leave it out")
    if vision.pretrained:
        raise InvalidArgument.of(
            "trainTower", f"the tower of {base.name} was trained with its language model and stays so; leave it out"
        )


def check_settings(model: TunedModel, limits: Limits) -> None:
    """Nothing, if the fields that a caller sets on a tuned model are in range.

    Raises:
        InvalidArgument: names each field that is not.

    """
    wrong = []
    if len(model.display_name) > limits.max_display_name_chars:
        wrong.append(FieldViolation("displayName", too_long(len(model.display_name), limits.max_display_name_chars)))
    wrong += [
        FieldViolation(field, "holds the character U+0000; leave it out")
        for field, text in (("displayName", model.display_name), ("description", model.description))
        if "\0" in text  # PostgreSQL keeps none
    ]
    wrong += sampling_violations("", model.temperature, model.top_p, model.top_k, max_temperature=1.0)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))

"""What callers ask for, as values, and the rules it is held to. Arithmetic only: nothing is read or written here.

Fields are named as the caller wrote them, so that a refusal can be understood; defaults are filled in from the base.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

from kastor.dataset.gate import text_faults, too_long
from kastor.domain.content import Example, Prompt
from kastor.domain.errors import FieldViolation, InvalidArgument
from kastor.domain.generation import Sampling
from kastor.domain.job import RequestedHyperparameters
from kastor.domain.limits import Limits
from kastor.domain.tuned_model import TunedModel

EXAMPLES = "tuningTask.trainingData.examples.examples"
NO_EXAMPLES = (
    "there are no training examples in the request. If you use google-genai: its releases from 1.47.0 on (and the Node "
    "SDK) do not send training_dataset to this API. Pass the examples as extra body: CreateTuningJobConfig("
    'http_options=HttpOptions(extra_body={"tuningTask": {"trainingData": {"examples": {"examples": '
    '[{"textInput": "1", "output": "2"}]}}}})), or use google-genai 1.46.0 or `kastor tune`'
)
MAX_VIOLATIONS = 100  # a data set may be wrong in every line; nobody reads more
MAX_STOP_SEQUENCES = 5


@dataclass(frozen=True, slots=True)
class NewTuning:
    """A tuning to start. What is `None` or empty was not said."""

    base_model: str
    examples: tuple[Example, ...]
    hyperparameters: RequestedHyperparameters = RequestedHyperparameters()
    tuned_model_id: str | None = None
    display_name: str = ""
    description: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class ModelChange(TypedDict, total=False):
    """The fields of a tuned model to set; `None` goes back to the base's value."""

    display_name: str
    description: str
    temperature: float | None
    top_p: float | None
    top_k: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """What to generate. `None` is the tuned model's own value, or else the base's."""

    prompt: Prompt
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    seed: int | None = None


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
        for fault in text_faults(example, limits):
            field = "textInput" if fault.side == "input" else "output"
            yield FieldViolation(f"{EXAMPLES}[{index}].{field}", fault.message)


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
    wrong += _sampling_violations("", model.temperature, model.top_p, model.top_k, max_temperature=1.0)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))


def check_prompt(prompt: Prompt, name: str, limits: Limits) -> None:
    """Nothing, if the tuned model called `name` may be asked this.

    Raises:
        InvalidArgument: it is too long, or holds what this profile's tuned models do not take.

    """
    if prompt.system is not None and not limits.system_on_tuned:
        raise InvalidArgument(
            f"Developer instruction is not enabled for {name}",
            violations=(FieldViolation("systemInstruction", "tuned models take none; write it into the prompt"),),
        )
    if limits.max_input_chars is not None and prompt.num_chars > limits.max_input_chars:
        raise InvalidArgument.of("contents", too_long(prompt.num_chars, limits.max_input_chars) + " for a tuned model")


def sampling(ask: Ask, default: Sampling, max_output_tokens: int) -> Sampling:
    """How tokens are chosen: as asked, else as `default` says; never more than the base's `max_output_tokens`.

    Raises:
        InvalidArgument: a value is out of range; names each.

    """
    at = "generationConfig."
    wrong = _sampling_violations(at, ask.temperature, ask.top_p, ask.top_k, max_temperature=2.0)
    if len(ask.stop_sequences) > MAX_STOP_SEQUENCES:
        said = f"{len(ask.stop_sequences)} sequences, at most {MAX_STOP_SEQUENCES} are allowed"
        wrong.append(FieldViolation(at + "stopSequences", said))
    if any(not stop for stop in ask.stop_sequences):
        wrong.append(FieldViolation(at + "stopSequences", "holds an empty text; leave it out"))
    asked = ask.max_output_tokens
    if asked is not None and asked < 1:
        wrong.append(FieldViolation(at + "maxOutputTokens", f"{asked} is out of range; use 1 or more"))
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))
    return Sampling(
        temperature=_first(ask.temperature, default.temperature),
        top_p=_first(ask.top_p, default.top_p),
        top_k=ask.top_k if ask.top_k is not None else default.top_k,
        stop_sequences=ask.stop_sequences,
        max_output_tokens=max_output_tokens if asked is None else min(asked, max_output_tokens),
        seed=ask.seed,
    )


def model_sampling(model: TunedModel, base: Sampling) -> Sampling:
    """The defaults of a tuned model: its own values, else its base's."""
    return Sampling(
        temperature=_first(model.temperature, base.temperature),
        top_p=_first(model.top_p, base.top_p),
        top_k=model.top_k if model.top_k is not None else base.top_k,
    )


def _sampling_violations(
    at: str, temperature: float | None, top_p: float | None, top_k: int | None, *, max_temperature: float
) -> list[FieldViolation]:
    wrong = []
    if temperature is not None and not 0 <= temperature <= max_temperature:
        said = f"{temperature} is out of range; use 0 to {max_temperature}"
        wrong.append(FieldViolation(f"{at}temperature", said))
    if top_p is not None and not 0 < top_p <= 1:
        wrong.append(FieldViolation(f"{at}topP", f"{top_p} is out of range; use one above 0, at most 1"))
    if top_k is not None and top_k < 1:
        wrong.append(FieldViolation(f"{at}topK", f"{top_k} is out of range; use a whole number from 1"))
    return wrong


def _first(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value

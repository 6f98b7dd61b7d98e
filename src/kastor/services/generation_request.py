"""Requests for generation, as values, and their rules. Arithmetic only.

Defaults come from the base model. Errors name fields by the names of the values here; dialects translate them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kastor.dataset.validation.function_rules import tool_order_violations
from kastor.dataset.validation.prompt_kinds import PromptKinds
from kastor.dataset.validation.rules import parts_with_paths, too_long
from kastor.domain.content import FunctionCall, FunctionResponse, Media, Prompt
from kastor.domain.errors import MODEL, FieldViolation, InvalidArgument
from kastor.domain.generation import ResponseFormat, Sampling
from kastor.domain.request_limits import Limits
from kastor.domain.tools import Json
from kastor.domain.tuned_model import TunedModel
from kastor.models.chat.tool_format import ToolFormat

SAMPLING = "sampling."
CALLING = "must_call"
MAX_STOP_SEQUENCES = 5
MAX_CANDIDATES = 8
MAX_TOP_LOGPROBS = 20
OPEN = "an operator allows it with KASTOR_PROFILE=open"
PENALTY = 2.0  # from -PENALTY, up to but not PENALTY itself


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """What to generate. `None` is the tuned model's own value, or else the base's."""

    prompt: Prompt
    num_candidates: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None
    form: ResponseFormat | None = None
    must_call: Mapping[str, Json] = field(default_factory=dict)  # functions, with their arguments' JSON Schema


@dataclass(frozen=True, slots=True)
class PromptSupport:
    """What decides which prompts a tuned model takes."""

    model_id: str
    on_file: bool  # tuned on a dataset file, which may hold what the Gemini API's examples cannot
    prompt_kinds: Callable[[], PromptKinds]  # of its examples; called only where it matters


def validate_tuned_request(ask: GenerationParams, support: PromptSupport, limits: Limits) -> None:
    """Nothing, if the tuned model may be asked this.

    Raises:
        InvalidArgument: it is too long, or holds what this profile's tuned models do not take.

    """
    prompt = ask.prompt
    if ask.form is not None and not limits.json_on_tuned:
        said = f"tuned models give plain text in the profile {limits.name}; leave it out, or ask a base model; {OPEN}"
        raise InvalidArgument(
            f"Json mode is not enabled for {MODEL}",
            model_id=support.model_id,
            violations=(FieldViolation("response_format", said),),
        )
    if prompt.system is not None and not limits.system_on_tuned and not support.prompt_kinds().system:
        said = f"it was tuned without one, so the profile {limits.name} takes none; write it into the prompt; {OPEN}"
        raise InvalidArgument(
            f"Developer instruction is not enabled for {MODEL}",
            model_id=support.model_id,
            violations=(FieldViolation("system", said),),
        )
    validate_tuned_prompt(prompt, support, limits)
    most = limits.max_input_chars
    if most is not None and not support.on_file and prompt.num_chars > most:
        said = f"{too_long(prompt.num_chars, most)} for this tuned model in the profile {limits.name}; {OPEN}"
        raise InvalidArgument.of("contents", said)


def validate_tuned_prompt(prompt: Prompt, support: PromptSupport, limits: Limits) -> None:
    """Nothing, if the tuned model may be given the prompt's media and functions.

    Raises:
        InvalidArgument: it holds some that the model was tuned without, and this profile takes none then; names each.

    """
    media = [path for path, part in parts_with_paths(prompt) if isinstance(part, Media)]
    if media and not limits.media_on_tuned and not support.prompt_kinds().media:
        said = f"{MODEL} was tuned on text alone, and reads no media in the profile {limits.name}; {OPEN}"
        raise InvalidArgument.of_all(tuple(FieldViolation(path, said) for path in media), model_id=support.model_id)
    calls = [path for path, part in parts_with_paths(prompt) if isinstance(part, FunctionCall | FunctionResponse)]
    if not (prompt.tools or calls) or limits.functions_on_tuned or support.prompt_kinds().functions:
        return
    said = f"{MODEL} was tuned without functions, and has none in the profile {limits.name}; {OPEN}"
    if prompt.tools:
        raise InvalidArgument(
            f"Function calling is not enabled for {MODEL}",
            model_id=support.model_id,
            violations=(FieldViolation("tools", said),),
        )
    raise InvalidArgument.of_all(tuple(FieldViolation(path, said) for path in calls), model_id=support.model_id)


def validate_functions(prompt: Prompt, style: ToolFormat | None, base: str) -> None:
    """Nothing, if a base that writes functions in this style can be given the prompt's.

    Raises:
        InvalidArgument: it knows none, or calls and responses are out of order; names each part.

    """
    if style is None:
        said = f"{base} cannot call functions; leave it out"
        held = [path for path, part in parts_with_paths(prompt) if isinstance(part, FunctionCall | FunctionResponse)]
        wrong = [FieldViolation(path, said) for path in [*(["tools"] if prompt.tools else []), *held]]
    else:
        faults = tool_order_violations(prompt)
        wrong = [FieldViolation(f.path, f.message + (f"; {f.hint}" if f.hint else "")) for f in faults]
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))


def forced_call_format(must_call: Mapping[str, Json], style: ToolFormat) -> ResponseFormat | None:
    """The form of an answer that must be a call of one of these functions; `None` where there are none.

    Raises:
        InvalidArgument: their schemas cannot stand side by side.

    """
    if not must_call:
        return None
    calls, shared = [], dict[str, Json]()
    for name, schema in must_call.items():
        arguments = dict(schema)
        for word, held in (arguments.pop("$defs", None) or {}).items():
            if shared.setdefault(word, held) != held:
                said = f"two functions have unlike $defs of the name {word!r}; name one in allowedFunctionNames"
                raise InvalidArgument.of(CALLING, said)
        properties = {"name": {"const": name}, style.arguments: arguments}
        required = list(properties)
        calls.append({"type": "object", "properties": properties, "required": required, "additionalProperties": False})
    return ResponseFormat(CALLING, json.dumps({"anyOf": calls} | ({"$defs": shared} if shared else {})))


def resolve_sampling(ask: GenerationParams, default: Sampling, max_output_tokens: int) -> Sampling:
    """How tokens are chosen: as asked, else as `default` says; never more than the base's `max_output_tokens`.

    Raises:
        InvalidArgument: a value is out of range; names each.

    """
    wrong = sampling_violations(SAMPLING, ask.temperature, ask.top_p, ask.top_k, max_temperature=2.0)
    wrong += _stop_violations(ask.stop_sequences)
    asked = ask.max_output_tokens
    if asked is not None and asked < 1:
        wrong.append(FieldViolation(SAMPLING + "max_output_tokens", f"{asked} is out of range; use 1 or more"))
    wrong += _other_violations(ask)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))
    return Sampling(
        temperature=_first(ask.temperature, default.temperature),
        top_p=_first(ask.top_p, default.top_p),
        top_k=ask.top_k if ask.top_k is not None else default.top_k,
        stop_sequences=ask.stop_sequences,
        max_output_tokens=max_output_tokens if asked is None else min(asked, max_output_tokens),
        seed=ask.seed,
        presence_penalty=ask.presence_penalty,
        frequency_penalty=ask.frequency_penalty,
        top_logprobs=ask.top_logprobs,
        form=ask.form,
    )


def _stop_violations(stops: tuple[str, ...]) -> list[FieldViolation]:
    wrong = []
    if len(stops) > MAX_STOP_SEQUENCES:
        said = f"{len(stops)} sequences, at most {MAX_STOP_SEQUENCES} are allowed"
        wrong.append(FieldViolation(SAMPLING + "stop_sequences", said))
    if any(not stop for stop in stops):
        wrong.append(FieldViolation(SAMPLING + "stop_sequences", "holds an empty text; leave it out"))
    return wrong


def _other_violations(ask: GenerationParams) -> list[FieldViolation]:
    wrong = []
    if not 1 <= ask.num_candidates <= MAX_CANDIDATES:
        said = f"{ask.num_candidates} is out of range; use 1 to {MAX_CANDIDATES}"
        wrong.append(FieldViolation("num_candidates", said))
    for name, value in (("presence_penalty", ask.presence_penalty), ("frequency_penalty", ask.frequency_penalty)):
        if not -PENALTY <= value < PENALTY:
            said = f"{value} is out of range; use one from -{PENALTY:g} on, below {PENALTY:g}"
            wrong.append(FieldViolation(SAMPLING + name, said))
    if ask.top_logprobs is not None and not 0 <= ask.top_logprobs <= MAX_TOP_LOGPROBS:
        said = f"{ask.top_logprobs} is out of range; use 0 to {MAX_TOP_LOGPROBS}"
        wrong.append(FieldViolation(SAMPLING + "top_logprobs", said))
    return wrong


def default_sampling(model: TunedModel, base: Sampling) -> Sampling:
    """The defaults of a tuned model: its own values, else its base's."""
    return Sampling(
        temperature=_first(model.temperature, base.temperature),
        top_p=_first(model.top_p, base.top_p),
        top_k=model.top_k if model.top_k is not None else base.top_k,
    )


def sampling_violations(
    at: str, temperature: float | None, top_p: float | None, top_k: int | None, *, max_temperature: float
) -> list[FieldViolation]:
    """A violation for each sampling value that is out of range; `at` stands before the field's name."""
    wrong = []
    if temperature is not None and not 0 <= temperature <= max_temperature:
        said = f"{temperature} is out of range; use 0 to {max_temperature}"
        wrong.append(FieldViolation(f"{at}temperature", said))
    if top_p is not None and not 0 < top_p <= 1:
        wrong.append(FieldViolation(f"{at}top_p", f"{top_p} is out of range; use one above 0, at most 1"))
    if top_k is not None and top_k < 1:
        wrong.append(FieldViolation(f"{at}top_k", f"{top_k} is out of range; use a whole number from 1"))
    return wrong


def _first(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value

"""The private wire between the server and a generation process: JSON over HTTP on a unix socket. No torch.

`POST /generate` takes a request and answers one JSON object a line: chunks of each candidate as they come, then an
error if the request failed; the answer ends when every candidate has its last chunk.
`POST /score` takes token sequences and answers with one line: their log-probabilities, or an error.
`POST /count` takes a prompt and answers with one line: a count or an error.
`GET /ready` answers once the base is loaded.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kastor.dataset.media.plan_codec import decode_medium, encode_medium
from kastor.domain import errors
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Content, FunctionCall, FunctionResponse, Media, Part, Prompt, Role, Text
from kastor.domain.errors import FieldViolation, Internal, InvalidArgument, KastorError
from kastor.domain.generation import (
    Chunk,
    FinishReason,
    GenerateRequest,
    ResolvedMedia,
    ResolvedMedium,
    ResponseFormat,
    Sampling,
    TokenLogprob,
    TokenStep,
)
from kastor.domain.job import Rendering
from kastor.models.chat.render import PictureSpan, RenderedExample
from kastor.serving.engine import ScoreRequest

EncodedPart = str | int | dict[str, str]
"""A part: text, the index of a medium in the list of media, or a function's call or response."""
READY, GENERATE, SCORE, COUNT = "/ready", "/generate", "/score", "/count"
SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))

ERRORS = {
    kind.__name__: kind
    for kind in (
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.PermissionDenied,
        errors.ResourceExhausted,
        errors.FailedPrecondition,
        errors.Unimplemented,
        errors.Internal,
        errors.Unavailable,
        errors.DataLoss,
        errors.Unauthenticated,
    )
}


def encode_prompt(prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> bytes:
    """A prompt, its media and the rendering to count by, as JSON."""
    return orjson.dumps(_prompt_object(prompt, shown) | {"rendering": rendering})


def decode_prompt(body: bytes) -> tuple[Prompt, ResolvedMedia, Rendering]:
    """The prompt of a JSON body, its media, which are now named by their index, and the rendering."""
    fields = orjson.loads(body)
    return (*_prompt(fields), Rendering(fields["rendering"]))


def encode_request(request: GenerateRequest) -> bytes:
    """A request as JSON."""
    sampling = {name: getattr(request.sampling, name) for name in SAMPLING}
    form = request.sampling.form
    if form is not None:
        sampling["form"] = {"field": form.field, "schema": form.schema, "choices": form.choices}
    return orjson.dumps(
        {
            "base": request.base_model,
            "adapter": _adapter_object(request.adapter),
            "candidates": request.num_candidates,
            "prompt": _prompt_object(request.prompt, request.shown),
            "sampling": sampling,
            "rendering": request.rendering,
        }
    )


def decode_request(body: bytes) -> GenerateRequest:
    """The request of a JSON body."""
    fields = orjson.loads(body)
    values = fields["sampling"]
    form = values["form"]
    if form is not None:
        form = ResponseFormat(form["field"], form["schema"], tuple(form["choices"]))
    sampling = Sampling(**values | {"stop_sequences": tuple(values["stop_sequences"]), "form": form})
    prompt, shown = _prompt(fields["prompt"])
    adapter, rendering = _adapter(fields["adapter"]), Rendering(fields["rendering"])
    return GenerateRequest(fields["base"], prompt, sampling, adapter, fields["candidates"], shown, rendering)


def encode_event(event: Chunk | KastorError) -> bytes:
    """A line of an answer."""
    if isinstance(event, KastorError):
        return encode_error(event)
    fields: dict[str, Any] = {"text": event.text, "prompt": event.prompt_tokens, "output": event.output_tokens}
    if event.finish_reason is not None:
        fields["finish"] = event.finish_reason
    if event.index:
        fields["index"] = event.index
    if event.steps:
        fields["steps"] = [[_logprob_list(one) for one in (step.chosen, *step.top)] for step in event.steps]
    return orjson.dumps(fields) + b"\n"


def decode_chunk(line: str | bytes) -> Chunk:
    """The chunk of a line.

    Raises:
        KastorError: the line carries one.

    """
    fields = _fields(line)
    finish = fields.get("finish")
    return Chunk(
        fields["text"],
        fields["prompt"],
        fields["output"],
        None if finish is None else FinishReason(finish),
        fields.get("index", 0),
        tuple(_step(*step) for step in fields.get("steps", ())),
    )


def encode_count(num_tokens: int) -> bytes:
    """The line that answers a count."""
    return orjson.dumps({"tokens": num_tokens}) + b"\n"


def decode_count(line: str | bytes) -> int:
    """The count of a line.

    Raises:
        KastorError: the line carries one.

    """
    return int(_fields(line)["tokens"])


def encode_score_request(request: ScoreRequest) -> bytes:
    """Token sequences to be scored, as JSON."""
    places = {media: place for place, media in enumerate(request.shown)}
    fields = {
        "base": request.base_model,
        "adapter": _adapter_object(request.adapter),
        "media": [_medium(*one) for one in request.shown.items()],
        "sequences": [_sequence_object(sequence, places) for sequence in request.sequences],
    }
    return orjson.dumps(fields)


def decode_score_request(body: bytes) -> ScoreRequest:
    """The request of a JSON body; its media are named by their index."""
    fields = orjson.loads(body)
    media = [_decode_shown(place, held) for place, held in enumerate(fields["media"])]
    sequences = tuple(_sequence(held, media) for held in fields["sequences"])
    return ScoreRequest(fields["base"], sequences, _adapter(fields["adapter"]), dict(media))


def encode_scores(scores: Sequence[list[float]]) -> bytes:
    """The line that answers a request for scores."""
    return orjson.dumps({"scores": scores}) + b"\n"


def decode_scores(line: str | bytes) -> list[list[float]]:
    """The scores of a line.

    Raises:
        KastorError: the line carries one.

    """
    scores: list[list[float]] = _fields(line)["scores"]
    return scores


def encode_error(error: KastorError) -> bytes:
    """An error as a line; a class that is not in `ERRORS` is sent as its nearest base class that is."""
    name = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in ERRORS), Internal.__name__)
    violations = error.violations if isinstance(error, InvalidArgument) else ()
    fields = {
        "kind": name,
        "message": error.message,
        "reason": error.reason,
        "violations": [[violation.field, violation.description] for violation in violations],
    }
    return orjson.dumps({"error": fields}) + b"\n"


def _fields(line: str | bytes) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(line)
    error = fields.get("error")
    if error is None:
        return fields
    kind = ERRORS.get(error["kind"], Internal)
    if kind is InvalidArgument:
        violations = tuple(FieldViolation(*pair) for pair in error["violations"])
        raise InvalidArgument(error["message"], violations=violations, reason=error["reason"])
    raise kind(error["message"], reason=error["reason"])


def _adapter_object(ref: AdapterRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"job": ref.job_id, "step": ref.step}


def _adapter(fields: dict[str, Any] | None) -> AdapterRef | None:
    return None if fields is None else AdapterRef(fields["job"], fields["step"])


def _sequence_object(sequence: RenderedExample, places: Mapping[Media, int]) -> dict[str, Any]:
    pictures = [(places[p.media], p.index, p.start, p.num_tokens, p.offset, p.columns) for p in sequence.pictures]
    supervised = [place for place, scored in enumerate(sequence.supervised) if scored]
    return {"ids": sequence.token_ids, "scored": supervised, "pictures": pictures, "grid": sequence.on_a_grid}


def _sequence(held: dict[str, Any], media: Sequence[tuple[Media, ResolvedMedium]]) -> RenderedExample:
    supervised = set(held["scored"])
    pictures = tuple(
        PictureSpan(media[place][0], index, start, num_tokens, offset=offset, columns=columns)
        for place, index, start, num_tokens, offset, columns in held["pictures"]
    )
    ids = held["ids"]
    return RenderedExample(ids, [place in supervised for place in range(len(ids))], pictures, held["grid"])


def _logprob_list(one: TokenLogprob) -> list[object]:
    return [one.text, one.token_id, one.logprob]


def _step(chosen: list[Any], *top: list[Any]) -> TokenStep:
    return TokenStep(TokenLogprob(*chosen), tuple(TokenLogprob(*one) for one in top))


def _prompt_object(prompt: Prompt, shown: ResolvedMedia) -> dict[str, Any]:
    places = {media: place for place, media in enumerate(shown)}
    turns = [{"role": turn.role, "parts": _parts_list(turn.parts, places)} for turn in prompt.contents]
    system = None if prompt.system is None else _parts_list(prompt.system, places)
    fields: dict[str, Any] = {"system": system, "turns": turns}
    if shown:
        fields["media"] = [_medium(*one) for one in shown.items()]
    if prompt.tools:
        fields |= {"tools": prompt.tools, "call": prompt.must_call}
    return fields


def _parts_list(parts: tuple[Part, ...], places: Mapping[Media, int]) -> list[EncodedPart]:
    return [_encode_part(part, places) for part in parts]


def _encode_part(part: Part, places: Mapping[Media, int]) -> EncodedPart:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Media):
        return places[part]
    if isinstance(part, FunctionCall):
        return {"call": part.name, "json": part.arguments}
    return {"response": part.name, "json": part.response}


def _medium(media: Media, shown: ResolvedMedium) -> dict[str, Any]:
    return {"type": media.mime_type, "path": str(shown.path), "place": shown.place} | encode_medium(shown.planned)


def _prompt(fields: dict[str, Any]) -> tuple[Prompt, ResolvedMedia]:
    media = [_decode_shown(place, held) for place, held in enumerate(fields.get("media", ()))]
    turns = tuple(Content(Role(turn["role"]), _parts(turn["parts"], media)) for turn in fields["turns"])
    system = fields["system"]
    instruction = None if system is None else _parts(system, media)
    return Prompt(turns, instruction, fields.get("tools", ""), must_call=fields.get("call", False)), dict(media)


def _decode_shown(place: int, held: dict[str, Any]) -> tuple[Media, ResolvedMedium]:
    """The medium named by its index, which tells apart one file that is shown in two ways."""
    return Media(held["type"], str(place)), ResolvedMedium(decode_medium(held), Path(held["path"]), held["place"])


def _parts(encoded: list[EncodedPart], media: Sequence[tuple[Media, ResolvedMedium]]) -> tuple[Part, ...]:
    return tuple(_part(one, media) for one in encoded)


def _part(one: EncodedPart, media: Sequence[tuple[Media, ResolvedMedium]]) -> Part:
    if isinstance(one, str):
        return Text(one)
    if isinstance(one, int):
        return media[one][0]
    return FunctionCall(one["call"], one["json"]) if "call" in one else FunctionResponse(one["response"], one["json"])

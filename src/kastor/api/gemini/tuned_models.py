"""Tuned models, their operations and base models as messages of the Gemini API, and the crossing to the domain.

Mirrors `google.ai.generativelanguage.v1beta` (gemini-api.md §2, §3.2–3.5). What only the service may set is accepted
and ignored where clients echo it back; what this server cannot honour is refused by name.
"""

import math
from typing import Annotated

from pydantic import Field

from kastor.api.gemini.model_state import MODEL_STATE
from kastor.api.google.hyperparameters import (
    HyperparametersIn,
    HyperparametersOut,
    hyperparameters_out,
    requested_hyperparameters,
)
from kastor.api.google.model_names import BASE, TUNED, parse_source_name, tuned_model_name
from kastor.api.http.errors import TYPE_URL, public_message
from kastor.api.http.protojson import Float32, Int32, Items, ProtoModel, shortest_float32, timestamp
from kastor.domain.content import Example
from kastor.domain.errors import Code, FieldViolation, InvalidArgument
from kastor.domain.job import State, StepMetrics
from kastor.domain.request_limits import Limits
from kastor.models.catalog import BaseModel
from kastor.services.tuning_request import ModelChange, NewTuning
from kastor.services.views import TunedModelView

PACKAGE = TYPE_URL + "google.ai.generativelanguage.v1beta."
SMALLEST_LOSS = 1e-9  # a zero would be left out of the JSON, and out of people's plots with it
OutputOnly = object | None  # legacy clients echo whole resources back; numbers for enums included

MUTABLE = ("display_name", "description", "temperature", "top_p", "top_k")
METHODS = ("generateContent", "countTokens", "createTunedModel")
MAX_TEMPERATURE = 2.0


class TuningExampleIn(ProtoModel):
    """TuningExample."""

    text_input: str
    output: str


class TuningExamplesIn(ProtoModel):
    """TuningExamples."""

    examples: Items[TuningExampleIn] | None = None


class DatasetIn(ProtoModel):
    """Dataset."""

    examples: TuningExamplesIn | None = None


class TuningTaskIn(ProtoModel):
    """TuningTask, as asked for."""

    training_data: DatasetIn | None = None
    hyperparameters: HyperparametersIn | None = None
    start_time: OutputOnly = None
    complete_time: OutputOnly = None
    snapshots: OutputOnly = None


class SourceIn(ProtoModel):
    """TunedModelSource. Its base model is the source's, whatever clients send along."""

    tuned_model: str | None = None
    base_model: OutputOnly = None


class TunedModelIn(ProtoModel):
    """TunedModel, as asked for."""

    display_name: str | None = None
    description: str | None = None
    base_model: str | None = None
    tuned_model_source: SourceIn | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None
    tuning_task: TuningTaskIn | None = None
    reader_project_numbers: Items[object] | None = None
    name: OutputOnly = None
    state: OutputOnly = None
    create_time: OutputOnly = None
    update_time: OutputOnly = None


class SnapshotOut(ProtoModel):
    """TuningSnapshot."""

    step: int
    epoch: int
    mean_loss: Float32 | None
    compute_time: str | None


class TuningTaskOut(ProtoModel):
    """TuningTask. Never the training data."""

    start_time: str | None
    complete_time: str | None
    snapshots: list[SnapshotOut] | None
    hyperparameters: HyperparametersOut


class SourceOut(ProtoModel):
    """TunedModelSource. The legacy SDK needs both fields."""

    tuned_model: str
    base_model: str


class TunedModelOut(ProtoModel):
    """TunedModel, with either a base model or a tuned one as its source."""

    type_url: Annotated[str | None, Field(alias="@type")] = None
    name: str
    display_name: str | None
    description: str | None
    state: str
    base_model: str | None
    tuned_model_source: SourceOut | None
    temperature: Float32
    top_p: Float32
    top_k: int | None
    create_time: str | None
    update_time: str | None
    tuning_task: TuningTaskOut


class CreateMetadata(ProtoModel):
    """CreateTunedModelMetadata. `completed_percent` only with snapshots: scripts then read the last one."""

    type_url: Annotated[str, Field(alias="@type")] = PACKAGE + "CreateTunedModelMetadata"
    total_steps: int
    completed_steps: int | None
    completed_percent: Float32 | None
    snapshots: list[SnapshotOut] | None
    tuned_model: str


class StatusOut(ProtoModel):
    """google.rpc.Status inside an operation: gRPC codes."""

    code: int
    message: str


class OperationOut(ProtoModel):
    """google.longrunning.Operation."""

    name: str
    metadata: CreateMetadata
    done: bool | None
    response: TunedModelOut | None
    error: StatusOut | None


class ModelOut(ProtoModel):
    """Model."""

    name: str
    base_model_id: str
    version: str
    display_name: str
    description: str
    input_token_limit: int
    output_token_limit: int
    supported_generation_methods: tuple[str, ...]
    temperature: Float32
    max_temperature: Float32
    top_p: Float32
    top_k: int | None


def new_tuning(body: TunedModelIn, tuned_model_id: str | None, limits: Limits) -> NewTuning:
    """What the body asks for, within the limits.

    Raises:
        InvalidArgument: it asks for what this server does not offer.

    """
    _refuse_unoffered(body)
    task = body.tuning_task or TuningTaskIn()
    dataset = task.training_data or DatasetIn()
    pairs = (dataset.examples or TuningExamplesIn()).examples or []
    return NewTuning(
        source=parse_source_name(_source(body)),
        limits=limits,
        examples=tuple(Example.pair(pair.text_input, pair.output) for pair in pairs),
        hyperparameters=requested_hyperparameters(task.hyperparameters or HyperparametersIn()),
        tuned_model_id=tuned_model_id,
        display_name=body.display_name or "",
        description=body.description or "",
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
    )


def _source(body: TunedModelIn) -> str:
    """The base model's or the tuned model's name; google-genai puts the latter into baseModel."""
    named = body.tuned_model_source.tuned_model if body.tuned_model_source else None
    if not named:
        return body.base_model or ""
    if body.base_model:
        raise InvalidArgument.of("tunedModelSource", "is given with baseModel; set one of them")
    if not named.startswith(TUNED):
        raise InvalidArgument.of("tunedModelSource.tunedModel", f"{named!r} is not of the form {TUNED}ID")
    return named


def model_change(body: TunedModelIn, mask: str | None) -> ModelChange:
    """The fields to set: those of the mask, absent ones cleared; without a mask, those that the body fills.

    Output-only and immutable fields in either are ignored, as clients send back whatever they got.

    Raises:
        InvalidArgument: the mask names no field of the resource, or the change is not offered.

    """
    filled = {name for name in MUTABLE if getattr(body, name) not in (None, "")}
    chosen = filled if mask is None else _masked(mask)
    if mask is None or "reader_project_numbers" in chosen:
        _refuse_unoffered(body, only=("reader_project_numbers",))
    change = ModelChange()
    if "display_name" in chosen:
        change["display_name"] = body.display_name or ""
    if "description" in chosen:
        change["description"] = body.description or ""
    if "temperature" in chosen:
        change["temperature"] = body.temperature
    if "top_p" in chosen:
        change["top_p"] = body.top_p
    if "top_k" in chosen:
        change["top_k"] = body.top_k
    return change


def _masked(mask: str) -> set[str]:
    names = set()
    for path in filter(None, map(str.strip, mask.split(","))):
        name, _, below = path.partition(".")
        name = _snake(name)
        if name == "*":
            return set(MUTABLE) | {"reader_project_numbers"}
        if name not in TunedModelIn.model_fields or (below and name in MUTABLE):
            raise InvalidArgument.of("updateMask", f"{path!r} is not a field of TunedModel; use {', '.join(MUTABLE)}")
        names.add(name)
    return names


def _snake(name: str) -> str:
    aliases = {field.alias: own for own, field in TunedModelIn.model_fields.items()}
    return aliases.get(name, name)


def _refuse_unoffered(body: TunedModelIn, only: tuple[str, ...] | None = None) -> None:
    unoffered = {
        "reader_project_numbers": ("readerProjectNumbers", "sharing with projects is not offered; leave it out"),
    }
    said = [unoffered[name] for name in only or unoffered if getattr(body, name)]
    if said:
        raise InvalidArgument.of_all(tuple(FieldViolation(*one) for one in said))


def tuned_model(tuning: TunedModelView, *, typed: bool = False) -> TunedModelOut:
    """The resource; `typed` as the response of an operation."""
    model, job = tuning.model, tuning.job
    base, source = BASE + model.base_model, None
    if model.source:
        source = SourceOut(tuned_model=tuned_model_name(model.source), base_model=base)
    return TunedModelOut(
        type_url=PACKAGE + "TunedModel" if typed else None,
        name=tuned_model_name(model.id),
        display_name=model.display_name or None,
        description=model.description or None,
        state=MODEL_STATE[job.state].value,
        base_model=None if source else base,
        tuned_model_source=source,
        temperature=tuning.sampling.temperature,
        top_p=tuning.sampling.top_p,
        top_k=tuning.sampling.top_k,
        create_time=timestamp(model.created_at),
        update_time=timestamp(max(model.updated_at, job.updated_at)),
        tuning_task=TuningTaskOut(
            start_time=timestamp(job.started_at or job.created_at),
            complete_time=timestamp(job.finished_at),
            snapshots=_snapshots(tuning),
            hyperparameters=hyperparameters_out(job.spec.hyperparameters),
        ),
    )


def operation(tuning: TunedModelView) -> OperationOut:
    """The operation that makes the model."""
    job, total = tuning.job, tuning.job.spec.total_steps
    done = job.completed_steps
    metadata = CreateMetadata(
        total_steps=total,
        completed_steps=done or None,
        completed_percent=shortest_float32(100 * done / total) if tuning.snapshots and done else None,
        snapshots=_snapshots(tuning),
        tuned_model=tuned_model_name(tuning.model.id),
    )
    ok = job.state is State.SUCCEEDED
    return OperationOut(
        name=f"{tuned_model_name(tuning.model.id)}/operations/{job.id}",
        metadata=metadata,
        done=job.state.terminal or None,
        response=tuned_model(tuning, typed=True) if ok else None,
        error=_status(tuning) if job.state.terminal and not ok else None,
    )


def _status(tuning: TunedModelView) -> StatusOut:
    error = tuning.job.error
    if error is None:
        return StatusOut(code=Code.CANCELLED, message="The tuning was cancelled.")
    return StatusOut(code=error.code, message=public_message(error.code, error.message))


def _snapshots(tuning: TunedModelView) -> list[SnapshotOut] | None:
    return [snapshot_out(snapshot) for snapshot in tuning.snapshots] or None


def snapshot_out(snapshot: StepMetrics) -> SnapshotOut:
    """The snapshot; none of its numbers is ever 0, as the legacy SDK drops zeros."""
    loss = snapshot.mean_loss
    return SnapshotOut(
        step=snapshot.step,
        epoch=snapshot.epoch,
        mean_loss=max(loss, SMALLEST_LOSS) if math.isfinite(loss) else None,
        compute_time=timestamp(snapshot.computed_at),
    )


def base_model(name: str, base: BaseModel) -> ModelOut:
    """The base under one of its names; an alias says which open model really serves."""
    alias = name != base.id
    said = f"Alias: served by {base.name}, not by the model of this name. " if alias else ""
    return ModelOut(
        name=f"models/{name}",
        base_model_id=base.id,
        version="001",
        display_name=f"{name} ({base.display_name})" if alias else base.display_name,
        description=said + base.description,
        input_token_limit=base.input_token_limit,
        output_token_limit=base.output_token_limit,
        supported_generation_methods=METHODS,
        temperature=base.sampling.temperature,
        max_temperature=MAX_TEMPERATURE,
        top_p=base.sampling.top_p,
        top_k=base.sampling.top_k,
    )

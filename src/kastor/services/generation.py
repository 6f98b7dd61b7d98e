"""The use cases of generation: answers and counts, by base models and tuned models."""

from collections import abc
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kastor.dataset.media.sampling_record import SamplingRecord
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Prompt
from kastor.domain.counts import counted
from kastor.domain.errors import MODEL, DataLoss, FailedPrecondition
from kastor.domain.generation import Chunk, GenerateRequest
from kastor.domain.job import Rendering, State, TuningJob, TuningSpec
from kastor.domain.media import MediaKind
from kastor.domain.model_ref import ModelRef
from kastor.domain.permission import Principal
from kastor.domain.request_limits import Limits
from kastor.domain.tools import parse_declarations
from kastor.domain.tuned_model import TunedModel
from kastor.models.catalog import BaseModel, Catalog
from kastor.models.chat.tool_parser import parse_tool_calls
from kastor.services.access import ModelAccess
from kastor.services.generation_request import (
    GenerationParams,
    PromptSupport,
    default_sampling,
    forced_call_format,
    resolve_sampling,
    validate_functions,
    validate_tuned_prompt,
    validate_tuned_request,
)
from kastor.services.prompt_media import PromptMediaResolver, media_tokens
from kastor.services.trained_prompts import TrainedPromptKinds
from kastor.store.jobs import JobStore

if TYPE_CHECKING:
    from kastor.serving.engine import Engine


@dataclass(frozen=True, slots=True)
class GenerationStream:
    """An answer on its way, with all its candidates; `base` is what really generates it."""

    base: BaseModel
    chunks: abc.Generator[Chunk, None, None]
    media_tokens: abc.Mapping[MediaKind, int] = field(default_factory=dict)  # those of the prompt that are pictures


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How many tokens a prompt has, and how many of them are pictures, by the kind of what they come from."""

    total: int
    media: abc.Mapping[MediaKind, int]


class GenerationService:
    """Every use case of generation; safe to use from several threads at once."""

    def __init__(
        self,
        *,
        access: ModelAccess,
        jobs: JobStore,
        catalog: Catalog,
        generator: "Engine",
        sights: PromptMediaResolver,
        trained: abc.Callable[[str], SamplingRecord | None],
        prompts: TrainedPromptKinds,
        check_base: abc.Callable[[BaseModel], None] = lambda base: None,
    ) -> None:
        """`trained` says how a tuned model was shown media, by the id of its job; `prompts`, what else it was given.

        `check_base` raises where this installation may not use a base.
        """
        self._check_base = check_base
        self._access = access
        self._jobs = jobs
        self._catalog = catalog
        self._generator = generator
        self._sights = sights
        self._trained = trained
        self._prompts = prompts

    def base_models(self) -> tuple[tuple[str, BaseModel], ...]:
        """Every name of a base, the aliases last, and what it means."""
        own = tuple((base.id, base) for base in self._catalog.bases.values())
        return own + tuple((alias, self._catalog.base(alias)) for alias in self._catalog.aliases)

    def base_model(self, name: str) -> BaseModel:
        """The base that `name` means.

        Raises:
            NotFound: names near ones.

        """
        return self._catalog.base(name)

    def stream(self, ref: ModelRef, ask: GenerationParams, caller: Principal, limits: Limits) -> GenerationStream:
        """The model's answer, generated while its chunks are read; `limits` are those of the caller's dialect.

        Raises:
            InvalidArgument: the prompt or a value is out of bounds, or a medium cannot be used.
            NotFound: there is no such model.
            FailedPrecondition: the tuned model is not ready.
            DataLoss: a file of the tuned model is damaged; names both.
            ResourceExhausted: there is no room for media.

        """
        if ref.tuned:
            model, job = self._asked_model(ref.id, ask, caller, limits)
            base, adapter, rendering = self._catalog.base(job.spec.base_model), AdapterRef(job.id), job.spec.rendering
            default = default_sampling(model, base.sampling)
        else:
            base, adapter, rendering = self._catalog.base(ref.id), None, Rendering.PUBLISHED
            default = base.sampling
        self._check_base(base)
        style = base.family.functions
        validate_functions(ask.prompt, style, base.name)
        chosen = resolve_sampling(ask, default, base.output_token_limit)
        if style is not None and ask.must_call:
            chosen = replace(chosen, form=forced_call_format(ask.must_call, style))
        vision = base.family.vision
        shown = self._sights.resolve(ask.prompt, vision, base.name, caller, limits, self._as_trained(adapter, ref.id))
        request = GenerateRequest(base.id, ask.prompt, chosen, adapter, ask.num_candidates, shown, rendering)
        chunks = _chunks_of(ref, base, self._generator.generate(request))
        if style is not None and ask.prompt.tools:
            names = {one.name for one in parse_declarations(ask.prompt.tools)}
            chunks = parse_tool_calls(chunks, style, names, must_call=ask.prompt.must_call)
        return GenerationStream(base, chunks, media_tokens(ask.prompt, shown))

    def count_tokens(self, ref: ModelRef, prompt: Prompt, caller: Principal, limits: Limits) -> TokenCounts:
        """How many tokens the prompt has for the model; `limits` are those of the caller's dialect.

        Raises:
            InvalidArgument: a medium cannot be used.
            NotFound: there is no such model.
            ResourceExhausted: there is no room for media.

        """
        adapter, base_name, rendering = None, ref.id, Rendering.PUBLISHED
        if ref.tuned:
            model = self._access.model(ref.id, caller)
            spec = self._jobs.get(model.job_id).spec
            validate_tuned_prompt(prompt, self._support(model, spec), limits)
            adapter, base_name, rendering = AdapterRef(model.job_id), spec.base_model, spec.rendering
        base = self._catalog.base(base_name)
        self._check_base(base)
        validate_functions(prompt, base.family.functions, base.name)
        vision = base.family.vision
        shown = self._sights.resolve(prompt, vision, base.name, caller, limits, self._as_trained(adapter, ref.id))
        total = self._generator.count_tokens(base.id, prompt, shown, rendering)
        return TokenCounts(total, media_tokens(prompt, shown))

    def _as_trained(self, adapter: AdapterRef | None, model_id: str) -> abc.Callable[[], SamplingRecord | None]:
        def trained() -> SamplingRecord | None:
            if adapter is None:
                return None
            with _tuned_model_named(model_id):
                return self._trained(adapter.job_id)

        return trained

    def _asked_model(
        self, model_id: str, ask: GenerationParams, caller: Principal, limits: Limits
    ) -> tuple[TunedModel, TuningJob]:
        model = self._access.model(model_id, caller)
        job = self._jobs.get(model.job_id)
        require_active(model, job)
        validate_tuned_request(ask, self._support(model, job.spec), limits)
        return model, job

    def _support(self, model: TunedModel, spec: TuningSpec) -> PromptSupport:
        return PromptSupport(model.id, spec.file is not None, lambda: self._prompts.get(model))


def _chunks_of(
    ref: ModelRef, base: BaseModel, chunks: abc.Generator[Chunk, None, None]
) -> abc.Generator[Chunk, None, None]:
    with _tuned_model_named(ref.id) if ref.tuned else _base_model_named(base.name):
        yield from chunks


@contextmanager
def _tuned_model_named(model_id: str) -> abc.Iterator[None]:
    """Name the model in errors about its files, which know it by its job only."""
    try:
        yield
    except DataLoss as error:
        raise DataLoss(f"{MODEL} cannot answer. {error.message}", model_id=model_id) from error


@contextmanager
def _base_model_named(name: str) -> abc.Iterator[None]:
    """Name the base in errors about its files."""
    try:
        yield
    except DataLoss as error:
        raise DataLoss(f"{name} cannot answer. {error.message}") from error


def require_active(model: TunedModel, job: TuningJob) -> None:
    """Nothing, if the model can be used.

    Raises:
        FailedPrecondition: its job has not ended, which says how far it is, or failed, which says why.

    """
    if not job.state.terminal:
        raise FailedPrecondition(
            f"Tuned model {MODEL} is not ready: its job is {job.state}, {job.completed_steps} of "
            f"{counted(job.spec.total_steps, 'step')} done. Try again when the job has succeeded.",
            model_id=model.id,
        )
    if job.state is not State.SUCCEEDED:
        why = job.error.message if job.error else "its tuning was cancelled."
        raise FailedPrecondition(f"Tuned model {MODEL} cannot be used: {why} Tune a new one.", model_id=model.id)

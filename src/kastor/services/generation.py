"""The use cases of generation: answers and counts, by base models and tuned models."""

from collections import abc
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kastor.dataset.media.sampling_record import SamplingRecord
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Prompt
from kastor.domain.counts import counted
from kastor.domain.errors import DataLoss, FailedPrecondition
from kastor.domain.generation import Chunk, GenerateRequest
from kastor.domain.job import Rendering, TuningJob, TuningSpec
from kastor.domain.media import MediaKind
from kastor.domain.permission import Principal
from kastor.domain.request_limits import Limits
from kastor.domain.tools import parse_declarations
from kastor.domain.tuned_model import MODEL_STATE, TUNED, ModelState, TunedModel
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
        limits: Limits,
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
        self._limits = limits
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

    def stream(self, name: str, ask: GenerationParams, caller: Principal) -> GenerationStream:
        """An answer by the base model `models/…` or the tuned model `tunedModels/…`; made as its chunks are read.

        Raises:
            InvalidArgument: the prompt or a value is out of bounds, or a medium cannot be used.
            NotFound: there is no such model.
            FailedPrecondition: the tuned model is not ready.
            DataLoss: a file of the tuned model is damaged; names both.
            ResourceExhausted: there is no room for media.

        """
        if name.startswith(TUNED):
            model, job = self._asked_model(name, ask, caller)
            base, adapter, rendering = self._catalog.base(job.spec.base_model), AdapterRef(job.id), job.spec.rendering
            default = default_sampling(model, base.sampling)
        else:
            base, adapter, rendering = self._catalog.base(name), None, Rendering.PUBLISHED
            default = base.sampling
        self._check_base(base)
        style = base.family.functions
        validate_functions(ask.prompt, style, base.name)
        chosen = resolve_sampling(ask, default, base.output_token_limit)
        if style is not None and ask.must_call:
            chosen = replace(chosen, form=forced_call_format(ask.must_call, style))
        vision = base.family.vision
        shown = self._sights.resolve(ask.prompt, vision, base.name, caller, self._as_trained(adapter, name))
        request = GenerateRequest(base.id, ask.prompt, chosen, adapter, ask.num_candidates, shown, rendering)
        chunks = _chunks_of(name, self._generator.generate(request))
        if style is not None and ask.prompt.tools:
            names = {one.name for one in parse_declarations(ask.prompt.tools)}
            chunks = parse_tool_calls(chunks, style, names, must_call=ask.prompt.must_call)
        return GenerationStream(base, chunks, media_tokens(ask.prompt, shown))

    def count_tokens(self, name: str, prompt: Prompt, caller: Principal) -> TokenCounts:
        """How many tokens the prompt is for the model.

        Raises:
            InvalidArgument: a medium cannot be used.
            NotFound: there is no such model.
            ResourceExhausted: there is no room for media.

        """
        adapter, base_name, rendering = None, name, Rendering.PUBLISHED
        if name.startswith(TUNED):
            model = self._access.model(name.removeprefix(TUNED), caller)
            spec = self._jobs.get(model.job_id).spec
            validate_tuned_prompt(prompt, self._support(model, spec), self._limits)
            adapter, base_name, rendering = AdapterRef(model.job_id), spec.base_model, spec.rendering
        base = self._catalog.base(base_name)
        self._check_base(base)
        validate_functions(prompt, base.family.functions, base.name)
        vision = base.family.vision
        shown = self._sights.resolve(prompt, vision, base.name, caller, self._as_trained(adapter, name))
        total = self._generator.count_tokens(base.id, prompt, shown, rendering)
        return TokenCounts(total, media_tokens(prompt, shown))

    def _as_trained(self, adapter: AdapterRef | None, name: str) -> abc.Callable[[], SamplingRecord | None]:
        def trained() -> SamplingRecord | None:
            if adapter is None:
                return None
            with _model_named(name):
                return self._trained(adapter.job_id)

        return trained

    def _asked_model(self, name: str, ask: GenerationParams, caller: Principal) -> tuple[TunedModel, TuningJob]:
        model = self._access.model(name.removeprefix(TUNED), caller)
        job = self._jobs.get(model.job_id)
        require_active(model, job)
        validate_tuned_request(ask, self._support(model, job.spec), self._limits)
        return model, job

    def _support(self, model: TunedModel, spec: TuningSpec) -> PromptSupport:
        return PromptSupport(model.name, spec.file is not None, lambda: self._prompts.get(model))


def _chunks_of(name: str, chunks: abc.Generator[Chunk, None, None]) -> abc.Generator[Chunk, None, None]:
    with _model_named(name):
        yield from chunks


@contextmanager
def _model_named(name: str) -> abc.Iterator[None]:
    """Put the model's name before what is said of its files: those know the model by its job."""
    try:
        yield
    except DataLoss as error:
        raise DataLoss(f"{name} cannot answer. {error.message}") from error


def require_active(model: TunedModel, job: TuningJob) -> None:
    """Nothing, if the model can be used.

    Raises:
        FailedPrecondition: it is still being made, or failed; says how far, or why.

    """
    state = MODEL_STATE[job.state]
    if state is ModelState.CREATING:
        raise FailedPrecondition(
            f"Tuned model {model.name} is CREATING (its job is {job.state}, {job.completed_steps} of "
            f"{counted(job.spec.total_steps, 'step')} done). Try again when its state is ACTIVE."
        )
    if state is ModelState.FAILED:
        why = job.error.message if job.error else "its tuning was cancelled."
        raise FailedPrecondition(f"Tuned model {model.name} is FAILED: {why} Tune a new one.")

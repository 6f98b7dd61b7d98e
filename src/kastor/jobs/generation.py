"""The use cases of generation: answers and counts, by base models and tuned models."""

from collections import abc
from dataclasses import dataclass
from typing import Protocol

from kastor.domain.content import Prompt
from kastor.domain.errors import FailedPrecondition
from kastor.domain.generation import Chunk, GenerateRequest
from kastor.domain.job import TuningJob
from kastor.domain.limits import Limits
from kastor.domain.permission import Principal
from kastor.domain.tuned_model import MODEL_STATE, TUNED, ModelState, TunedModel
from kastor.jobs.access import Access
from kastor.jobs.asks import Ask, check_tuned, model_sampling, sampling
from kastor.models.catalog import BaseModel, Catalog
from kastor.store.jobs import JobStore


class Generator(Protocol):
    """What generates: an engine, wherever it runs."""

    def stream(self, request: GenerateRequest) -> abc.Generator[Chunk, None, None]:
        """The candidates as they are made. Blocks between pieces; closing it ends the generation."""

    def count_tokens(self, base_model: str, prompt: Prompt) -> int:
        """How many tokens the prompt is for this base."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way, with all its candidates; `base` is what really generates it."""

    base: BaseModel
    chunks: abc.Generator[Chunk, None, None]


class GenerationService:
    """Every use case of generation; safe to use from several threads at once."""

    def __init__(
        self, *, access: Access, jobs: JobStore, catalog: Catalog, generator: Generator, limits: Limits
    ) -> None:
        self._access = access
        self._jobs = jobs
        self._catalog = catalog
        self._generator = generator
        self._limits = limits

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

    def stream(self, name: str, ask: Ask, caller: Principal) -> Answer:
        """An answer by the base model `models/…` or the tuned model `tunedModels/…`; made as its chunks are read.

        Raises:
            InvalidArgument: the prompt or a value is out of bounds.
            NotFound: there is no such model.
            FailedPrecondition: the tuned model is not ready.

        """
        if name.startswith(TUNED):
            model, job = self._asked_model(name, ask, caller)
            base, adapter = self._catalog.base(job.spec.base_model), job.id
            default = model_sampling(model, base.sampling)
        else:
            base, adapter = self._catalog.base(name), None
            default = base.sampling
        chosen = sampling(ask, default, base.output_token_limit)
        request = GenerateRequest(base.id, ask.prompt, chosen, adapter, ask.num_candidates)
        return Answer(base, self._generator.stream(request))

    def count_tokens(self, name: str, prompt: Prompt, caller: Principal) -> int:
        """How many tokens the prompt is for the model.

        Raises:
            NotFound: there is no such model.

        """
        if name.startswith(TUNED):
            name = self._jobs.get(self._access.model(name.removeprefix(TUNED), caller).job_id).spec.base_model
        return self._generator.count_tokens(self._catalog.base(name).id, prompt)

    def _asked_model(self, name: str, ask: Ask, caller: Principal) -> tuple[TunedModel, TuningJob]:
        model = self._access.model(name.removeprefix(TUNED), caller)
        job = self._jobs.get(model.job_id)
        require_active(model, job)
        check_tuned(ask, model.name, self._limits)
        return model, job


def require_active(model: TunedModel, job: TuningJob) -> None:
    """Nothing, if the model can be used.

    Raises:
        FailedPrecondition: it is still being made, or failed; says how far, or why.

    """
    state = MODEL_STATE[job.state]
    if state is ModelState.CREATING:
        raise FailedPrecondition(
            f"Tuned model {model.name} is CREATING (its job is {job.state}, {job.completed_steps} of "
            f"{job.spec.total_steps} steps done). Try again when its state is ACTIVE."
        )
    if state is ModelState.FAILED:
        why = job.error.message if job.error else "its tuning was cancelled."
        raise FailedPrecondition(f"Tuned model {model.name} is FAILED: {why} Tune a new one.")

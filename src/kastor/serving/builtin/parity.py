"""Certifies that the built-in engine serves an adapter's files as they were trained.

The files are read as the engine reads them, and go through its adapters, its cache and its batcher. Scores are compared
through the engine protocol (`kastor.serving.score_comparison`); the tensors of every layer, and an answer token by
token, are checks that only this engine allows. Nothing here knows how the trainer computed its numbers.

Shapes: S supervised tokens of an example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import kastor
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.certificate import Certificate, Tolerance
from kastor.domain.errors import Internal, KastorError, NotFound
from kastor.domain.generation import Chunk, FinishReason, Sampling, TokenStep
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.decoder.inputs import text_config
from kastor.models.load import stop_token_ids
from kastor.serving.builtin.continuous_batching import ContinuousBatcher, EngineLimits
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager, LoadedAdapter, LoraDelta, MultiLoraLinear
from kastor.serving.builtin.scoring import Embed, SequenceScorer
from kastor.serving.builtin.sequence import GenerationHandle, PictureEmbeddings
from kastor.serving.engine import ScoreRequest
from kastor.serving.score_comparison import EXACT, GoldenExample, ServedModel, compare_scores, served_otherwise

MAX_GENERATED = 16
"""Tokens of the answer that is generated: a second of the embedded base on two quiet cores."""


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """A base with one adapter, served in this process: a `Scorer` for any caller, and what the certificate checks."""

    model: Any  # transformers.PreTrainedModel, untyped
    renderer: Renderer
    adapters: AdapterManager
    cache: SlotKVCache
    adapter: LoadedAdapter
    embed: Embed | None = None

    @classmethod
    def open(
        cls,
        model: Any,  # noqa: ANN401  # as above
        renderer: Renderer,
        folder: Path,
        embed: Embed | None = None,
    ) -> "ServedAdapter":
        """The adapter in `folder` on `model`, as `load_base` gives it; `embed` computes the embeddings of pictures.

        Raises:
            FailedPrecondition: the engine refuses the adapter; says why.

        """
        adapters = AdapterManager(model, lambda _: folder, max_resident=1)
        return cls(
            model,
            renderer,
            adapters,
            SlotKVCache.like(model, renderer.vision),
            adapters.acquire(AdapterRef(folder.name)),
            embed,
        )

    @torch.inference_mode()
    def logprobs(self, examples: Sequence[RenderedExample], *, adapted: bool = True) -> list[torch.Tensor]:
        """Log-probabilities (S,) of each example's supervised tokens, prefilled as prompts are."""
        scorer = SequenceScorer(self.model, self.adapters, self.cache)
        passes = scorer.passes(examples, self.pictures, self.adapter if adapted else None)
        while True:
            try:
                next(passes)
            except StopIteration as stop:
                scores: list[torch.Tensor] = stop.value
                return scores

    def score(self, request: ScoreRequest) -> list[list[float]]:
        """Log-probabilities as `kastor.serving.engine.Scorer` has them; they are exact, as floats hold fp32."""
        if request.adapter not in (None, self.adapter.ref):
            raise NotFound(f"Adapter {request.adapter} is not loaded; {self.adapter.ref} is.")
        scores = self.logprobs(request.sequences, adapted=request.adapter is not None)
        return [scores_S.tolist() for scores_S in scores]

    def pictures(self, example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
        """The embeddings of the example's pictures, for the batcher."""
        return () if self.embed is None or not example.pictures else self.embed(example)

    @torch.inference_mode()
    def answer(self, prompt: RenderedExample) -> tuple[FinishReason, list[TokenStep]]:
        """A greedy answer to the prompt by the batcher: its finish reason and its tokens.

        Raises:
            KastorError: the batcher failed, for example because numbers are not finite.

        """
        context, events = text_config(self.model).max_position_embeddings, list[Chunk | KastorError]()
        bounds = EngineLimits(1, context, MAX_GENERATED, context, max_cache_tokens=context)
        tokens, ends = self.renderer.tokenizer, stop_token_ids(self.model, self.renderer.closing_id)
        batcher = ContinuousBatcher(self.model, self.adapters, tokens, ends, bounds, self.cache)
        greedy = Sampling(temperature=0, top_logprobs=0)
        handle: GenerationHandle = batcher.submit(
            prompt.token_ids,
            greedy,
            self.adapter.ref,
            events.append,
            pictures=self.pictures(prompt),
            positions=prompt.positions,
        )
        steps: list[TokenStep] = []
        for _ in range(len(handle.prompt_ids) + MAX_GENERATED):
            batcher.step()
            for event in events:
                if isinstance(event, KastorError):
                    raise event
                steps += event.steps
                if event.finish_reason is not None:
                    self.cache.clear()
                    return event.finish_reason, steps
            events.clear()
        raise Internal(f"Generation did not end after {MAX_GENERATED} tokens.")

    def as_model(self, base_model: str) -> ServedModel:
        """The adapter as any engine would serve it."""
        return ServedModel(self, base_model, self.adapter.ref)


def certify(
    served: ServedAdapter,
    golden: Sequence[GoldenExample],
    trained: Mapping[str, LoraDelta],
    folder: Path,
    *,
    base_model: str,
    tolerance: Tolerance = EXACT,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Certificate:
    """The proof that `served`, opened from `folder`, is what was trained.

    `trained` holds the trainer's own matrices for each layer of the base: all are applied, bit for bit, so the scores
    have only the arithmetic to prove. `served` computes in the dtype in which the golden rows were scored.

    Raises:
        Internal: what is served is not what was trained; says in which way.

    """
    num_tensors = _check_tensors(served, folder, trained)
    compared = compare_scores(served.as_model(base_model), golden, tolerance, check_cancelled)
    check_cancelled()
    finish, num_generated, difference = _check_answer(served, golden[0].prompt, tolerance)
    dtype, libraries = str(served.model.dtype).removeprefix("torch."), ("torch", "transformers", "peft")
    return Certificate(
        base_model=base_model,
        dtype=dtype,
        compared_in=dtype,
        rows=compared.rows,
        largest_difference=compared.largest,
        mean_difference=compared.mean,
        decode_difference=difference,
        tolerance=tolerance,
        rounding=None,
        effect=compared.effect,
        num_tensors=num_tensors,
        finish_reason=finish,
        num_generated=num_generated,
        versions={"kastor": kastor.__version__} | {name: version(name) for name in libraries},
    )


def _check_tensors(served: ServedAdapter, folder: Path, trained: Mapping[str, LoraDelta]) -> int:
    """How many tensors the file holds, once each of them is known to be applied and to be what was trained."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    wrapped = {n for n in served.adapter.deltas if isinstance(served.model.get_submodule(n), MultiLoraLinear)}
    for what, layers in (("were trained", trained.keys()), ("are applied", wrapped)):
        unlike = sorted(stored ^ {f"base_model.model.{name}.lora_{side}.weight" for name in layers for side in "AB"})
        if unlike:
            raise served_otherwise(
                f"{len(unlike)} tensors differ between those stored and those that {what}, for example {unlike[0]}"
            )
    for name, delta in trained.items():
        loaded = served.adapter.deltas[name]
        same = torch.equal(loaded.down_RI, delta.down_RI) and torch.equal(loaded.up_OR, delta.up_OR)
        if not same:
            raise served_otherwise(
                f"the LoRA matrices of {name} differ from the trained ones in their numbers or their scale"
            )
    return len(stored)


def _check_answer(served: ServedAdapter, prompt: RenderedExample, tolerance: Tolerance) -> tuple[str, int, float]:
    """Finish reason and length of an answer, and how far its tokens' scores differ from those in a prompt."""
    prompt_ids = prompt.token_ids
    if len(prompt_ids) >= text_config(served.model).max_position_embeddings:
        return "", 0, 0.0
    finish, steps = served.answer(prompt)
    if not steps:
        return finish.value, 0, 0.0
    ids = [step.chosen.token_id for step in steps]
    supervised = [False] * len(prompt_ids) + [True] * len(ids)
    (at_once,) = served.logprobs([replace(prompt, token_ids=prompt_ids + ids, supervised=supervised)])
    one_by_one = torch.tensor([step.chosen.logprob for step in steps])
    largest = float((at_once - one_by_one).abs().max())
    if not largest <= tolerance.largest:
        raise served_otherwise(
            f"a generated token's log-probability differs by {largest:.3g} from the same token's in a prompt; "
            f"{tolerance.largest:g} is tolerated"
        )
    return finish.value, len(steps), largest

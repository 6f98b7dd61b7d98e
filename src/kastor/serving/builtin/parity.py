"""Whether an adapter's files, served, give what the trainer gave: log-probabilities, tensors, effect, an end.

The files are read as the engine reads them, and go through its adapters, its cache and its batcher. Nothing here knows
how the trainer came by its numbers.

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
from kastor.domain.certificate import Certificate, Distance, GoldenRow, Rounding, Tolerance
from kastor.domain.errors import Internal, KastorError
from kastor.domain.generation import Chunk, FinishReason, Sampling, TokenStep
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.decoder.inputs import DecoderInputs, logits, text_config
from kastor.models.decoder.masks import uncut_chunk_end
from kastor.models.load import stop_token_ids
from kastor.serving.builtin.continuous_batching import PIECE_TOKENS, ContinuousBatcher, EngineLimits, positions
from kastor.serving.builtin.kv_cache import PrefillChunk, SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager, LoadedAdapter, LoraDelta, MultiLoraLinear
from kastor.serving.builtin.sequence import GenerationHandle, PictureEmbeddings, chunk_inputs

EXACT = Tolerance(largest=0.002, mean=0.0002)
"""In fp32, where only the order of additions tells the two sides apart; measured, with the margin: docs/log.md."""
ROUNDED_FACTOR = 3.0
"""Where there is no room for the base in fp32: the mean distance from fp32, as a multiple of that of stock."""
ROUNDED_PEAK = 60.0
"""The same of the largest distance of one token: they have long tails."""
ROUNDED_LEAST = 0.05
"""What stock is taken to be away at least, in nats: the few tokens of one row may agree by chance."""

NUM_PLAIN_ROWS = 2
"""Golden rows, the shortest, that are scored without the adapter, too: they tell whether anything was learnt."""
MAX_GENERATED = 16
"""Tokens of the answer that is generated: a second of the embedded base on two quiet cores."""


def prefill_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Which prompts go through the model side by side: in turn, as many as one piece holds; a longer one is alone.

    >>> prefill_batches([100, 100, 100, 300])
    [[0, 1], [2], [3]]
    """
    rows: list[list[int]] = []
    held = PIECE_TOKENS
    for index, length in enumerate(lengths):
        if held + length > PIECE_TOKENS:
            rows.append([])
            held = 0
        rows[-1].append(index)
        held += length
    return rows


Embed = Callable[[RenderedExample], tuple[PictureEmbeddings, ...]]
"""The pictures of an example, as its tuned model sees them."""


@dataclass(frozen=True, slots=True)
class GoldenExample:
    """An example with the log-probabilities that the trainer gives its supervised tokens."""

    example: int  # its index in the dataset
    rendered: RenderedExample
    trained_S: torch.Tensor  # by the trainer's own code, in the dtype that both sides are compared in
    stock_S: torch.Tensor | None = None  # by transformers and peft in the base's own dtype, unless that is fp32
    num_prompt: int | None = None  # tokens before the first answer, where those are scored, too

    @property
    def prompt(self) -> RenderedExample:
        """What its first answer was given to."""
        end = self.rendered.supervised.index(True) if self.num_prompt is None else self.num_prompt
        pictures = tuple(one for one in self.rendered.pictures if one.start < end)
        ids = self.rendered.token_ids[:end]
        return replace(self.rendered, token_ids=ids, supervised=[False] * end, pictures=pictures)


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """A base with one adapter, as an engine has them."""

    model: Any  # transformers.PreTrainedModel, untyped
    renderer: Renderer
    bank: AdapterManager
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
        """The adapter in `folder` on `model`, as `load_base` gives it; `embed` puts pictures in their places.

        Raises:
            FailedPrecondition: the engine refuses the adapter; says why.

        """
        bank = AdapterManager(model, lambda _: folder, max_resident=1)
        return cls(
            model,
            renderer,
            bank,
            SlotKVCache.like(model, renderer.vision),
            bank.acquire(AdapterRef(folder.name)),
            embed,
        )

    @torch.inference_mode()
    def logprobs(self, examples: Sequence[RenderedExample], *, adapted: bool = True) -> list[torch.Tensor]:
        """Log-probabilities (S,) of each one's supervised tokens, taken in as prompts are: short ones side by side."""
        found: list[list[torch.Tensor]] = [[] for _ in examples]
        adapter = self.adapter if adapted else None
        for together in prefill_batches([len(example.token_ids) for example in examples]):
            self.cache.clear()
            chosen = [examples[index] for index in together]
            seen = [self.pictures(example) for example in chosen]
            start = 0
            while start < len(chosen[0].token_ids):
                pieces = [self._cut(slot, start, *pair) for slot, pair in enumerate(zip(chosen, seen, strict=True))]
                for index, part in zip(together, self._piece(chosen, seen, pieces, adapter), strict=True):
                    found[index].append(part)
                start = pieces[0].end
        self.cache.clear()
        return [torch.cat(parts) for parts in found]

    def _cut(
        self, slot: int, start: int, example: RenderedExample, pictures: Sequence[PictureEmbeddings]
    ) -> PrefillChunk:
        """The example's tokens from `start`, as many as one pass takes."""
        spans = self.cache.spans((picture.start, picture.end) for picture in pictures)
        end = uncut_chunk_end(start, min(len(example.token_ids), start + PIECE_TOKENS), spans)
        return PrefillChunk(slot, start, end - start, spans)

    def _piece(
        self,
        examples: Sequence[RenderedExample],
        seen: Sequence[tuple[PictureEmbeddings, ...]],
        pieces: Sequence[PrefillChunk],
        adapter: LoadedAdapter | None,
    ) -> list[torch.Tensor]:
        """Take in pieces of the examples; log-probabilities of the targets that they predict."""
        device, start = self.model.device, pieces[0].start
        ids = [torch.tensor(example.token_ids, device=device) for example in examples]
        sizes, ends = [piece.num_tokens for piece in pieces], [piece.end for piece in pieces]
        self.cache.reserve(len(pieces), max(ends))
        mask, places = self.cache.prefill(pieces)
        self.bank.assign([adapter] * len(pieces), sizes)
        targets = [
            torch.tensor(
                [at for at in range(start + 1, min(end + 1, len(one))) if example.supervised[at]],
                dtype=torch.long,
            )
            for example, one, end in zip(examples, ids, ends, strict=True)
        ]
        before = [sum(sizes[:slot]) - start - 1 for slot in range(len(pieces))]
        logits_SV = logits(
            self.model,
            keep=torch.cat([at + place for at, place in zip(targets, before, strict=True)]).to(device),
            **self._input(ids, seen, pieces),
            attention_mask=mask,
            position_ids=positions([example.positions for example in examples], pieces, places),
            past_key_values=self.cache,
            use_cache=True,
        )[0]
        wanted = torch.cat([one[at.to(device)] for one, at in zip(ids, targets, strict=True)])
        logprobs_S = logits_SV.float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
        return list(logprobs_S.cpu().split([len(at) for at in targets]))

    def _input(
        self, ids: Sequence[torch.Tensor], seen: Sequence[tuple[PictureEmbeddings, ...]], pieces: Sequence[PrefillChunk]
    ) -> dict[str, Any]:
        """The tokens of the pieces or, where pictures stand among the examples', their embeddings."""
        parts = [one[piece.start : piece.end] for one, piece in zip(ids, pieces, strict=True)]
        if not any(seen):
            return {"input_ids": torch.cat(parts)[None]}
        trios = zip(parts, pieces, seen, strict=True)
        return DecoderInputs.joined(
            [chunk_inputs(self.model, part, piece.start, pictures) for part, piece, pictures in trios]
        ).inputs

    def pictures(self, example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
        """The example's pictures as the batcher takes them."""
        return () if self.embed is None or not example.pictures else self.embed(example)

    @torch.inference_mode()
    def answer(self, prompt: RenderedExample) -> tuple[FinishReason, list[TokenStep]]:
        """A greedy answer to the prompt, by the batcher: how it ended, and its tokens.

        Raises:
            KastorError: the batcher could not give one, as when numbers are not finite.

        """
        context, events = text_config(self.model).max_position_embeddings, list[Chunk | KastorError]()
        bounds = EngineLimits(1, context, MAX_GENERATED, context, max_cache_tokens=context)
        tokens, ends = self.renderer.tokenizer, stop_token_ids(self.model, self.renderer.closing_id)
        batcher = ContinuousBatcher(self.model, self.bank, tokens, ends, bounds, self.cache)
        greedy = Sampling(temperature=0, top_logprobs=0)
        ticket: GenerationHandle = batcher.submit(
            prompt.token_ids,
            greedy,
            self.adapter.ref,
            events.append,
            pictures=self.pictures(prompt),
            positions=prompt.positions,
        )
        steps: list[TokenStep] = []
        for _ in range(len(ticket.prompt_ids) + MAX_GENERATED):
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


def certify(
    served: ServedAdapter,
    golden: Sequence[GoldenExample],
    trained: Mapping[str, LoraDelta],
    folder: Path,
    *,
    base_model: str,
    tolerance: Tolerance = EXACT,
    heed: Callable[[], None] = lambda: None,
) -> Certificate:
    """The proof that `served`, opened from `folder`, is what was trained; `heed` is called between its parts.

    `trained` is what the trainer's memory has for each layer of the base: every one of them is applied, bit for bit,
    so that the log-probabilities have only the arithmetic left to tell of. `served` computes in the dtype in which the
    golden rows were scored.

    Raises:
        Internal: what is served is not what was trained; says in which way.

    """
    num_tensors = _check_tensors(served, folder, trained)
    rendered = [row.rendered for row in golden]
    scored = served.logprobs(rendered)
    largest, mean = check_logprobs(golden, scored, tolerance)
    heed()
    plain = served.logprobs(rendered[:NUM_PLAIN_ROWS], adapted=False)
    heed()
    finish, num_generated, decode_difference = _check_answer(served, golden[0].prompt, tolerance)
    rows = zip(golden, scored, strict=True)
    dtype = str(served.model.dtype).removeprefix("torch.")
    return Certificate(
        base_model=base_model,
        dtype=dtype,
        compared_in=dtype,
        rows=tuple(GoldenRow(g.example, len(s), float(g.trained_S.mean()), float(s.mean())) for g, s in rows),
        largest_difference=largest,
        mean_difference=mean,
        decode_difference=decode_difference,
        tolerance=tolerance,
        rounding=None,
        effect=max(float((s - p).abs().max()) for s, p in zip(scored, plain, strict=False)),
        num_tensors=num_tensors,
        finish_reason=finish,
        num_generated=num_generated,
        versions={"kastor": kastor.__version__} | {name: version(name) for name in ("torch", "transformers", "peft")},
    )


def rounded_tolerance(golden: Sequence[GoldenExample]) -> Tolerance:
    """How far log-probabilities may be from fp32 in a dtype that rounds: a multiple of how far stock is."""
    stock = [(row.stock_S - row.trained_S).abs() for row in golden if row.stock_S is not None]
    mean = max(ROUNDED_LEAST, float(torch.cat(stock).mean()))
    return Tolerance(largest=ROUNDED_PEAK * mean, mean=ROUNDED_FACTOR * mean)


def measure_rounding(served: ServedAdapter, golden: Sequence[GoldenExample]) -> Rounding | None:
    """What rounding does to the golden rows, as `served` answers and in stock; `None` where nothing rounds.

    Their `trained_S` are taken as exact, in fp32.

    Raises:
        Internal: what is served is not finite.

    """
    exact = torch.cat([row.trained_S for row in golden])
    stock = [row.stock_S for row in golden if row.stock_S is not None]
    if served.model.dtype is torch.float32 or len(stock) < len(golden):
        return None
    scored = torch.cat(served.logprobs([row.rendered for row in golden]))
    if not bool(scored.isfinite().all()):
        raise _unlike(f"in {served.model.dtype} log-probabilities are not finite")
    return Rounding(_distance(scored, exact), _distance(torch.cat(stock), exact))


def _distance(scored_S: torch.Tensor, exact_S: torch.Tensor) -> Distance:
    apart_S = (scored_S - exact_S).abs()
    return Distance(float(apart_S.mean()), float(apart_S.max()))


def _check_tensors(served: ServedAdapter, folder: Path, trained: Mapping[str, LoraDelta]) -> int:
    """How many tensors the file holds: each is applied, and each is what was trained."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    wrapped = {n for n in served.adapter.deltas if isinstance(served.model.get_submodule(n), MultiLoraLinear)}
    for what, layers in (("were trained", trained.keys()), ("are applied", wrapped)):
        unlike = sorted(stored ^ {f"base_model.model.{name}.lora_{side}.weight" for name in layers for side in "AB"})
        if unlike:
            raise _unlike(f"{len(unlike)} tensors differ between those stored and those that {what}, as {unlike[0]}")
    for name, delta in trained.items():
        loaded = served.adapter.deltas[name]
        same = torch.equal(loaded.down_RI, delta.down_RI) and torch.equal(loaded.up_OR, delta.up_OR)
        if not same:
            raise _unlike(f"what {name} is given is not what was trained, in its numbers or their scale")
    return len(stored)


def check_logprobs(
    golden: Sequence[GoldenExample], scored: Sequence[torch.Tensor], tolerance: Tolerance
) -> tuple[float, float]:
    """The largest and the mean difference, both tolerable.

    Raises:
        Internal: one is not.

    """
    apart = [(row.trained_S - served_S).abs() for row, served_S in zip(golden, scored, strict=True)]
    worst = max(range(len(apart)), key=lambda index: _nan_last(apart[index].max()))
    largest, mean = float(apart[worst].max()), float(torch.cat(apart).mean())
    if not (largest <= tolerance.largest and mean <= tolerance.mean):
        raise _unlike(
            f"log-probabilities differ by up to {largest:.3g} (in example {golden[worst].example}) and by {mean:.3g} "
            f"on average; {tolerance.largest:g} and {tolerance.mean:g} are tolerated"
        )
    return largest, mean


def _nan_last(value: torch.Tensor) -> float:
    return float(value.nan_to_num(nan=torch.inf))


def _check_answer(served: ServedAdapter, prompt: RenderedExample, tolerance: Tolerance) -> tuple[str, int, float]:
    """How an answer to the prompt ended, its tokens, and how far they differ when taken in at once."""
    prompt_ids = prompt.token_ids
    if len(prompt_ids) >= text_config(served.model).max_position_embeddings:
        return "", 0, 0.0
    finish, steps = served.answer(prompt)
    if not steps:
        return finish.value, 0, 0.0
    ids = [step.chosen.token_id for step in steps]
    learnt = [False] * len(prompt_ids) + [True] * len(ids)
    (at_once,) = served.logprobs([replace(prompt, token_ids=prompt_ids + ids, supervised=learnt)])
    one_by_one = torch.tensor([step.chosen.logprob for step in steps])
    largest = float((at_once - one_by_one).abs().max())
    if not largest <= tolerance.largest:
        raise _unlike(
            f"a generated token's log-probability differs by {largest:.3g} from the same token's in a prompt; "
            f"{tolerance.largest:g} is tolerated"
        )
    return finish.value, len(steps), largest


def _unlike(why: str) -> Internal:
    return Internal(f"The adapter is not served as it was trained: {why}. It was not published; tune again.")

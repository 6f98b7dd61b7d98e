"""The trainer's part of the certificate: golden rows, their log-probabilities as trained, and the base laid bare."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import Linear

from kastor.domain.certificate import CERTIFICATE_FILE, Certificate, Tolerance, golden_rows
from kastor.domain.job import AdapterShape
from kastor.domain.vision import Grid
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import (
    cast_for_serving,
    fits_in_fp32,
    fp32_module_by_module,
    restore_dtypes,
    serving_dtype,
    to_fp32,
)
from kastor.models.vision.efficientnet import STRIDE
from kastor.models.vision.encoder import load_efficientnet, to_half_precision
from kastor.models.vision.projector import Projector
from kastor.runtime.out_of_memory import out_of_memory_as
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import LoraDelta
from kastor.serving.builtin.parity import ServedAdapter, certify
from kastor.serving.builtin.scoring import Embed
from kastor.serving.builtin.sequence import PictureEmbeddings
from kastor.serving.score_comparison import (
    EXACT,
    GoldenExample,
    check_logprobs,
    measure_rounding,
    rounded_tolerance,
)
from kastor.store.blobs.job_files import write_whole
from kastor.training.checkpoints import load_adapter
from kastor.training.fused_llama_cpu import use_fused_layers, use_stock_layers, uses_fused_layers
from kastor.training.lora import add_lora, remove_lora
from kastor.training.loss import target_logprobs, use_packed_attention
from kastor.training.packing import pack
from kastor.training.vision_inputs import Read, VisionInputs


def certify_adapter(
    model: Any,  # noqa: ANN401  # peft model
    examples: Sequence[RenderedExample],
    eyes: VisionInputs | None,
    renderer: Renderer,
    folder: Path,
    *,
    base_model: str,
    seed: int,
    heed: Callable[[], None],
    in_fp32: Callable[[Any], bool] = fits_in_fp32,
) -> Certificate:
    """The proof that the adapter in `folder` is served as `model` was trained; `model` is of no use afterwards.

    Where memory has room (`in_fp32`), trainer and engine both compute in fp32, so that nothing but a fault tells them
    apart; elsewhere they may be from fp32 by a multiple of what transformers and peft are on the same rows.
    The base is held once, and used for serving when training's side is done. `heed` is called between the parts.

    Raises:
        FailedPrecondition: the engine refuses the adapter.
        Internal: what is served is not what was trained; says in which way.
        ResourceExhausted: memory ran out; names how long the examples are.

    """
    heed()
    chosen = golden_examples(examples, seed)
    answers_in = serving_dtype(model, renderer.vision)
    exact = in_fp32(model)
    with out_of_memory_as(_comparing(chosen.values())):
        golden, tolerance, dtypes = _golden_rows(model, chosen, eyes, exact=exact)
    deltas = lora_deltas(model)
    heed()
    base = remove_lora(model)
    with out_of_memory_as(_comparing(chosen.values())):
        served_base = base if exact else cast_for_serving(base, renderer.vision)
        served = ServedAdapter.open(served_base, renderer, folder, _embed(eyes, folder, base.device))
        proof = certify(served, golden, deltas, folder, base_model=base_model, tolerance=tolerance, heed=heed)
        if exact and answers_in is not torch.float32:
            restore_dtypes(dtypes)
            served = replace(served, cache=SlotKVCache.like(base, renderer.vision))
        proof = replace(proof, dtype=str(answers_in).removeprefix("torch."))
        if answers_in is not torch.float32:
            proof = replace(proof, rounding=measure_rounding(served.as_model(base_model), golden, answers_in))
    heed()
    return proof


def _golden_rows(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    eyes: VisionInputs | None,
    *,
    exact: bool,
) -> tuple[list[GoldenExample], Tolerance, Mapping[torch.nn.Parameter, torch.dtype]]:
    """The golden rows, how far from them what is served may be, and what the weights were that are in fp32 now."""
    if exact:
        golden, dtypes = golden_rows_in_fp32(model, chosen, eyes)
        return golden, EXACT, dtypes
    return *golden_rows_module_by_module(model, chosen, eyes), {}


def certify_checkpoint(
    base: Any,  # noqa: ANN401  # transformers model, as `load_base` gives it
    shape: AdapterShape,
    checkpoint: Path,
    examples: Sequence[RenderedExample],
    eyes: VisionInputs | None,
    renderer: Renderer,
    *,
    base_model: str,
    seed: int,
    heed: Callable[[], None] = lambda: None,
) -> Certificate:
    """Certify the adapter of any checkpoint and write the certificate beside it; `base` is of no use afterwards.

    The trainer's side is the checkpoint as training would go on from it; `eyes` are those of that checkpoint.

    Raises:
        DataLoss: a file of the checkpoint is damaged.
        Internal: what is served is not what was trained; says in which way.

    """
    model = add_lora(base, shape, seed=seed)
    load_adapter(checkpoint, model)
    use_packed_attention(model)
    use_fused_layers(model)
    proof = certify_adapter(
        model.eval(), examples, eyes, renderer, checkpoint, base_model=base_model, seed=seed, heed=heed
    )
    write_whole(checkpoint / CERTIFICATE_FILE, [proof.encoded().encode()])
    return proof


def golden_examples(examples: Sequence[RenderedExample], seed: int) -> dict[int, RenderedExample]:
    """The golden ones, by their index; examples without tokens have been left out."""
    lengths = {index: len(example.token_ids) for index, example in enumerate(examples) if example.token_ids}
    chosen = [list(lengths)[place] for place in golden_rows(list(lengths.values()), seed)]
    return {index: examples[index] for index in chosen}


@torch.no_grad()
def golden_rows_in_fp32(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    eyes: VisionInputs | None = None,
) -> tuple[list[GoldenExample], dict[torch.nn.Parameter, torch.dtype]]:
    """The golden rows as the trainer's code scores them in fp32, and as stock does in the base's own dtype.

    The model is in fp32 afterwards; what its weights were is returned, too.
    """
    row = pack(list(chosen.values()))
    stock: list[torch.Tensor] | None = None
    fused = uses_fused_layers(model)
    if model.dtype is not torch.float32:
        use_stock_layers(model)
        stock = _by_example(target_logprobs(model, row, eyes), chosen)
    dtypes = to_fp32(model)
    if fused and stock is not None:
        use_fused_layers(model)
    trained = _by_example(target_logprobs(model, row, eyes), chosen)
    rows = [GoldenExample(i, e, part) for (i, e), part in zip(chosen.items(), trained, strict=True)]
    if stock is not None:
        rows = [replace(row, stock_S=part) for row, part in zip(rows, stock, strict=True)]
    return rows, dtypes


@torch.no_grad()
def golden_rows_module_by_module(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    eyes: VisionInputs | None = None,
) -> tuple[list[GoldenExample], Tolerance]:
    """The golden rows in fp32, module by module, and how far from them rounding takes the base in its own dtype.

    Every token of text is scored: a few supervised ones would not tell how much is rounded.

    Raises:
        Internal: the trainer's own compute is further away than rounding explains.

    """
    whole = {index: _all_text(example) for index, example in chosen.items()}
    row = pack(list(whole.values()))
    trained = _by_example(target_logprobs(model, row, eyes), whole)
    use_stock_layers(model)
    stock = _by_example(target_logprobs(model, row, eyes), whole)
    with fp32_module_by_module(model):
        exact = _by_example(target_logprobs(model, row, eyes), whole)
    parts = zip(whole.items(), exact, stock, strict=True)
    golden = [GoldenExample(i, e, x, s, num_prompt=chosen[i].supervised.index(True)) for (i, e), x, s in parts]
    tolerance = rounded_tolerance(golden)
    check_logprobs(golden, trained, tolerance)
    return golden, tolerance


def _all_text(example: RenderedExample) -> RenderedExample:
    """The example with each token supervised that is not a picture's."""
    seen = {place for p in example.pictures for place in range(p.start, p.start + p.num_tokens)}
    return replace(example, supervised=[place not in seen for place in range(len(example.token_ids))])


def _by_example(logprobs_S: torch.Tensor, chosen: Mapping[int, RenderedExample]) -> list[torch.Tensor]:
    return list(logprobs_S.cpu().split([sum(example.supervised[1:]) for example in chosen.values()]))


def _comparing(rendered: Iterable[RenderedExample]) -> str:
    longest = max(len(example.token_ids) for example in rendered)
    return f"comparing what is served with what was trained, on examples of up to {longest:,} tokens"


def _embed(eyes: VisionInputs | None, folder: Path, device: torch.device) -> Embed | None:
    """How the served model sees: with the projector in `folder`, if there is one, read as the engine reads it."""
    if eyes is None:
        return None
    projector = Projector.load(folder)
    stored = replace(eyes.without_corrections(), projector=None if projector is None else projector.to(device))
    if eyes.tower is not None:
        stored = replace(stored, tower=None, read=_by_stored_tower(folder, eyes.read))

    @torch.no_grad()
    def embedded(example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
        parts = stored.embed(example.pictures, device).split([picture.num_tokens for picture in example.pictures])
        return tuple(PictureEmbeddings(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

    return embedded


def _by_stored_tower(folder: Path, pixels: Read) -> Read:
    """Features of pictures by the tower in `folder`, as the engine makes them."""
    tower = load_efficientnet(folder, num_threads=torch.get_num_threads())

    def read(key: str, index: int) -> NDArray[Any]:
        picture = np.array(pixels(key, index))
        height, width, _ = picture.shape
        return to_half_precision(tower(picture[None], Grid(width, height, height // STRIDE, width // STRIDE))[0])

    return read


@torch.no_grad()
def lora_deltas(model: Any) -> dict[str, LoraDelta]:  # noqa: ANN401  # as above
    """What the adapter adds to each linear layer of the base, by the layer's name there."""
    return {
        name.removeprefix("base_model.model."): LoraDelta(
            module.lora_A[active].weight.float(), module.lora_B[active].weight.float() * module.scaling[active]
        )
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        for active in module.active_adapters
    }

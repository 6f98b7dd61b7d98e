"""The trainer's side of the certificate: golden rows, the trained model's log-probabilities, then the bare base."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from kastor.runtime.atomic import write_atomically
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
from kastor.training.checkpoints import load_adapter
from kastor.training.fused_llama_cpu import use_fused_layers, use_stock_layers, uses_fused_layers
from kastor.training.lora import add_lora, remove_lora
from kastor.training.loss import target_logprobs, use_packed_attention
from kastor.training.packing import pack
from kastor.training.vision_inputs import Read, VisionInputs


def certify_adapter(
    model: Any,  # noqa: ANN401  # peft model
    examples: Sequence[RenderedExample],
    vision: VisionInputs | None,
    renderer: Renderer,
    folder: Path,
    *,
    base_model: str,
    seed: int,
    check_cancelled: Callable[[], None],
    in_fp32: Callable[[Any], bool] = fits_in_fp32,
) -> Certificate:
    """The proof that the adapter in `folder` is served as `model` was trained; `model` is used up by it.

    Where memory has room (`in_fp32`), trainer and engine both compute in fp32, so only a fault can tell them apart.
    Elsewhere each may differ from fp32 by a multiple of what transformers and peft do on the same rows. The base is in
    memory once: training's side is scored first, then the engine gets the base. `check_cancelled` is called between
    the parts.

    Raises:
        FailedPrecondition: the engine refuses the adapter.
        Internal: what is served is not what was trained; says in which way.
        ResourceExhausted: memory ran out; names how long the examples are.

    """
    check_cancelled()
    chosen = golden_examples(examples, seed)
    dtype = serving_dtype(model, renderer.vision)
    exact = in_fp32(model)
    with out_of_memory_as(_comparing(chosen.values())):
        trained = _score_trained(model, chosen, vision, exact=exact)
    check_cancelled()
    base = remove_lora(model)
    with out_of_memory_as(_comparing(chosen.values())):
        served_base = base if exact else cast_for_serving(base, renderer.vision)
        served = ServedAdapter.open(served_base, renderer, folder, _served_embed(vision, folder, base.device))
        proof = _certify_served(served, trained, folder, base_model, dtype, check_cancelled)
    check_cancelled()
    return proof


@dataclass(frozen=True, slots=True)
class _TrainedScores:
    """The trainer's side of the comparison."""

    golden: Sequence[GoldenExample]
    tolerance: Tolerance
    dtypes: Mapping[torch.nn.Parameter, torch.dtype]  # of the weights that are in fp32 for the comparison
    deltas: Mapping[str, LoraDelta]


def _score_trained(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    vision: VisionInputs | None,
    *,
    exact: bool,
) -> _TrainedScores:
    if exact:
        golden, dtypes = golden_rows_in_fp32(model, chosen, vision)
        return _TrainedScores(golden, EXACT, dtypes, lora_deltas(model))
    golden, tolerance = golden_rows_module_by_module(model, chosen, vision)
    return _TrainedScores(golden, tolerance, {}, lora_deltas(model))


def _certify_served(
    served: ServedAdapter,
    trained: _TrainedScores,
    folder: Path,
    base_model: str,
    dtype: torch.dtype,
    check_cancelled: Callable[[], None],
) -> Certificate:
    """The certificate, with the dtype that answers are computed in and what rounding to it does."""
    proof = certify(
        served,
        trained.golden,
        trained.deltas,
        folder,
        base_model=base_model,
        tolerance=trained.tolerance,
        check_cancelled=check_cancelled,
    )
    proof = replace(proof, dtype=str(dtype).removeprefix("torch."))
    if dtype is torch.float32:
        return proof
    if trained.dtypes:
        restore_dtypes(trained.dtypes)
        served = replace(served, cache=SlotKVCache.like(served.model, served.renderer.vision))
    return replace(proof, rounding=measure_rounding(served.as_model(base_model), trained.golden, dtype))


def certify_checkpoint(
    base: Any,  # noqa: ANN401  # transformers model, as `load_base` gives it
    shape: AdapterShape,
    checkpoint: Path,
    examples: Sequence[RenderedExample],
    vision: VisionInputs | None,
    renderer: Renderer,
    *,
    base_model: str,
    seed: int,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Certificate:
    """Certify the adapter of any checkpoint and write the certificate beside it; `base` is used up by it.

    The trainer's side is the model as training would resume from the checkpoint; `vision` belongs to the checkpoint.

    Raises:
        DataLoss: a file of the checkpoint is damaged.
        Internal: what is served is not what was trained; says in which way.

    """
    model = add_lora(base, shape, seed=seed)
    load_adapter(checkpoint, model)
    use_packed_attention(model)
    use_fused_layers(model)
    proof = certify_adapter(
        model.eval(),
        examples,
        vision,
        renderer,
        checkpoint,
        base_model=base_model,
        seed=seed,
        check_cancelled=check_cancelled,
    )
    write_atomically(checkpoint / CERTIFICATE_FILE, [proof.encoded().encode()])
    return proof


def golden_examples(examples: Sequence[RenderedExample], seed: int) -> dict[int, RenderedExample]:
    """The golden examples by their index; examples without tokens are never golden."""
    lengths = {index: len(example.token_ids) for index, example in enumerate(examples) if example.token_ids}
    chosen = [list(lengths)[place] for place in golden_rows(list(lengths.values()), seed)]
    return {index: examples[index] for index in chosen}


@torch.no_grad()
def golden_rows_in_fp32(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    vision: VisionInputs | None = None,
) -> tuple[list[GoldenExample], dict[torch.nn.Parameter, torch.dtype]]:
    """The golden rows as the trainer's code scores them in fp32, and stock in the base's own dtype.

    The model is in fp32 afterwards; the dtypes that its weights had are returned as well.
    """
    row = pack(list(chosen.values()))
    stock: list[torch.Tensor] | None = None
    fused = uses_fused_layers(model)
    if model.dtype is not torch.float32:
        use_stock_layers(model)
        stock = _by_example(target_logprobs(model, row, vision), chosen)
    dtypes = to_fp32(model)
    if fused and stock is not None:
        use_fused_layers(model)
    trained = _by_example(target_logprobs(model, row, vision), chosen)
    rows = [GoldenExample(i, e, part) for (i, e), part in zip(chosen.items(), trained, strict=True)]
    if stock is not None:
        rows = [replace(row, stock_S=part) for row, part in zip(rows, stock, strict=True)]
    return rows, dtypes


@torch.no_grad()
def golden_rows_module_by_module(
    model: Any,  # noqa: ANN401  # as above
    chosen: Mapping[int, RenderedExample],
    vision: VisionInputs | None = None,
) -> tuple[list[GoldenExample], Tolerance]:
    """The golden rows in fp32, module by module, and the tolerance for the base in its own dtype.

    Every token of text is scored: a few supervised ones would not show how much rounding does.

    Raises:
        Internal: the trainer's own scores are further away than rounding explains.

    """
    whole = {index: _all_text(example) for index, example in chosen.items()}
    row = pack(list(whole.values()))
    trained = _by_example(target_logprobs(model, row, vision), whole)
    use_stock_layers(model)
    stock = _by_example(target_logprobs(model, row, vision), whole)
    with fp32_module_by_module(model):
        exact = _by_example(target_logprobs(model, row, vision), whole)
    parts = zip(whole.items(), exact, stock, strict=True)
    golden = [GoldenExample(i, e, x, s, num_prompt=chosen[i].supervised.index(True)) for (i, e), x, s in parts]
    tolerance = rounded_tolerance(golden)
    check_logprobs(golden, trained, tolerance)
    return golden, tolerance


def _all_text(example: RenderedExample) -> RenderedExample:
    """The example with every token supervised that belongs to no picture."""
    of_pictures = {place for p in example.pictures for place in range(p.start, p.start + p.num_tokens)}
    return replace(example, supervised=[place not in of_pictures for place in range(len(example.token_ids))])


def _by_example(logprobs_S: torch.Tensor, chosen: Mapping[int, RenderedExample]) -> list[torch.Tensor]:
    return list(logprobs_S.cpu().split([sum(example.supervised[1:]) for example in chosen.values()]))


def _comparing(rendered: Iterable[RenderedExample]) -> str:
    longest = max(len(example.token_ids) for example in rendered)
    return f"comparing what is served with what was trained, on examples of up to {longest:,} tokens"


def _served_embed(vision: VisionInputs | None, folder: Path, device: torch.device) -> Embed | None:
    """Embeds pictures with the projector in `folder`, if there is one, read as the engine reads it."""
    if vision is None:
        return None
    projector = Projector.load(folder)
    stored = replace(vision.without_corrections(), projector=None if projector is None else projector.to(device))
    if vision.tower is not None:
        stored = replace(stored, tower=None, read=_stored_tower_features(folder, vision.read))

    @torch.no_grad()
    def embed(example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
        parts = stored.embed(example.pictures, device).split([picture.num_tokens for picture in example.pictures])
        return tuple(PictureEmbeddings(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

    return embed


def _stored_tower_features(folder: Path, pixels: Read) -> Read:
    """Reads features computed by the tower in `folder`, as the engine computes them."""
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

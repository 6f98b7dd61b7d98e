"""The trainer's part of the certificate: golden rows, their log-probabilities as trained, and the base laid bare."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import Linear

from kastor.domain.certificate import Certificate, golden_rows
from kastor.domain.memory import memory_for
from kastor.domain.vision import Grid
from kastor.models.load import served_as
from kastor.models.projector import Projector
from kastor.models.render import Rendered, Renderer
from kastor.models.tower import STRIDE
from kastor.models.vision import compact, square_tower
from kastor.serving.adapters import Delta
from kastor.serving.certificate import Embed, Golden, Served, certificate
from kastor.serving.rows import Embedded
from kastor.training.lora import detach
from kastor.training.packed import target_logprobs
from kastor.training.packing import pack
from kastor.training.sight import Read, Sight


def certified(
    model: Any,  # noqa: ANN401  # peft model
    examples: Sequence[Rendered],
    eyes: Sight | None,
    renderer: Renderer,
    folder: Path,
    *,
    base_model: str,
    seed: int,
    heed: Callable[[], None],
) -> Certificate:
    """The proof that the adapter in `folder` is served as `model` was trained; `model` is of no use afterwards.

    Its base is used for serving, so that the weights are held once. `heed` is called between the parts.

    Raises:
        FailedPrecondition: nothing was learnt, or the engine refuses the adapter.
        Internal: what is served is not what was trained; says in which way.
        ResourceExhausted: memory ran out; names how long the examples are.

    """
    heed()
    golden = trained(model, examples, seed, eyes)
    deltas = trained_deltas(model)
    heed()
    base = detach(model)
    trained_in = base.dtype
    with memory_for(_comparing([row.rendered for row in golden])):
        served = Served.open(served_as(base, renderer.vision), renderer, folder, _embed(eyes, folder, base.device))
        proof = certificate(served, golden, deltas, folder, base_model=base_model, trained_in=trained_in, heed=heed)
    heed()
    return proof


@torch.no_grad()
def trained(
    model: Any,  # noqa: ANN401  # as above
    examples: Sequence[Rendered],
    seed: int,
    eyes: Sight | None = None,
) -> list[Golden]:
    """The golden rows of the examples, scored as the trainer sees them: packed into one row."""
    lengths = {index: len(example.token_ids) for index, example in enumerate(examples) if example.token_ids}
    chosen = [list(lengths)[place] for place in golden_rows(list(lengths.values()), seed)]
    rendered = [examples[index] for index in chosen]
    with memory_for(_comparing(rendered)):
        found = target_logprobs(model, pack(rendered), eyes).cpu()
    sizes = [example.num_supervised - example.supervised[0] for example in rendered]
    return [Golden(i, e, part) for i, e, part in zip(chosen, rendered, found.split(sizes), strict=True)]


def _comparing(rendered: Sequence[Rendered]) -> str:
    longest = max(len(example.token_ids) for example in rendered)
    return f"comparing what is served with what was trained, on examples of up to {longest:,} tokens"


def _embed(eyes: Sight | None, folder: Path, device: torch.device) -> Embed | None:
    """How the served model sees: with the projector in `folder`, if there is one, read as the engine reads it."""
    if eyes is None:
        return None
    projector = Projector.load(folder)
    stored = replace(eyes.as_served(), projector=None if projector is None else projector.to(device))
    if eyes.tower is not None:
        stored = replace(stored, tower=None, read=_by_stored_tower(folder, eyes.read))

    @torch.no_grad()
    def embedded(example: Rendered) -> tuple[Embedded, ...]:
        parts = stored.made(example.pictures, device).split([picture.num_tokens for picture in example.pictures])
        return tuple(Embedded(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

    return embedded


def _by_stored_tower(folder: Path, pixels: Read) -> Read:
    """Features of pictures by the tower in `folder`, as the engine makes them."""
    tower = square_tower(folder, num_threads=torch.get_num_threads())

    def read(key: str, index: int) -> NDArray[Any]:
        picture = np.array(pixels(key, index))
        height, width, _ = picture.shape
        return compact(tower(picture[None], Grid(width, height, height // STRIDE, width // STRIDE))[0])

    return read


@torch.no_grad()
def trained_deltas(model: Any) -> dict[str, Delta]:  # noqa: ANN401  # as above
    """What the adapter adds to each linear layer of the base, by the layer's name there."""
    return {
        name.removeprefix("base_model.model."): Delta(
            module.lora_A[active].weight.float(), module.lora_B[active].weight.float() * module.scaling[active]
        )
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        for active in module.active_adapters
    }

"""The trainer's part of the certificate: golden rows, their log-probabilities as trained, and the base laid bare."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear

from kastor.domain.certificate import Certificate, golden_rows
from kastor.models.render import Rendered, Renderer
from kastor.serving.adapters import Delta
from kastor.serving.certificate import Golden, Served, certificate
from kastor.training.lora import detach
from kastor.training.packed import target_logprobs
from kastor.training.packing import pack


def certified(
    model: Any,  # noqa: ANN401  # peft model
    examples: Sequence[Rendered],
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

    """
    heed()
    golden = trained(model, examples, seed)
    deltas = trained_deltas(model)
    heed()
    served = Served.open(detach(model), renderer, folder)
    proof = certificate(served, golden, deltas, folder, base_model=base_model, heed=heed)
    heed()
    return proof


@torch.no_grad()
def trained(model: Any, examples: Sequence[Rendered], seed: int) -> list[Golden]:  # noqa: ANN401  # as above
    """The golden rows of the examples, scored as the trainer sees them: packed into one row."""
    chosen = golden_rows([len(example.token_ids) for example in examples], seed)
    rendered = [examples[index] for index in chosen]
    found = target_logprobs(model, pack(rendered)).cpu()
    sizes = [example.num_supervised - example.supervised[0] for example in rendered]
    return [Golden(i, e, part) for i, e, part in zip(chosen, rendered, found.split(sizes), strict=True)]


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

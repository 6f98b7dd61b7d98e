"""Compares the scores of golden rows by the serving engine with those by the library that reads an export.

Shapes: T tokens of an example, S of them supervised, W width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kastor.domain.certificate import Tolerance
from kastor.domain.errors import Internal
from kastor.models.chat.render import RenderedExample
from kastor.training.loss import target_logprobs, use_packed_attention, use_stock_attention
from kastor.training.packing import pack
from kastor.training.vision_inputs import VisionInputs


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near an export comes to what is served; log-probabilities in nats."""

    rows: int
    tokens: int
    largest: float
    mean: float
    tolerance: Tolerance

    def document(self) -> dict[str, object]:
        """The comparison for the export's manifest."""
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "largestDifference": self.largest,
            "meanDifference": self.mean,
            "tolerance": {"largest": self.tolerance.largest, "mean": self.tolerance.mean},
        }


@torch.inference_mode()
def reference_logprobs(
    model: Any,  # noqa: ANN401  # transformers, peft
    examples: Sequence[RenderedExample],
    vision: VisionInputs | None = None,
) -> list[torch.Tensor]:
    """Log-probabilities (S,) of each example's supervised tokens, by the model's own forward pass alone.

    `vision` computes the embeddings of pictures. In a pretrained vision model pictures change positions, attention and
    layer inputs as well, so its decoder is called as in training.
    """
    return [
        _training_forward(model, example, vision)
        if example.pictures and vision is not None and vision.projector is None
        else _plain_forward(model, example, vision)
        for example in examples
    ]


def _plain_forward(model: Any, example: RenderedExample, vision: VisionInputs | None) -> torch.Tensor:  # noqa: ANN401
    ids = torch.tensor(example.token_ids, device=model.device)
    at = torch.tensor(example.supervised, device=ids.device).nonzero()[:, 0]
    at = at[at > 0]
    logits_SV = model(**_input(model, example, ids, vision)).logits[0, at - 1]
    logprobs_S: torch.Tensor = logits_SV.float().log_softmax(-1).gather(-1, ids[at, None])[:, 0].cpu()
    return logprobs_S


def _input(
    model: Any,  # noqa: ANN401  # transformers, peft
    example: RenderedExample,
    ids_T: torch.Tensor,
    vision: VisionInputs | None,
) -> dict[str, torch.Tensor]:
    """The token ids or, if the example has pictures, embeddings (1, T, W)."""
    if not example.pictures:
        return {"input_ids": ids_T[None]}
    if vision is None:
        raise Internal(f"An example shows {example.pictures[0].media.name}, and nothing gives its embeddings.")
    embeddings_TW = model.get_input_embeddings()(ids_T)
    for picture in example.pictures:
        embeddings_TW[picture.start : picture.start + picture.num_tokens] = vision.embed([picture], ids_T.device)
    return {"inputs_embeds": embeddings_TW[None]}


def _training_forward(model: Any, example: RenderedExample, vision: VisionInputs) -> torch.Tensor:  # noqa: ANN401
    use_packed_attention(model)
    try:
        return target_logprobs(model, pack([example]), vision).cpu()
    finally:
        use_stock_attention(model)


def compare_logprobs(
    served: Sequence[torch.Tensor], found: Sequence[torch.Tensor], tolerance: Tolerance, what: str
) -> Comparison:
    """How far the export, called `what` in messages, differs from what is served.

    Raises:
        Internal: by more than is tolerated, or a score is not a number.

    """
    apart = torch.cat([(one - other).abs() for one, other in zip(served, found, strict=True)])
    result = Comparison(len(served), len(apart), float(apart.max()), float(apart.mean()), tolerance)
    if not (result.largest <= tolerance.largest and result.mean <= tolerance.mean):
        raise Internal(
            f"The {what} gives other log-probabilities than the tuned model, by up to {result.largest:.3g} and by "
            f"{result.mean:.3g} on average; {tolerance.largest:g} and {tolerance.mean:g} are tolerated. "
            "Nothing was kept."
        )
    return result

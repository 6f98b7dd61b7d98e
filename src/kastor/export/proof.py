"""Golden rows, scored by the serving engine and by whatever reads an export: how far they are apart.

Shapes: S supervised tokens of an example.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kastor.dataset.parse import decode_example
from kastor.domain.certificate import CERTIFICATE_FILE, MAX_GOLDEN_ROWS, Tolerance
from kastor.domain.errors import Internal
from kastor.models.render import Rendered, Renderer


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near an export comes to what is served; log-probabilities in nats."""

    rows: int
    tokens: int
    largest: float
    mean: float
    tolerance: Tolerance

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "largestDifference": self.largest,
            "meanDifference": self.mean,
            "tolerance": {"largest": self.tolerance.largest, "mean": self.tolerance.mean},
        }


def golden_examples(adapter: Path, dataset: Path, renderer: Renderer) -> list[Rendered]:
    """The examples that the model was certified on; of a model from before certificates, its first ones."""
    file = adapter / CERTIFICATE_FILE
    wanted = set(range(MAX_GOLDEN_ROWS))
    if file.is_file():
        wanted = {row["example"] for row in json.loads(file.read_bytes())["rows"]}
    with dataset.open("rb") as lines:
        numbered = enumerate(islice(lines, max(wanted) + 1))
        return [renderer.example(decode_example(line)) for number, line in numbered if number in wanted]


@torch.inference_mode()
def plain_logprobs(model: Any, examples: Sequence[Rendered]) -> list[torch.Tensor]:  # noqa: ANN401  # transformers, peft
    """Log-probabilities (S,) of each one's supervised tokens, by the model's own forward and nothing of ours."""
    found = []
    for example in examples:
        ids = torch.tensor(example.token_ids, device=model.device)
        at = torch.tensor(example.supervised, device=ids.device).nonzero()[:, 0]
        at = at[at > 0]
        logits_SV = model(input_ids=ids[None]).logits[0, at - 1]
        found.append(logits_SV.float().log_softmax(-1).gather(-1, ids[at, None])[:, 0].cpu())
    return found


def compared(
    served: Sequence[torch.Tensor], found: Sequence[torch.Tensor], tolerance: Tolerance, what: str
) -> Comparison:
    """How far the export, called `what`, is from what is served.

    Raises:
        Internal: further than tolerated, or not a number.

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

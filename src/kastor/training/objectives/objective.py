"""The protocol between the training loop and an objective such as supervised fine-tuning or preference tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from kastor.models.chat.render import RenderedExample
from kastor.training.loss import RowOutputs

Example = TypeVar("Example")
"""What an objective learns from: one sequence, or several that are compared with each other."""
Example_contra = TypeVar("Example_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class RowLoss:
    """What an objective computes on one packed row: sums, which the loop divides by the step's denominator."""

    loss: torch.Tensor  # a scalar, with gradients
    metrics: Mapping[str, float] = field(default_factory=dict)  # the same names in every row


class Objective(Protocol[Example_contra]):
    """Turns the model's outputs into a loss.

    The loop cuts a step into rows, and into shorter ones when memory runs out. The loss of the step is the sum over its
    rows divided by `denominator`, so that it does not depend on the cut.
    """

    def sequences(self, example: Example_contra) -> Sequence[RenderedExample]:
        """The sequences of one example; they are next to each other in one row, in this order."""

    def denominator(self, examples: Sequence[Example_contra]) -> int:
        """The number by which summed loss and metrics of these examples are divided."""

    def row_loss(self, outputs: RowOutputs, examples: Sequence[Example_contra]) -> RowLoss:
        """Loss and metrics of a row, summed. The row holds the sequences of `examples`, in order."""

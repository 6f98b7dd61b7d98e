"""Held-out examples: the loop computes their loss at given steps, without gradients."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from kastor.training.objectives.objective import Example


@dataclass(frozen=True, slots=True)
class HeldOut(Generic[Example]):
    """Examples that are not trained on, and the steps (from 1) after which they are evaluated."""

    examples: Sequence[Example]
    at_steps: Container[int]  # for instance range(50, 1001, 50)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The objective on held-out examples."""

    mean_loss: float
    metrics: Mapping[str, float]  # the objective's own
    num_examples: int  # that have tokens; others are skipped
    elapsed_s: float

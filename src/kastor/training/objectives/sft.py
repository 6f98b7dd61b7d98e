"""Supervised fine-tuning: cross entropy of the supervised tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from kastor.models.chat.render import RenderedExample
from kastor.training.loss import RowOutputs
from kastor.training.objectives.objective import RowLoss


@dataclass(frozen=True, slots=True)
class SupervisedFineTuning:
    """Mean cross entropy, in nats, over all supervised tokens of a step."""

    def sequences(self, example: RenderedExample) -> Sequence[RenderedExample]:
        """The example itself."""
        return (example,)

    def denominator(self, examples: Sequence[RenderedExample]) -> int:
        """The number of supervised tokens. The first token of an example is never a target: nothing precedes it."""
        return sum(sum(example.supervised[1:]) for example in examples)

    def row_loss(self, outputs: RowOutputs, examples: Sequence[RenderedExample]) -> RowLoss:
        """The summed cross entropy of the row's targets."""
        return RowLoss(outputs.cross_entropy())

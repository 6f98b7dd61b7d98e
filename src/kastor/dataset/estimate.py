"""What training on a dataset will take: steps, time, memory, disk. Arithmetic on measured figures of this repository.

    time    tokens of all epochs / tokens a second: of earlier jobs on the same base, else a calibration
    memory  process + base + adapter with its optimizer + activations of the largest row
    disk    checkpoints (adapter with its optimizer), published adapters, the job's copy of the dataset

The figures behind it were measured with SmolLM2-135M on two cores (docs/log.md, "The training step"): 373 to 469
tokens a second, 2.5 to 2.8 GB at the peak with rows of some 2,900 tokens, adapters of rank 8.
"""

import math
from dataclasses import dataclass
from typing import Any

from kastor.domain.job import Hyperparameters, total_steps

MEASURED_PARAMETERS = 134_515_008
MEASURED_TOKENS_PER_S = 420.0  # on two cores
MEASURED_TRAINABLE = 305_280  # for each rank, of all linear layers of SmolLM2-135M
PROCESS_BYTES = 600_000_000  # Python with torch, before a model
ACTIVATION_BYTES = 600_000  # a token of a row; (2.65 GB - 0.6 - 0.27 - 0.04) / 2,900, and what larger ones scale from
BASE_BYTES = 2  # a parameter, in bf16
TRAINED_BYTES = 16  # a parameter of the adapter: fp32 with its gradient and two moments
CHECKPOINT_BYTES = 12  # a parameter of the adapter on disk: fp32 with two moments
ADAPTER_BYTES = 4
MAX_ROW_TOKENS = 4096  # as training.packing lays examples end to end; a longer one has a row of its own
KEPT_CHECKPOINTS = 10  # about one an epoch, ten at most


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second that training reaches, and how that is known."""

    tokens_per_s: float
    source: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a base model decides how much it takes."""

    num_parameters: int
    rank: int

    @property
    def num_trainable(self) -> int:
        """Parameters of the adapter, roughly: they grow with layers times width, the base's with width once more.

        >>> Shape(134_515_008, 8).num_trainable
        2442240
        """
        return round(self.rank * MEASURED_TRAINABLE * math.pow(self._growth, 2 / 3))

    @property
    def _growth(self) -> float:
        return self.num_parameters / MEASURED_PARAMETERS

    @property
    def calibrated(self) -> Speed:
        """The speed measured with the embedded base, taken to fall as the parameters grow."""
        return Speed(
            MEASURED_TOKENS_PER_S / self._growth, "a rough calibration: SmolLM2-135M on two cores, scaled by parameters"
        )

    def peak_bytes(self, row_tokens: int) -> int:
        """Memory at the peak, with rows of so many tokens."""
        activations = ACTIVATION_BYTES * math.pow(self._growth, 2 / 3) * row_tokens
        held = BASE_BYTES * self.num_parameters + TRAINED_BYTES * self.num_trainable
        return round(PROCESS_BYTES + held + activations)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What training will take; `duration_s` and `peak_bytes` are absent where tokens were not counted."""

    hyperparameters: Hyperparameters
    num_steps: int
    disk_bytes: int
    num_tokens: int | None = None  # of all epochs
    duration_s: float | None = None
    speed: Speed | None = None
    peak_bytes: int | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "steps": self.num_steps,
            "epochs": self.hyperparameters.num_epochs,
            "batchSize": self.hyperparameters.batch_size,
            "learningRate": self.hyperparameters.learning_rate,
            "tokens": self.num_tokens,
            "seconds": None if self.duration_s is None else round(self.duration_s, 1),
            "tokensPerSecond": None if self.speed is None else round(self.speed.tokens_per_s, 1),
            "tokensPerSecondSource": None if self.speed is None else self.speed.source,
            "peakMemoryBytes": self.peak_bytes,
            "diskBytes": self.disk_bytes,
        }


def estimated(
    hyperparameters: Hyperparameters,
    shape: Shape,
    *,
    num_examples: int,
    num_tokens: int,
    longest: int,
    num_bytes: int,
    speed: Speed | None = None,
) -> Estimate:
    """What training on `num_examples` with `num_tokens` in all will take; 0 tokens: they were not counted.

    `longest` is the tokens of the longest example, `num_bytes` the size of the file, of which a job keeps a copy.
    """
    epochs, batch = hyperparameters.num_epochs, hyperparameters.batch_size
    adapters = min(epochs, KEPT_CHECKPOINTS)
    disk = num_bytes + shape.num_trainable * (CHECKPOINT_BYTES * adapters + ADAPTER_BYTES)
    steps = total_steps(num_examples, epochs, batch)
    if not num_tokens:
        return Estimate(hyperparameters, steps, disk)
    speed = speed or shape.calibrated
    a_step = num_tokens / num_examples * min(batch, num_examples)
    row_tokens = max(longest, min(MAX_ROW_TOKENS, round(a_step)))
    return Estimate(
        hyperparameters,
        steps,
        disk,
        num_tokens * epochs,
        num_tokens * epochs / speed.tokens_per_s,
        speed,
        shape.peak_bytes(row_tokens),
    )

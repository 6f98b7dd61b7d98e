"""Estimates what training on a dataset costs: steps, time, memory, disk, computed from measured figures.

    time    a job's beginning and end + steps + tokens of all epochs + the first sight of media: of earlier jobs on the
            same base, else a calibration that is scaled by how fast this machine multiplies
    memory  process + base + adapter with its optimizer + activations of the largest row
    disk    checkpoints (adapter with its optimizer), published adapters, the job's copy of the dataset

The figures of time were measured by `python -m bench.estimate` (docs/log.md, "How long a job takes"), those of memory
with SmolLM2-135M: 2.5 to 2.8 GB at the peak with rows of some 2,900 tokens, adapters of rank 8.
"""

import math
from dataclasses import dataclass
from typing import Any

from kastor.domain.job import MAX_ROW_TOKENS, Hyperparameters, total_steps

MEASURED_PARAMETERS = 134_515_008
MEASURED_GFLOPS = 260.0  # fp32 matrix products on the two cores where the figures below were measured
TILES_SPEEDUP = 2.8  # of training where the processor multiplies bf16 in tiles (AMX): 400 against 145 tokens a second
STEP_S, TOKEN_S = 0.45, 1 / 160
MEDIA_TOKEN_S = 0.0003  # decoding and the vision tower, once for each token of rows with media
JOB_S = 15.0  # process, base, certificate, publishing
MEASURED_TRAINABLE = 305_280  # for each rank, of all linear layers of SmolLM2-135M
PROCESS_BYTES = 600_000_000  # Python with torch, before a model
ACTIVATION_BYTES = 600_000  # a token of a row; (2.65 GB - 0.6 - 0.27 - 0.04) / 2,900, and what larger ones scale from
BASE_BYTES = 2  # a parameter, in bf16
TRAINED_BYTES = 16  # a parameter of the adapter: fp32 with its gradient and two moments
CHECKPOINT_BYTES = 12  # a parameter of the adapter on disk: fp32 with two moments
ADAPTER_BYTES = 4
KEPT_CHECKPOINTS = 10  # about one an epoch, ten at most


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """The machine's speed at matrix products: fp32 in numpy, and whether it has bf16 tiles."""

    gflops: float
    has_tiles: bool = False


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """Seconds of training per step, per token, per media token seen first, and per job; and their source."""

    step_s: float
    token_s: float
    media_token_s: float
    job_s: float
    source: str

    def seconds(self, num_steps: int, num_tokens: int, num_media_tokens: int) -> float:
        """Duration of a job with this total of steps and tokens; media tokens are counted once, not per epoch.

        >>> MeasuredPace(0.5, 0.01, 0.02, 10.0, "").seconds(20, 1000, 100)
        32.0
        """
        steps_s = self.step_s * num_steps + self.token_s * num_tokens
        return self.job_s + steps_s + self.media_token_s * num_media_tokens


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The sizes of a base model that decide the cost of training."""

    num_parameters: int
    rank: int

    @property
    def num_trainable(self) -> int:
        """Parameters of the adapter, roughly: they grow with layers times width, the base's with width once more.

        >>> ModelSize(134_515_008, 8).num_trainable
        2442240
        """
        return round(self.rank * MEASURED_TRAINABLE * math.pow(self._growth, 2 / 3))

    @property
    def _growth(self) -> float:
        return self.num_parameters / MEASURED_PARAMETERS

    def calibrated(self, machine: MachineSpeed) -> MeasuredPace:
        """The embedded base's measured pace, scaled to this model's parameters and this machine's speed."""
        slower = MEASURED_GFLOPS / machine.gflops
        trained = slower * self._growth / (TILES_SPEEDUP if machine.has_tiles else 1.0)
        scaling = f"scaled by parameters and by this machine's {machine.gflops:.0f} GFLOP/s"
        source = f"a rough calibration: SmolLM2-135M, {scaling}"
        return MeasuredPace(STEP_S * trained, TOKEN_S * trained, MEDIA_TOKEN_S * slower, JOB_S * slower, source)

    def peak_bytes(self, row_tokens: int) -> int:
        """Peak memory for rows of this many tokens."""
        activations = ACTIVATION_BYTES * math.pow(self._growth, 2 / 3) * row_tokens
        held = BASE_BYTES * self.num_parameters + TRAINED_BYTES * self.num_trainable
        return round(PROCESS_BYTES + held + activations)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of training; `duration_s` and `peak_bytes` are `None` if tokens were not counted."""

    hyperparameters: Hyperparameters
    num_steps: int
    disk_bytes: int
    num_tokens: int | None = None  # of all epochs
    duration_s: float | None = None
    tokens_per_s: float | None = None
    pace_source: str | None = None
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
            "tokensPerSecond": None if self.tokens_per_s is None else round(self.tokens_per_s, 1),
            "tokensPerSecondSource": self.pace_source,
            "peakMemoryBytes": self.peak_bytes,
            "diskBytes": self.disk_bytes,
        }


def estimate_cost(
    hyperparameters: Hyperparameters,
    shape: ModelSize,
    *,
    num_examples: int,
    num_tokens: int,
    longest: int,
    num_bytes: int,
    pace: MeasuredPace | None,
    num_media_tokens: int = 0,
) -> Estimate:
    """The cost of training on `num_examples` with `num_tokens` in total; 0 tokens means that they were not counted.

    `longest` is the tokens of the longest example, `num_bytes` the size of the file, of which a job keeps a copy;
    `num_media_tokens` are those of the examples with media.
    """
    epochs, batch = hyperparameters.num_epochs, hyperparameters.batch_size
    adapters = min(epochs, KEPT_CHECKPOINTS)
    disk = num_bytes + shape.num_trainable * (CHECKPOINT_BYTES * adapters + ADAPTER_BYTES)
    steps = total_steps(num_examples, epochs, batch)
    if not num_tokens or pace is None:
        return Estimate(hyperparameters, steps, disk)
    a_step = num_tokens / num_examples * min(batch, num_examples)
    row_tokens = max(longest, min(MAX_ROW_TOKENS, round(a_step)))
    duration_s = pace.seconds(steps, num_tokens * epochs, num_media_tokens)
    return Estimate(
        hyperparameters,
        steps,
        disk,
        num_tokens * epochs,
        duration_s,
        num_tokens * epochs / max(duration_s - pace.job_s, 1e-9),
        pace.source,
        shape.peak_bytes(row_tokens),
    )

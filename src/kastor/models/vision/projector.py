"""The projector: frozen features of pictures -> embeddings of the language model.

It is trained with a job and is part of its adapter: two layers with a GELU between, in fp32. What goes in is
standardised by the mean and deviation that the features of the training set have in each channel; what comes out has
the deviation of the embedding table, so that the language model meets numbers of the size it knows from the first step.

To what the layers make of a token's place is added what the picture as a whole tells of the answer: an affine map of
the mean of its features, found by regression before the first step (`training.alignment`) and not trained further.

Shapes: N tokens of P pictures, C channels of the tower, W width of the language model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kastor.domain.errors import FailedPrecondition

PROJECTOR_FILE = "projector.safetensors"
GELU_POWER = 0.425  # mean square of GELU over the standard normal distribution
MIN_DEVIATION = 1e-3  # a channel that never changes tells nothing, and is not blown up
ALIGNED, ALIGNED_OFFSET = "aligned_CW", "aligned_W"  # absent from files of the first versions


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Mean and deviation of features in each channel, (C,) both."""

    mean_C: NDArray[np.float64]
    deviation_C: NDArray[np.float64]

    @classmethod
    def of(cls, features: Iterable[NDArray[np.float16] | NDArray[np.float32]]) -> "ChannelStats":
        """The spread over arrays (N, C), of which there must be one at least."""
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for features_NC in features:
            exact = features_NC.astype(np.float64)
            count += len(exact)
            total = total + exact.sum(axis=0)
            squares = squares + np.square(exact).sum(axis=0)
        mean = total / count
        return cls(mean, np.sqrt(np.maximum(squares / count - np.square(mean), 0)))


class Projector(nn.Module):
    """The projector: call it on features (N, C) of pictures for embeddings (N, W) in fp32."""

    mean_C: torch.Tensor
    deviation_C: torch.Tensor
    scale: torch.Tensor
    aligned_CW: torch.Tensor
    aligned_W: torch.Tensor

    def __init__(self, num_channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(num_channels, hidden)
        self.outer = nn.Linear(hidden, width)
        self.register_buffer("mean_C", torch.zeros(num_channels))
        self.register_buffer("deviation_C", torch.ones(num_channels))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer(ALIGNED, torch.zeros(num_channels, width))
        self.register_buffer(ALIGNED_OFFSET, torch.zeros(width))

    @classmethod
    def fresh(cls, spread: ChannelStats, width: int, *, scale: float, seed: int) -> "Projector":
        """A random one from `seed`; `scale` is the deviation of the embedding table."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(len(spread.mean_C), width, width)
            nn.init.normal_(made.inner.weight, std=made.inner.in_features**-0.5)
            nn.init.normal_(made.outer.weight, std=(GELU_POWER * made.outer.in_features) ** -0.5)
        nn.init.zeros_(made.inner.bias)
        nn.init.zeros_(made.outer.bias)
        made.mean_C.copy_(torch.from_numpy(spread.mean_C))
        made.deviation_C.copy_(torch.from_numpy(spread.deviation_C).clamp_min(MIN_DEVIATION))
        made.scale.fill_(scale)
        return made

    @classmethod
    def load(cls, folder: Path) -> "Projector | None":
        """The projector that lies beside the adapter in `folder`; `None` where that was trained on text alone.

        Raises:
            FailedPrecondition: the file is damaged, or no projector.

        """
        file = folder / PROJECTOR_FILE
        if not file.exists():
            return None
        try:
            held = load_file(file)
            hidden, num_channels = held["inner.weight"].shape
            made = cls(num_channels, hidden, len(held["outer.weight"]))
            made.load_state_dict({ALIGNED: made.aligned_CW, ALIGNED_OFFSET: made.aligned_W} | held)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise FailedPrecondition(f"{file} is no projector that can be read: {error}") from error
        if not all(math.isfinite(float(tensor.sum())) for tensor in held.values()):
            raise FailedPrecondition(f"{file} holds numbers that are not finite.")
        return made

    def align(self, matrix_CW: NDArray[np.float64], offset_W: NDArray[np.float64]) -> None:
        """Begin with this map from the mean of a picture's features to an addition to all of its tokens."""
        self.aligned_CW.copy_(torch.from_numpy(matrix_CW))
        self.aligned_W.copy_(torch.from_numpy(offset_W))

    def save(self, folder: Path) -> None:
        """Write it into `folder`, beside the adapter."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / PROJECTOR_FILE)

    @property
    def width(self) -> int:
        """W."""
        return self.outer.out_features

    def forward(self, features_NC: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Embeddings (N, W) of the features (N, C) of pictures laid end to end, `sizes` tokens each, in fp32."""
        standard_NC = (features_NC.float() - self.mean_C) / self.deviation_C
        embeddings_NW: torch.Tensor = self.outer(F.gelu(self.inner(standard_NC))) * self.scale
        mean_PC = torch.stack([part.mean(dim=0) for part in features_NC.float().split(list(sizes))])
        told_PW = mean_PC @ self.aligned_CW + self.aligned_W
        of_picture_N = torch.repeat_interleave(torch.tensor(sizes, device=told_PW.device))
        return embeddings_NW + told_PW[of_picture_N]

"""How training sees: stored features of pictures, and the projector that makes embeddings of them.

Shapes: T tokens of a row, N of them a picture's, C channels of the tower, W width of the language model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kastor.models.projector import Projector
from kastor.models.render import Picture

RATE_FACTOR = 2.0
"""The projector's learning rate as a multiple of the adapter's: it starts from nothing, the adapter from a model."""

PROJECTOR = "projector."
"""Stands before the names of its parameters in the training state."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The projector that is trained, and where its input comes from."""

    projector: Projector
    read: Callable[[str, int], NDArray[np.float16]]  # key and index of a picture -> its features (N, C)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by the names used in the training state."""
        return {PROJECTOR + name: parameter for name, parameter in self.projector.named_parameters()}

    def placed(self, embeddings_TW: torch.Tensor, pictures: Sequence[Picture]) -> torch.Tensor:
        """The embeddings of a row with those of its pictures in their places, through which gradients flow."""
        features = np.concatenate([self.read(picture.key, picture.index) for picture in pictures])
        places = np.concatenate([np.arange(p.start, p.start + p.num_tokens) for p in pictures])
        device = embeddings_TW.device
        made = self.projector(torch.from_numpy(features).to(device)).to(embeddings_TW.dtype)
        return embeddings_TW.index_copy(0, torch.from_numpy(places).to(device), made)

"""How training sees: stored features of pictures, and the projector that makes embeddings of them.

The features of a pretrained model that sees are what its own projector gives: there is none to train.

Shapes: T tokens of a row, V of them in pictures, N of those one picture's, C channels of the features, W width of the
language model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kastor.domain.vision import BothWays
from kastor.models.language import Model, Places
from kastor.models.projector import Projector
from kastor.models.render import Picture
from kastor.models.vision import Features

RATE_FACTOR = 2.0
"""The projector's learning rate as a multiple of the adapter's: it starts from nothing, the adapter from a model."""

PROJECTOR = "projector."
"""Stands before the names of its parameters in the training state."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The projector that is trained, if there is one, and where its input comes from."""

    projector: Projector | None
    read: Callable[[str, int], Features]  # key and index of a picture -> its features (N, C)
    both_ways: BothWays = BothWays.NEVER

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by the names used in the training state."""
        held = () if self.projector is None else self.projector.named_parameters()
        return {PROJECTOR + name: parameter for name, parameter in held}

    def made(self, pictures: Sequence[Picture], device: torch.device) -> torch.Tensor:
        """What the language model is given in the pictures' places, one after the other: (V, W), or more a token."""
        features_VC = np.concatenate([self._features(picture) for picture in pictures])
        given = torch.from_numpy(features_VC).to(device)
        sizes = [picture.num_tokens for picture in pictures]
        return given if self.projector is None else self.projector(given, sizes)

    def places(self, model: Model, token_ids_T: torch.Tensor, pictures: Sequence[Picture]) -> Places:
        """A row's tokens with what is made of its pictures in their places, through which gradients flow."""
        places = np.concatenate([np.arange(p.start, p.start + p.num_tokens) for p in pictures])
        device = token_ids_T.device
        return Places.of(model, token_ids_T, torch.from_numpy(places).to(device), self.made(pictures, device))

    def _features(self, picture: Picture) -> Features:
        return self.read(picture.key, picture.index)[picture.offset : picture.offset + picture.num_tokens]

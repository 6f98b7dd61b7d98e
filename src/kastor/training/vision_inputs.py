"""How training sees: stored features of pictures, and the projector that makes embeddings of them.

Where the tower is trained, too, pictures take the place of features. The features of a pretrained model that sees are
what its own projector gives: there is none to train.

Shapes: T tokens of a row, V of them in pictures, N of those one picture's, C channels of the features, W width of the
language model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from kastor.domain.vision import BidirectionalAttention
from kastor.models.chat.render import PictureSpan
from kastor.models.decoder.inputs import DecoderInputs, Model
from kastor.models.vision.efficientnet import EfficientNetLite
from kastor.models.vision.projector import Projector

RATE_FACTOR = 2.0
"""The projector's learning rate as a multiple of the adapter's: it starts from nothing, the adapter from a model."""

TOWER_RATE_FACTOR = 0.1
"""The tower's: what it knows of pictures it has from a million of them, and a job's few are not to overwrite it."""

PROJECTOR, TOWER = "projector.", "tower."
"""Stand before the names of their parameters in the training state."""

Read = Callable[[str, int], NDArray[Any]]
"""Key and index of a picture -> its features (N, C), or its pixels (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """The projector that is trained, if there is one, and where its input comes from."""

    projector: Projector | None
    read: Read
    both_ways: BidirectionalAttention = BidirectionalAttention.NEVER
    tower: EfficientNetLite | None = None  # trained, too: what is read are pixels
    corrections: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By key of a medium that the projector was aligned on: what is added, (W,), to the tokens of its pictures while
    training, so that they tell what the alignment without it would (`alignment`)."""

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by the names used in the training state."""
        return {name: parameter for _, group in self.param_groups for name, parameter in group.items()}

    @property
    def param_groups(self) -> list[tuple[float, dict[str, torch.nn.Parameter]]]:
        """The same in groups, with their learning rates as multiples of the adapter's."""
        parts = ((PROJECTOR, RATE_FACTOR, self.projector), (TOWER, TOWER_RATE_FACTOR, self.tower))
        return [
            (factor, {prefix + name: parameter for name, parameter in part.named_parameters()})
            for prefix, factor, part in parts
            if part is not None
        ]

    def embed(self, pictures: Sequence[PictureSpan], device: torch.device) -> torch.Tensor:
        """What the language model is given in the pictures' places, one after the other: (V, W), or more a token."""
        if self.tower is None:
            features_VC = np.concatenate([self._features(picture) for picture in pictures])
            given = torch.from_numpy(features_VC).to(device)
        else:
            given = torch.cat([encode_picture(self.tower, self.read(p.key, p.index), device) for p in pictures])
        if self.projector is None:
            return given
        made: torch.Tensor = self.projector(given, [picture.num_tokens for picture in pictures])
        return made + self._corrections(pictures, made) if self.corrections else made

    def decoder_inputs(self, model: Model, token_ids_T: torch.Tensor, pictures: Sequence[PictureSpan]) -> DecoderInputs:
        """A row's tokens with what is made of its pictures in their places, through which gradients flow."""
        places = np.concatenate([np.arange(p.start, p.start + p.num_tokens) for p in pictures])
        device = token_ids_T.device
        return DecoderInputs.of(model, token_ids_T, torch.from_numpy(places).to(device), self.embed(pictures, device))

    def without_corrections(self) -> "VisionInputs":
        """What whoever serves the adapter sees."""
        return replace(self, corrections={})

    def _corrections(self, pictures: Sequence[PictureSpan], like_VW: torch.Tensor) -> torch.Tensor:
        none_W = like_VW.new_zeros(like_VW.shape[1])
        added = [self.corrections.get(p.key, none_W).to(like_VW).expand(p.num_tokens, -1) for p in pictures]
        return torch.cat(added)

    def _features(self, picture: PictureSpan) -> NDArray[Any]:
        return self.read(picture.key, picture.index)[picture.offset : picture.offset + picture.num_tokens]


def encode_picture(tower: EfficientNetLite, pixels_HWC: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """What the tower makes of one picture, (N, C) in fp32, through which gradients flow.

    Rounded to half precision, as whoever serves the tuned tower keeps it; the gradient knows nothing of that. Nothing
    of the pass is held for the way back, but made again: a row may show sixty pictures.
    """
    pictures_1HWC = torch.from_numpy(np.array(pixels_HWC))[None].to(device)
    made: torch.Tensor = checkpoint(tower, pictures_1HWC, use_reentrant=False)
    exact = made[0].float()
    half = exact.detach().half().float()
    return exact + torch.where(half.isfinite(), half - exact.detach(), 0.0)

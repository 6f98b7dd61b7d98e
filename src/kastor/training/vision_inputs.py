"""Vision inputs of training: cached picture features and the trainable projector that embeds them.

If the tower is trained as well, it takes pixels instead of cached features. The features of a pretrained
vision-language model are the outputs of its own projector, so there is no projector to train.

Shapes: T tokens of a row, V of them picture tokens, N tokens of one picture, C channels of the features, W width of the
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
"""Learning rate of the projector as a multiple of the adapter's; higher because the projector starts at random."""

TOWER_RATE_FACTOR = 0.1
"""Learning rate of the tower; lower so that the few pictures of a job do not overwrite its pretraining."""

PROJECTOR, TOWER = "projector.", "tower."
"""Prefixes of parameter names in the training state."""

Read = Callable[[str, int], NDArray[Any]]
"""Key and index of a picture -> its features (N, C), or its pixels (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """Source of picture features, and the modules that embed them."""

    projector: Projector | None
    read: Read
    both_ways: BidirectionalAttention = BidirectionalAttention.NEVER
    tower: EfficientNetLite | None = None  # if trained; `read` then returns pixels
    corrections: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By key of a medium that the projector was aligned on: an offset (W,) added to its picture tokens during training,
    which replaces the fitted alignment by its leave-one-out prediction (`projector_init`)."""

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Trainable parameters, by their names in the training state."""
        return {name: parameter for _, group in self.param_groups for name, parameter in group.items()}

    @property
    def param_groups(self) -> list[tuple[float, dict[str, torch.nn.Parameter]]]:
        """The trainable parameters in groups, each with its learning rate as a multiple of the adapter's."""
        parts = ((PROJECTOR, RATE_FACTOR, self.projector), (TOWER, TOWER_RATE_FACTOR, self.tower))
        return [
            (factor, {prefix + name: parameter for name, parameter in part.named_parameters()})
            for prefix, factor, part in parts
            if part is not None
        ]

    def embed(self, pictures: Sequence[PictureSpan], device: torch.device) -> torch.Tensor:
        """Embeddings of the pictures' tokens, concatenated: (V, W), or wider with deepstack levels."""
        if self.tower is None:
            features_VC = np.concatenate([self._features(picture) for picture in pictures])
            inputs_VC = torch.from_numpy(features_VC).to(device)
        else:
            inputs_VC = torch.cat([encode_picture(self.tower, self.read(p.key, p.index), device) for p in pictures])
        if self.projector is None:
            return inputs_VC
        embeddings: torch.Tensor = self.projector(inputs_VC, [picture.num_tokens for picture in pictures])
        return embeddings + self._corrections(pictures, embeddings) if self.corrections else embeddings

    def decoder_inputs(self, model: Model, token_ids_T: torch.Tensor, pictures: Sequence[PictureSpan]) -> DecoderInputs:
        """Decoder inputs of a row, with picture embeddings at their positions; gradients flow through them."""
        positions = np.concatenate([np.arange(p.start, p.start + p.num_tokens) for p in pictures])
        device = token_ids_T.device
        return DecoderInputs.of(
            model, token_ids_T, torch.from_numpy(positions).to(device), self.embed(pictures, device)
        )

    def without_corrections(self) -> "VisionInputs":
        """The vision inputs as served: without the corrections used in training."""
        return replace(self, corrections={})

    def _corrections(self, pictures: Sequence[PictureSpan], like_VW: torch.Tensor) -> torch.Tensor:
        none_W = like_VW.new_zeros(like_VW.shape[1])
        offsets = [self.corrections.get(p.key, none_W).to(like_VW).expand(p.num_tokens, -1) for p in pictures]
        return torch.cat(offsets)

    def _features(self, picture: PictureSpan) -> NDArray[Any]:
        return self.read(picture.key, picture.index)[picture.offset : picture.offset + picture.num_tokens]


def encode_picture(tower: EfficientNetLite, pixels_HWC: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Features of one picture by a trainable tower, (N, C) in fp32; gradients flow through them.

    They are rounded to half precision, as serving stores them; the gradient ignores the rounding. Activations are
    recomputed in the backward pass, because a row may have sixty pictures.
    """
    pictures_1HWC = torch.from_numpy(np.array(pixels_HWC))[None].to(device)
    features: torch.Tensor = checkpoint(tower, pictures_1HWC, use_reentrant=False)
    exact = features[0].float()
    half = exact.detach().half().float()
    return exact + torch.where(half.isfinite(), half - exact.detach(), 0.0)

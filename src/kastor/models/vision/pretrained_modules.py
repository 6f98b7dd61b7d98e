"""The vision part and projector of each pretrained family: a picture and its grid -> what the language model is given.

Built of transformers' own modules under the names that the families' checkpoints use; `towers` loads the weights.
Shapes: P patches, T tiles, N tokens, W width of the language model, D deepstack levels.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from transformers import AutoModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.gemma4.modeling_gemma4 import Gemma4MultimodalEmbedder
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid
from kastor.models.vision.preprocess import (
    Floats,
    Pixels,
    PreprocessConfig,
    normalise_pixels,
    patches,
    plain_patches,
    split_tiles,
)

Config = Any  # a configuration of transformers
LLAVA_TOWERS = (("clip_vision_model", "default"), ("siglip_vision_model", "full"))


class VisionPart(nn.Module):
    """What all families' parts have in common; called with a picture (1, H, W, 3), its grid and the family's recipe."""

    num_channels: int  # C of the features (N, C)


class Gemma3Part(VisionPart):
    """SigLIP, its patches averaged in squares, normalised and projected."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = _vision(config)
        self.multi_modal_projector = Gemma3MultiModalProjector(config)
        self.num_channels = int(config.text_config.hidden_size)

    def forward(self, picture_1HWC: Pixels, grid: Grid, recipe: PreprocessConfig) -> torch.Tensor:
        """Features (N, W); other grids than the model's own are pooled to before its norm and projection."""
        pixels = _on(self, normalise_pixels(picture_1HWC, recipe))
        pooled = _pooled(self.vision_tower(pixel_values=pixels).last_hidden_state, grid)
        normed = self.multi_modal_projector.mm_soft_emb_norm(pooled)
        return torch.matmul(normed, self.multi_modal_projector.mm_input_projection_weight)[0]


class Gemma4Part(VisionPart):
    """Gemma 4's own tower, which pools and standardises, and the projection of what it gives."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = _vision(config)
        self.embed_vision = Gemma4MultimodalEmbedder(config.vision_config, config.text_config)
        self.num_channels = int(config.text_config.hidden_size)

    def forward(self, picture_1HWC: Pixels, grid: Grid, recipe: PreprocessConfig) -> torch.Tensor:
        """Features (N, W)."""
        patch_size = self.vision_tower.config.patch_size
        pixels = _on(self, plain_patches(normalise_pixels(picture_1HWC, recipe), patch_size))
        rows, columns = np.indices((grid.height // patch_size, grid.width // patch_size)).reshape(2, -1)
        positions = torch.from_numpy(np.stack([columns, rows], axis=-1)[None]).to(pixels.device)  # (1, P, 2): x, y
        seen = self.vision_tower(pixel_values=pixels, pixel_position_ids=positions).last_hidden_state
        features: torch.Tensor = self.embed_vision(inputs_embeds=seen)
        return features.reshape(grid.num_tokens, -1)


class LlavaPart(VisionPart):
    """Some layer of CLIP or SigLIP, projected, and averaged in squares.

    What is averaged are the embeddings that the language model knows, not what its projector is given.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        kind, layer = config.vision_config.model_type, config.vision_feature_layer
        taken = config.vision_feature_select_strategy
        if (kind, taken) not in LLAVA_TOWERS or not isinstance(layer, int):
            raise FailedPrecondition(
                f"A LLaVA whose tower is a {kind}, read at layer {layer!r} with the strategy {taken!r}, is not "
                "supported: one layer of CLIP without its class token is, or of SigLIP, which has none."
            )
        self.vision_tower = _vision(config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.num_channels = int(config.text_config.hidden_size)
        self._layer = layer
        self._drops_first = taken == "default"

    def forward(self, picture_1HWC: Pixels, grid: Grid, recipe: PreprocessConfig) -> torch.Tensor:
        """Features (N, W)."""
        pixels = _on(self, normalise_pixels(picture_1HWC, recipe))
        seen = self.vision_tower(pixels, output_hidden_states=True).hidden_states[self._layer]
        features = self.multi_modal_projector(seen[:, 1:] if self._drops_first else seen)
        return _pooled(features, grid)[0]


class QwenPart(VisionPart):
    """Qwen-VL's tower; the features that Qwen3-VL gives to its first layers (deepstack) lie beside the embeddings."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.visual = _vision(config)
        levels = getattr(config.vision_config, "deepstack_visual_indexes", ())
        self.num_channels = int(config.vision_config.out_hidden_size) * (1 + len(levels))

    def forward(self, picture_1HWC: Pixels, grid: Grid, recipe: PreprocessConfig) -> torch.Tensor:
        """Features (N, W * (1 + D)). A frame of a video is encoded as a still: for both frames that a patch spans."""
        of = self.visual.config
        merge = of.spatial_merge_size
        pixels = patches(
            normalise_pixels(picture_1HWC, recipe),
            patch_size=of.patch_size,
            merge=merge,
            num_frames=of.temporal_patch_size,
        )
        shape = torch.tensor([[1, grid.rows * merge, grid.columns * merge]], device=_device(self))
        seen = self.visual(_on(self, pixels), grid_thw=shape)
        return torch.cat([seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())], dim=-1)


class TiledPart(VisionPart):
    """SmolVLM's and Idefics3's SigLIP and connector; each tile is a picture of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        connector = SmolVLMConnector if config.model_type == "smolvlm" else Idefics3Connector
        self.vision_model = _vision(config)
        self.connector = connector(config)
        self.num_channels = int(config.text_config.hidden_size)

    def forward(self, picture_1HWC: Pixels, grid: Grid, recipe: PreprocessConfig) -> torch.Tensor:
        """Features (N, W), tile after tile."""
        each = split_tiles(picture_1HWC, grid)  # (T, H, W, 3); one by one, as a single tile is encoded
        seen = [self.vision_model(pixel_values=_on(self, normalise_pixels(tile[None], recipe))) for tile in each]
        return torch.cat([self.connector(one.last_hidden_state)[0] for one in seen])


PARTS: Mapping[str, tuple[str, Callable[[Config], VisionPart]]] = MappingProxyType(
    {
        "gemma3": ("gemma3", Gemma3Part),
        "gemma4": ("gemma4", Gemma4Part),
        "idefics3": ("idefics3", TiledPart),
        "llava": ("llava", LlavaPart),
        "qwen2.5-vl": ("qwen2_5_vl", QwenPart),
        "qwen3-vl": ("qwen3_vl", QwenPart),
        "smolvlm": ("smolvlm", TiledPart),
    }
)
"""A family's name -> the `model_type` of its config.json, and its vision part."""


def _vision(config: Config) -> Any:  # noqa: ANN401  # a model of transformers
    return AutoModel.from_config(config.vision_config, attn_implementation="sdpa", dtype=torch.float32)


def _pooled(features_1PC: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(1, N, C): the means of squares of patches."""
    _, num_patches, channels = features_1PC.shape
    side = round(num_patches**0.5)
    square = features_1PC.transpose(1, 2).reshape(1, channels, side, side).contiguous()
    return avg_pool2d(square, side // grid.rows).flatten(2).transpose(1, 2)


def _device(part: nn.Module) -> torch.device:
    return next(part.parameters()).device


def _on(part: nn.Module, pixels: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(_device(part))

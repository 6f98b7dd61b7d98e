"""The frozen tower and projector of a pretrained vision-language model, loaded without its language model.

Computed in fp32, on a GPU too: features are made once, kept, and shared by machines, so that they should be the same
numbers to rounding wherever they were made; what that costs over bf16 is paid once a picture.
What a family's part consists of is in `tower_families`; pictures are brought into shape by `preprocess`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.initialization import no_init_weights

from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid
from kastor.models.device import best_device
from kastor.models.vision.preprocess import PREPROCESS_CONFIGS, Pixels, PreprocessConfig
from kastor.models.vision.pretrained_modules import PARTS, VisionPart

VISION_ROOTS = ("connector", "embed_vision", "multi_modal_projector", "vision_model", "vision_tower", "visual")
DECISIVE = (
    "image_seq_length",
    "mm_tokens_per_image",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "scale_factor",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
"""What of config.json decides the features, beside its `vision_config`."""
IDLE = frozenset({"_name_or_path", "dtype", "torch_dtype", "transformers_version"})

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class PretrainedTower:
    """The frozen tower and projector of a pretrained model: pictures -> what its language model is given for them."""

    hash: str  # of the weights and the configuration that decide the features
    num_channels: int  # C of what comes out: W, or W * (1 + D) with D levels of deepstack side by side
    part: VisionPart
    recipe: PreprocessConfig

    @classmethod
    def open(cls, folder: Path, family: str) -> "PretrainedTower":
        """The vision part of the base model in `folder`, of a family of `PARTS`, on the best device.

        Raises:
            FailedPrecondition: files are missing or broken, or are not of that family.

        """
        config = _config(folder, family)
        tensors = _tensors(folder)
        try:
            with no_init_weights():
                part = PARTS[family][1](AutoConfig.for_model(**config))
            part.load_state_dict(tensors, strict=True)
        except (RuntimeError, TypeError, ValueError, KeyError, StrictDataclassError) as error:
            raise FailedPrecondition(
                f"What lies in {folder} is not the vision part of a {family}: {' '.join(str(error).split())[:500]}"
            ) from error
        part = part.requires_grad_(False).eval().to(best_device())
        return cls(_hash(config, tensors), part.num_channels, part, PREPROCESS_CONFIGS[family])

    def __call__(self, pictures_BHWC: Pixels, grid: Grid) -> NDArray[np.float32]:
        """Features (B, N, C) of pictures already scaled to their grid (B, H, W, 3).

        One picture goes through at a time: which matmul is used, and so the last bits, may depend on how many there
        are (GPU libraries choose by size), and a job that is resumed, or another that shares the features, must find
        the same. It costs a CPU little (docs/log.md).
        """
        if pictures_BHWC.shape[1:] != (grid.height, grid.width, 3):
            raise ValueError(f"pictures of the shape {pictures_BHWC.shape} are not scaled to {grid}")
        return np.stack([self._one(picture[None], grid) for picture in pictures_BHWC])

    @torch.inference_mode()
    def _one(self, picture_1HWC: Pixels, grid: Grid) -> NDArray[np.float32]:
        with torch.backends.cudnn.flags(allow_tf32=False):
            found: NDArray[np.float32] = self.part(picture_1HWC, grid, self.recipe).float().cpu().numpy()
        return found


def tower_hash(folder: Path, family: str) -> str:
    """The `hash` of the tower that `PretrainedTower.open` would open, for less than opening it costs.

    Raises:
        FailedPrecondition: files are missing or broken, or are not of that family.

    """
    return _hash(_config(folder, family), _tensors(folder))


def _config(folder: Path, family: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise FailedPrecondition(
            f"{path} cannot be read ({error}): delete the folder and run `kastor models pull` to fetch it again."
        ) from error
    if family not in PARTS or kind != PARTS[family][0]:
        raise FailedPrecondition(f"{folder} holds a model of the type {kind!r}, not a vision tower of {family!r}.")
    return config


def _tensors(folder: Path) -> Tensors:
    """The vision part's weights as stored, by the names that they have in its module."""
    try:
        found = dict(_vision_tensors(folder))
    except (OSError, SafetensorError) as error:
        raise FailedPrecondition(
            f"The weights in {folder} cannot be read ({error}): "
            "delete the folder and run `kastor models pull` to fetch it again."
        ) from error
    if not found:
        raise FailedPrecondition(f"The *.safetensors in {folder} hold no vision tower: fetch the whole model.")
    return found


def _vision_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for stored in opened.keys():  # noqa: SIM118  # it is no mapping
                name = checkpoint_name(stored)
                if name is not None:
                    yield name, opened.get_tensor(stored)


def checkpoint_name(stored: str) -> str | None:
    """The name in the vision part of a tensor of a checkpoint; `None` if it is not part of it.

    Checkpoints of different ages spell the same tensor differently.

    >>> checkpoint_name("model.visual.blocks.0.norm1.weight"), checkpoint_name("visual.blocks.0.norm1.weight")
    ('visual.blocks.0.norm1.weight', 'visual.blocks.0.norm1.weight')
    >>> (checkpoint_name("vision_tower.vision_model.post_layernorm.bias"),
    ...  checkpoint_name("language_model.model.norm.weight"))
    ('vision_tower.post_layernorm.bias', None)
    """
    name = stored.removeprefix("model.")
    root, _, rest = name.partition(".")
    if root not in VISION_ROOTS or rest.endswith("position_ids"):  # a buffer that old checkpoints wrote out
        return None
    return f"{root}.{rest.removeprefix('vision_model.')}"


def _hash(config: Mapping[str, Any], tensors: Tensors) -> str:
    vision = {key: value for key, value in config["vision_config"].items() if key not in IDLE}
    decisive = {key: config[key] for key in DECISIVE if key in config}
    digest = hashlib.sha256(json.dumps([config["model_type"], vision, decisive], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

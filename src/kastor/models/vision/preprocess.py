"""Pictures already scaled to their grid -> what each family's tower takes, in numpy, equal to its image processor.

The decoders scale, with the filter that `PREPROCESS_CONFIGS` names; `grids` computes the sizes.
Shapes: B pictures, H x W pixels, T tiles, P patches, N tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kastor.domain.media import Resampling
from kastor.domain.vision import Grid

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How a family's pictures are scaled and normalised; red, green, blue."""

    resample: Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PREPROCESS_CONFIGS: Mapping[str, PreprocessConfig] = MappingProxyType(
    {
        "gemma3": PreprocessConfig(Resampling.BILINEAR, HALF, HALF),
        "gemma4": PreprocessConfig(Resampling.BICUBIC, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # its tower does the rest
        "idefics3": PreprocessConfig(Resampling.LANCZOS, HALF, HALF),
        "llava": PreprocessConfig(Resampling.BICUBIC, CLIP_MEAN, CLIP_STD),
        "qwen2.5-vl": PreprocessConfig(Resampling.BICUBIC, CLIP_MEAN, CLIP_STD),
        "qwen3-vl": PreprocessConfig(Resampling.BICUBIC, HALF, HALF),
        "smolvlm": PreprocessConfig(Resampling.LANCZOS, HALF, HALF),
    }
)
"""By the family's name; the numbers of the published preprocessor_config.json."""


def normalise_pixels(pictures_BHWC: Pixels, recipe: PreprocessConfig) -> Floats:
    """Pictures (B, H, W, 3) as the floats (B, 3, H, W) that the family was trained on.

    Looked up, as a channel has but 256 values: the same bits as the processors', which compute each pixel's.
    """
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
    table = (scaled[:, None] - mean) / std  # (256, 3)
    return np.stack([table[:, channel][pictures_BHWC[..., channel]] for channel in range(3)], axis=1)


def split_tiles(pictures_BHWC: Pixels, grid: Grid) -> Pixels:
    """Pictures (B, H, W, 3) cut into their tiles, row by row: (B * T, H / rows, W / columns, 3)."""
    rows, columns = grid.tiles
    number, height, width, channels = pictures_BHWC.shape
    cut = pictures_BHWC.reshape(number, rows, height // rows, columns, width // columns, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height // rows, width // columns, channels)


def plain_patches(pixels_BCHW: Floats, patch_size: int) -> Floats:
    """Patches (B, P, S * S * C) as Gemma 4 takes them: row by row, the channels of a pixel side by side."""
    number, channels, height, width = pixels_BCHW.shape
    cut = pixels_BCHW.reshape(number, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return cut.transpose(0, 2, 4, 3, 5, 1).reshape(number, -1, patch_size**2 * channels)


def patches(pixels_BCHW: Floats, *, patch_size: int, merge: int, num_frames: int) -> Floats:
    """Patches (B * P, C * F * S * S) as Qwen-VL takes them: those of a token, `merge` x `merge`, one after the other.

    A still stands for itself in each of the F = `num_frames` frames that a patch spans.
    """
    number, channels, height, width = pixels_BCHW.shape
    side = patch_size * merge
    cut = pixels_BCHW.reshape(
        number, channels, height // side, merge, patch_size, width // side, merge, patch_size
    ).transpose(0, 2, 5, 3, 6, 1, 4, 7)  # (B, rows, columns, merge, merge, C, S, S)
    frames = np.repeat(cut[:, :, :, :, :, :, None], num_frames, axis=6)
    return frames.reshape(-1, channels * num_frames * patch_size**2)

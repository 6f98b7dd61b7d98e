"""What the towers are given equals, bit for bit, what each family's own image processor makes of the same picture."""

from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from kastor.domain.content import Resolution
from kastor.domain.vision import Grid
from kastor.models.vision.grids import BUDGET, DynamicLayout, FittedLayout, PooledLayout, TiledLayout
from kastor.models.vision.preprocess import (
    PREPROCESS_CONFIGS,
    Pixels,
    normalise_pixels,
    patches,
    plain_patches,
    split_tiles,
)

SIZES = [(640, 480), (333, 500), (64, 64), (1000, 900), (1200, 90), (40, 700)]


def photo(size: tuple[int, int]) -> PIL.Image.Image:
    """Something with slopes, edges and noise."""
    width, height = size
    ys, xs = np.mgrid[:height, :width]
    slopes = np.stack([xs * 255 // width, ys * 255 // height, (xs // 9 + ys // 7) % 2 * 200], axis=-1)
    noise = np.random.default_rng(0).integers(0, 55, slopes.shape)
    return PIL.Image.fromarray(np.clip(slopes * 4 // 5 + noise, 0, 255).astype(np.uint8))


def scaled(picture: PIL.Image.Image, grid: Grid, family: str) -> Pixels:
    """As the decoders scale it, (1, H, W, 3)."""
    resample = PIL.Image.Resampling[PREPROCESS_CONFIGS[family].resample.name]
    return np.asarray(picture.resize((grid.width, grid.height), resample))[None]


def processed(processor: Any, picture: PIL.Image.Image, **asked: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.asarray(processor(picture, return_tensors="np", **asked)["pixel_values"])
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("family", "patch_size", "min_tokens"), [("qwen3-vl", 16, 64), ("qwen2.5-vl", 14, 4)])
@pytest.mark.parametrize("resolution", Resolution)
def test_qwens_patches_are_its_processors(
    family: str, patch_size: int, min_tokens: int, resolution: Resolution, size: tuple[int, int]
) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    recipe, picture = PREPROCESS_CONFIGS[family], photo(size)
    grid = DynamicLayout(patch_size, min_tokens=min_tokens)(resolution, size)
    pixels = normalise_pixels(scaled(picture, grid, family), recipe)
    found = patches(pixels, patch_size=patch_size, merge=2, num_frames=2)
    numbers = {"patch_size": patch_size, "image_mean": recipe.mean, "image_std": recipe.std}
    token = (2 * patch_size) ** 2
    bounds = {"shortest_edge": min_tokens * token, "longest_edge": BUDGET[resolution] * token}
    expected = processed(Qwen2VLImageProcessorPil(**numbers, size=bounds), picture)
    if len(expected) > 4 * BUDGET[resolution]:  # it goes above its own bound
        expected = processed(
            Qwen2VLImageProcessorPil(**numbers),
            PIL.Image.fromarray(scaled(picture, grid, family)[0]),
            do_resize=False,
        )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_gemma3s_pixels_are_its_processors(size: tuple[int, int]) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    grid = PooledLayout(896, 14, 4)(Resolution.MEDIUM, size)
    found = normalise_pixels(scaled(photo(size), grid, "gemma3"), PREPROCESS_CONFIGS["gemma3"])
    processor = Gemma3ImageProcessorPil(size={"height": 896, "width": 896})
    np.testing.assert_array_equal(found, processed(processor, photo(size)))


@pytest.mark.parametrize("size", SIZES)
def test_gemma4s_patches_are_its_processors(size: tuple[int, int]) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    grid = FittedLayout(16, 3)(Resolution.MEDIUM, size)
    whole = PIL.Image.fromarray(scaled(photo(size), grid, "gemma4")[0])  # 256 is no number it may be asked for
    found = plain_patches(normalise_pixels(scaled(photo(size), grid, "gemma4"), PREPROCESS_CONFIGS["gemma4"]), 16)
    expected = processed(Gemma4ImageProcessorPil(max_soft_tokens=280), whole, do_resize=False)
    np.testing.assert_array_equal(found, expected[:, : 9 * grid.num_tokens])
    assert not expected[:, 9 * grid.num_tokens :].any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_smolvlms_square_is_its_processors_without_splitting(family: str, size: tuple[int, int]) -> None:
    """Its processor may scale a picture twice; asked to do so once, it gives the same bits."""
    grid = TiledLayout(512, 16, 4)(Resolution.LOW, size)
    found = normalise_pixels(scaled(photo(size), grid, family), PREPROCESS_CONFIGS[family])
    processor = _tiling(family)(max_image_size={"longest_edge": 512}, do_resize=False, do_image_splitting=False)
    np.testing.assert_array_equal(found, processed(processor, photo(size))[0])


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_smolvlms_tiles_are_its_processors_where_it_cuts_two_by_two(family: str) -> None:
    picture = photo((1000, 900))
    grid = TiledLayout(512, 16, 4)(Resolution.MEDIUM, picture.size)
    found = normalise_pixels(split_tiles(scaled(picture, grid, family), grid), PREPROCESS_CONFIGS[family])
    processor = _tiling(family)(max_image_size={"longest_edge": 512}, do_resize=False)
    expected = processed(processor, picture)[0]
    assert len(expected) == 5  # the last one is the whole
    np.testing.assert_array_equal(found, expected[:4])


def _tiling(family: str) -> Any:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil if family == "smolvlm" else Idefics3ImageProcessorPil


@pytest.mark.parametrize("side", [64, 336, 500, 1300])
def test_llavas_pixels_are_its_processors_for_square_pictures(side: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    picture = photo((side, side))
    grid = PooledLayout(336, 14)(Resolution.HIGH, picture.size)
    found = normalise_pixels(scaled(picture, grid, "llava"), PREPROCESS_CONFIGS["llava"])
    for kind in (CLIPImageProcessorPil, LlavaImageProcessorPil):
        processor = kind(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        np.testing.assert_array_equal(found, processed(processor, picture))


def test_a_picture_that_is_not_square_is_squashed_for_llava_so_that_its_ends_are_seen() -> None:
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, :200] = pixels[:, 700:] = 255  # nothing but its ends
    grid = PooledLayout(336, 14)(Resolution.HIGH, (900, 300))
    found = scaled(PIL.Image.fromarray(pixels), grid, "llava")[0]
    assert found[:, :60].min() > 250
    assert found[:, -60:].min() > 250
    assert found[:, 100:230].max() < 5


def test_tiles_are_cut_row_by_row() -> None:
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    found = split_tiles(pixels, Grid(6, 4, 4, 6, (2, 2)))
    assert found.shape == (8, 2, 3, 3)
    np.testing.assert_array_equal(found[1], pixels[0, :2, 3:])
    np.testing.assert_array_equal(found[2], pixels[0, 2:, :3])
    np.testing.assert_array_equal(found[4], pixels[1, :2, :3])

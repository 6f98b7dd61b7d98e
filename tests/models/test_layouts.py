"""Layouts: never above the budget, for pictures of any shape, and the processors' own sizes where these keep theirs."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from kastor.domain.content import Resolution
from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid
from kastor.models.vision.grids import BUDGET, LAYOUTS, DynamicLayout, FittedLayout, Layout, PooledLayout, layout_of

# the numbers of the published config.json
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "gemma-3-4b-it": {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "vision_config": {"image_size": 896, "patch_size": 14},
    },
    "gemma-4-e2b-it": {"model_type": "gemma4", "vision_config": {"patch_size": 16, "pooling_kernel_size": 3}},
    "Idefics3-8B": {
        "model_type": "idefics3",
        "scale_factor": 2,
        "vision_config": {"image_size": 364, "patch_size": 14},
    },
    "llava-1.5-7b": {"model_type": "llava", "vision_config": {"image_size": 336, "patch_size": 14}},
    "Qwen2.5-VL-3B": {"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 14, "spatial_merge_size": 2}},
    "Qwen3-VL-4B": {"model_type": "qwen3_vl", "vision_config": {"patch_size": 16, "spatial_merge_size": 2}},
    "SmolVLM-256M": {
        "model_type": "smolvlm",
        "scale_factor": 4,
        "vision_config": {"image_size": 512, "patch_size": 16},
    },
    "SmolVLM-2.2B": {
        "model_type": "smolvlm",
        "scale_factor": 3,
        "vision_config": {"image_size": 384, "patch_size": 14},
    },
}
SQUARE = {
    "gemma-3-4b-it": (64, 256, 256),
    "gemma-4-e2b-it": (64, 256, 1024),
    "Idefics3-8B": (64, 256, 1024),
    "llava-1.5-7b": (64, 144, 576),
    "Qwen2.5-VL-3B": (64, 256, 1024),
    "Qwen3-VL-4B": (64, 256, 1024),
    "SmolVLM-256M": (64, 256, 1024),
    "SmolVLM-2.2B": (64, 256, 1024),
}
SIZES = [
    *(
        (width, height)
        for width in (1, 7, 33, 100, 255, 336, 640, 1000, 1920, 4096)
        for height in (1, 16, 90, 256, 1081)
    ),
    *((width, 28) for width in range(27, 60)),
    (1, 16384),
    (16384, 1),
    (9000, 70),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_large_square_becomes_the_tokens_that_the_documents_name(name: str) -> None:
    layout = layout_of(PUBLISHED[name])
    assert tuple(layout(resolution, (2000, 2000)).num_tokens for resolution in Resolution) == SQUARE[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_picture_of_any_shape_gets_more_tokens_than_the_budget_or_none(name: str) -> None:
    layout = layout_of(PUBLISHED[name])
    for size in SIZES:
        for resolution in Resolution:
            grid = layout(resolution, size)
            assert 1 <= grid.num_tokens <= BUDGET[resolution], (size, grid)
            assert min(grid.rows, grid.columns) >= 1
            assert grid.rows % grid.tiles[0] == grid.columns % grid.tiles[1] == 0
            assert grid.height % grid.tiles[0] == grid.width % grid.tiles[1] == 0


@pytest.mark.parametrize(
    ("layout", "factor", "min_tokens"),
    [(DynamicLayout(16, min_tokens=64), 32, 64), (DynamicLayout(14), 28, 4)],
    ids=["qwen3-vl", "qwen2.5-vl"],
)
def test_qwens_sizes_are_the_processors_wherever_these_keep_their_bound(
    layout: Layout, factor: int, min_tokens: int
) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    kept = 0
    for width, height in SIZES:
        if max(width, height) > 200 * min(width, height):
            continue  # the processor refuses
        for resolution in Resolution:
            budget = BUDGET[resolution]
            bounds = {"min_pixels": min_tokens * factor**2, "max_pixels": budget * factor**2}
            own_height, own_width = smart_resize(height, width, factor, **bounds)
            if own_height * own_width <= bounds["max_pixels"]:
                kept += 1
                grid = layout(resolution, (width, height))
                assert (grid.height, grid.width) == (own_height, own_width)
                assert (grid.rows, grid.columns) == (own_height // factor, own_width // factor)
    assert kept > 150


def test_gemma4s_sizes_are_the_processors_wherever_it_has_one() -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    layout = FittedLayout(patch_size=16, pool=3)
    for width, height in SIZES:
        for resolution in Resolution:
            grid = layout(resolution, (width, height))
            own = get_aspect_ratio_preserving_size(height, width, 16, BUDGET[resolution] * 9, 3)
            assert (grid.height, grid.width) == own


def test_proportions_are_kept_where_the_family_keeps_them() -> None:
    for layout in (layout_of(PUBLISHED["Qwen3-VL-4B"]), layout_of(PUBLISHED["gemma-4-e2b-it"])):
        for size in [(1920, 1080), (1080, 1920), (3000, 2000), (500, 500)]:
            grid = layout(Resolution.HIGH, size)
            assert Fraction(grid.width, grid.height) / Fraction(*size) == pytest.approx(1, abs=0.07)


def test_what_nobody_can_lay_out_is_refused_by_name() -> None:
    with pytest.raises(FailedPrecondition, match="'florence2', whose pictures no layout is known for; known: gemma3"):
        layout_of({"model_type": "florence2"})
    for kind in set(LAYOUTS) - {"qwen3_vl", "qwen2_5_vl", "gemma4"}:  # these have numbers to fall back on
        with pytest.raises(FailedPrecondition, match=f"of a {kind} does not say how pictures are laid out"):
            layout_of({"model_type": kind, "vision_config": {}})
    with pytest.raises(FailedPrecondition, match="does not say"):
        layout_of({"model_type": "gemma3", "mm_tokens_per_image": 9000, **_vision(896, 14)})


def _vision(image_size: int, patch_size: int) -> dict[str, Any]:
    return {"vision_config": {"image_size": image_size, "patch_size": patch_size}}


def test_a_side_that_only_odd_squares_divide_gets_the_nearest_number_of_tokens_that_is_not_above() -> None:
    assert PooledLayout(image_size=384, patch_size=14)(Resolution.MEDIUM, (5, 5)) == Grid(384, 384, 9, 9)

"""The pretrained towers: what the whole model would have computed, from the vision part alone, whatever the batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from kastor.domain.content import Resolution
from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid
from kastor.models.vision.encoder import to_half_precision
from kastor.models.vision.grids import LAYOUTS, layout_of
from kastor.models.vision.preprocess import PREPROCESS_CONFIGS, normalise_pixels, split_tiles
from kastor.models.vision.pretrained import PretrainedTower, tower_hash
from kastor.models.vision.pretrained_modules import PARTS
from support.tiny_vision_models import TINY_VL, WIDTH

SIZE = (300, 200)  # width and height of the pictures

Opened = Callable[[str], tuple[Path, PretrainedTower]]


@pytest.fixture(name="opened", scope="module")
def open_of_each_family(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    made: dict[str, tuple[Path, PretrainedTower]] = {}

    def opened(family: str) -> tuple[Path, PretrainedTower]:
        if family not in made:
            folder = TINY_VL[family](tmp_path_factory.mktemp(family))
            made[family] = folder, PretrainedTower.open(folder, family)
        return made[family]

    return opened


def grid_of(folder: Path, resolution: Resolution) -> Grid:
    return layout_of(json.loads((folder / "config.json").read_text()))(resolution, SIZE)


def pictures(grid: Grid, number: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (number, grid.height, grid.width, 3), dtype=np.uint8)


def whole_model(folder: Path, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    return AutoModelForImageTextToText.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def pixels_of(family: str, picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(normalise_pixels(picture[None], PREPROCESS_CONFIGS[family]))


@torch.inference_mode()
def test_qwen_gives_what_the_whole_model_gives_deepstack_beside_it(opened: Opened) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    for family in ("qwen3-vl", "qwen2.5-vl"):
        folder, tower = opened(family)
        model, recipe = whole_model(folder), PREPROCESS_CONFIGS[family]
        processor = Qwen2VLImageProcessorPil(
            patch_size=model.config.vision_config.patch_size, image_mean=recipe.mean, image_std=recipe.std
        )
        for resolution in Resolution:
            grid = grid_of(folder, resolution)
            given = pictures(grid)
            found = tower(given, grid)
            inputs = processor(list(given), do_resize=False, return_tensors="pt")
            whole = model.get_image_features(**inputs)
            levels = [whole.pooler_output, *getattr(whole, "deepstack_features", [])]
            expected = torch.stack([torch.cat(one, dim=-1) for one in zip(*levels, strict=True)])
            assert found.shape == expected.shape == (2, grid.num_tokens, tower.num_channels)
            assert tower.num_channels == WIDTH * (3 if family == "qwen3-vl" else 1)
            assert_same(found, expected)


@torch.inference_mode()
@pytest.mark.parametrize("resolution", Resolution)
def test_gemma3_gives_what_the_whole_model_gives_pooled_by_its_own_projector(
    opened: Opened, resolution: Resolution
) -> None:
    folder, tower = opened("gemma3")
    grid = grid_of(folder, resolution)
    given = pictures(grid)
    model = whole_model(folder, mm_tokens_per_image=grid.num_tokens)
    expected = [model.get_image_features(pixels_of("gemma3", picture)).pooler_output[0] for picture in given]
    assert grid.num_tokens == (64 if resolution is Resolution.LOW else 256)
    assert_same(tower(given, grid), torch.stack(expected))


@torch.inference_mode()
@pytest.mark.parametrize("resolution", [Resolution.LOW, Resolution.MEDIUM])
def test_gemma4_gives_what_the_whole_model_gives(opened: Opened, resolution: Resolution) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    folder, tower = opened("gemma4")
    grid = grid_of(folder, resolution)
    given = pictures(grid)
    processor = Gemma4ImageProcessorPil(max_soft_tokens=280)
    inputs = processor(list(given), do_resize=False, return_tensors="pt")  # padded to 280 tokens' patches
    whole = whole_model(folder).get_image_features(inputs["pixel_values"], inputs["image_position_ids"])
    assert_same(tower(given, grid), torch.stack(list(whole.pooler_output)))


@torch.inference_mode()
@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
@pytest.mark.parametrize("resolution", [Resolution.LOW, Resolution.MEDIUM])
def test_smolvlm_and_idefics3_give_what_the_whole_model_gives_for_each_tile(
    opened: Opened, family: str, resolution: Resolution
) -> None:
    folder, tower = opened(family)
    grid = grid_of(folder, resolution)
    given = pictures(grid)
    model = whole_model(folder)
    expected = []
    for picture in given:
        cut = normalise_pixels(split_tiles(picture[None], grid), PREPROCESS_CONFIGS[family])
        expected.append(torch.cat(model.get_image_features(torch.from_numpy(cut)[None]).pooler_output))
    assert grid.num_tokens == (64 if resolution is Resolution.LOW else 256)
    assert grid.width == grid.tiles[1] * (128 if family == "smolvlm" else 64)  # Idefics3's own square has 100 tokens
    assert_same(tower(given, grid), torch.stack(expected))


@torch.inference_mode()
@pytest.mark.parametrize(("resolution", "pool"), [(Resolution.LOW, 3), (Resolution.MEDIUM, 2), (Resolution.HIGH, 1)])
def test_llava_gives_the_means_of_what_the_whole_model_gives(opened: Opened, resolution: Resolution, pool: int) -> None:
    folder, tower = opened("llava")
    grid = grid_of(folder, resolution)
    given = pictures(grid)
    model = whole_model(folder)
    expected = [model.get_image_features(pixels_of("llava", picture)).pooler_output[0] for picture in given]
    side = 24 // pool
    squares = torch.stack(expected).reshape(2, side, pool, side, pool, WIDTH).mean(dim=(2, 4))
    assert_same(tower(given, grid), squares.reshape(2, side * side, WIDTH))


def assert_same(found: NDArray[np.float32], expected: torch.Tensor) -> None:
    assert expected.std() > 0.1  # the tiny tower tells something
    assert expected[0].sub(expected[1]).std() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("family", TINY_VL)
def test_a_picture_has_the_same_bits_whatever_is_encoded_with_it(opened: Opened, family: str) -> None:
    folder, tower = opened(family)
    grid = grid_of(folder, Resolution.LOW)
    given = pictures(grid, 5)
    together = tower(given, grid)
    np.testing.assert_array_equal(together, np.concatenate([tower(one[None], grid) for one in given]))
    np.testing.assert_array_equal(PretrainedTower.open(folder, family)(given[3:], grid), together[3:])


@pytest.mark.parametrize("family", TINY_VL)
def test_the_vision_part_alone_is_read_under_names_of_any_age_and_hashed(
    opened: Opened, family: str, tmp_path: Path
) -> None:
    folder, tower = opened(family)
    weights = load_file(folder / "model.safetensors")
    old = {_older(name): tensor for name, tensor in weights.items() if "language" not in name and "text" not in name}
    names = sorted(old)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file({name: old[name] for name in names[::2]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: old[name] for name in names[1::2]}, tmp_path / "model-00002-of-00002.safetensors")
    again = PretrainedTower.open(tmp_path, family)
    grid = grid_of(folder, Resolution.LOW)
    np.testing.assert_array_equal(again(pictures(grid), grid), tower(pictures(grid), grid))
    assert again.hash == tower.hash == tower_hash(tmp_path, family)


def _older(name: str) -> str:
    name = name.removeprefix("model.")
    return name.replace("vision_tower.", "vision_tower.vision_model.") if name.startswith("vision_tower.") else name


def test_the_hash_knows_the_vision_part_and_nothing_else(opened: Opened, tmp_path: Path) -> None:
    folder, tower = opened("gemma3")
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")

    def hash_with(name: str | None = None, **changes: Any) -> str:
        changed = {key: tensor + 1 if key == name else tensor for key, tensor in weights.items()}
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        save_file(changed, tmp_path / "model.safetensors")
        return tower_hash(tmp_path, "gemma3")

    assert hash_with() == tower.hash
    assert hash_with("language_model.model.norm.weight", transformers_version="6") == tower.hash
    assert hash_with("multi_modal_projector.mm_soft_emb_norm.weight") != tower.hash
    assert hash_with(mm_tokens_per_image=64) != tower.hash
    assert hash_with(vision_config=config["vision_config"] | {"layer_norm_eps": 0.1}) != tower.hash


def test_what_is_no_such_tower_is_told_with_what_is_wrong(opened: Opened, tmp_path: Path) -> None:
    folder, _ = opened("llava")
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    with pytest.raises(FailedPrecondition, match="of the type 'llava', not a vision tower of 'gemma3'"):
        PretrainedTower.open(folder, "gemma3")
    with pytest.raises(FailedPrecondition, match=r"config\.json cannot be read"):
        PretrainedTower.open(tmp_path, "llava")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FailedPrecondition, match="hold no vision tower"):
        PretrainedTower.open(tmp_path, "llava")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        PretrainedTower.open(tmp_path, "llava")
    del weights["multi_modal_projector.linear_2.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FailedPrecondition, match=r"not the vision part of a llava: .*linear_2\.bias"):
        PretrainedTower.open(tmp_path, "llava")
    (tmp_path / "config.json").write_text(json.dumps(config | {"vision_feature_layer": [-2, -5]}))
    with pytest.raises(FailedPrecondition, match=r"read at layer \[-2, -5\]"):
        PretrainedTower.open(tmp_path, "llava")


def test_pictures_that_were_not_scaled_to_their_grid_are_refused(opened: Opened) -> None:
    folder, tower = opened("llava")
    grid = grid_of(folder, Resolution.LOW)
    with pytest.raises(ValueError, match="not scaled to Grid"):
        tower(pictures(grid)[:, :-8], grid)


def test_features_are_kept_in_half_precision_unless_one_would_not_fit() -> None:
    fitting = np.array([[0.5, -65504.0]], np.float32)
    assert to_half_precision(fitting).dtype == np.float16
    for value in (65520.0, -7e4, np.inf, np.nan):
        large = np.array([[0.5, value]], np.float32)
        assert to_half_precision(large).dtype == np.float32
        np.testing.assert_array_equal(to_half_precision(large), large)


def test_every_family_has_a_recipe_a_layout_and_a_part() -> None:
    assert set(PREPROCESS_CONFIGS) == set(PARTS) == set(TINY_VL)
    assert set(LAYOUTS) == {kind for kind, _ in PARTS.values()}

"""The frozen tower: the same features by torch and onnxruntime, by one picture and by many."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid
from kastor.models.convert import convert_tower
from kastor.models.vision import specs
from kastor.models.vision.efficientnet import BN_EPSILON, STRIDES, EfficientNetLite, fold_batch_norm
from kastor.models.vision.efficientnet_onnx import OnnxEfficientNetLite
from kastor.models.vision.encoder import VisionEncoder
from kastor.models.vision.specs import TOWER_FILE
from support.tiny_models import TOWER_CHANNELS, tiny_tower


def pictures(number: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (number, size, size, 3), dtype=np.uint8)


@pytest.fixture(name="folder")
def a_folder(tmp_path: Path) -> Path:
    save_file(tiny_tower(), tmp_path / TOWER_FILE)
    return tmp_path


@pytest.mark.parametrize(("size", "tokens"), [(256, 64), (512, 256), (96, 9)])
def test_onnxruntime_gives_what_torch_gives(folder: Path, size: int, tokens: int) -> None:
    given = pictures(2, size)
    expected = EfficientNetLite.open(folder / TOWER_FILE)(torch.from_numpy(given))
    found = OnnxEfficientNetLite.open(folder / TOWER_FILE, num_threads=1)(given)
    assert found.shape == expected.shape == (2, tokens, TOWER_CHANNELS)
    assert expected.std() > 0.05  # the tiny tower tells something
    assert expected[0].sub(expected[1]).abs().max() > 0.05
    np.testing.assert_allclose(
        found, expected, atol=2e-3
    )  # of numbers up to 7: sixteen random blocks widen what rounding does


def test_features_depend_neither_on_neighbours_nor_on_threads(folder: Path) -> None:
    given = list(pictures(11, 256))
    grid = Grid(256, 256, 8, 8)
    whole = VisionEncoder.open(folder, specs.NANO, num_threads=2).encode(given, [grid] * len(given))
    single = VisionEncoder.open(folder, specs.NANO, num_threads=1)
    assert whole[0].dtype == np.float16
    for picture, found in zip(given, whole, strict=True):
        np.testing.assert_array_equal(found, single.encode([picture], [grid])[0])


def test_a_published_checkpoint_is_folded_to_a_tower_that_computes_the_same(tmp_path: Path) -> None:
    layers, state = tiny_tower(), {}
    random = torch.Generator().manual_seed(1)
    names = {"stem": ("_conv_stem", "_bn0")}
    for index in range(len(STRIDES)):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            names[f"{index}.{part}"] = (f"_blocks.{index}._{part}_conv", f"_blocks.{index}.{norm}")
    for name, (conv, norm) in names.items():
        if f"{name}.weight" not in layers:
            continue
        bias = layers[f"{name}.bias"]
        mean, variance = torch.randn(len(bias), generator=random), torch.rand(len(bias), generator=random) + 0.5
        scale = torch.rand(len(bias), generator=random) + 0.5
        factor = scale / torch.sqrt(variance + BN_EPSILON)
        state[f"{conv}.weight"] = layers[f"{name}.weight"] / factor[:, None, None, None]
        state |= {f"{norm}.weight": scale, f"{norm}.running_mean": mean, f"{norm}.running_var": variance}
        state[f"{norm}.bias"] = bias + mean * factor
    torch.save(state, tmp_path / "net.pth")
    convert_tower(tmp_path / "net.pth", tmp_path / TOWER_FILE)
    given = torch.from_numpy(pictures(1, 256))
    torch.testing.assert_close(
        EfficientNetLite.open(tmp_path / TOWER_FILE)(given), EfficientNetLite(layers)(given), atol=2e-3, rtol=1e-3
    )
    with pytest.raises(FailedPrecondition, match="not the weights of an EfficientNet-lite0: '_bn0.weight'"):
        fold_batch_norm({})


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_missing_or_broken_tower_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / TOWER_FILE).write_bytes(content)
    with pytest.raises(FailedPrecondition, match=r"tower\.safetensors"):
        VisionEncoder.open(tmp_path, specs.NANO, num_threads=1)

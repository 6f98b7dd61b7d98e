"""EfficientNet-lite0 as a vision tower in torch, for GPUs and where it is trained: pictures -> a grid of 320 channels.

The architecture is TensorFlow's "lite" release (Tan & Le, arXiv:1905.11946; no squeeze-and-excitation, ReLU6);
its batch normalisations are folded into the convolutions when the weights are read. On a CPU a frozen one is run by
`tower_onnx` in a third of the time. Shapes: B pictures, H x W pixels, G x G grid with G = H / 32, C channels (320).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import conv2d, pad, relu6

from kastor.domain.errors import FailedPrecondition
from kastor.models.vision.specs import TOWER_FILE

STRIDE = 32  # pixels to a cell of the grid
BN_EPSILON = 1e-3
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the 16 blocks' depthwise convolutions
MEAN, SCALE = 127.0, 128.0


class EfficientNetLite(nn.Module):
    """The tower: call it on pictures. It is frozen until `requires_grad_` says otherwise."""

    def __init__(self, layers: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = sorted(layers)
        for name in self._names:
            weights = layers[name].contiguous(memory_format=_format(layers[name]))
            self.register_parameter(_attribute(name), nn.Parameter(weights, requires_grad=False))

    @classmethod
    def open(cls, file: Path) -> "EfficientNetLite":
        """The tower whose folded weights `fold_batch_norm` wrote into `file`.

        Raises:
            FailedPrecondition: the file is not there, or is not such a tower.

        """
        try:
            layers = load_file(file)
        except Exception as error:  # safetensors raises its own kinds
            raise FailedPrecondition(f"Cannot read the vision tower {file}: {error}") from error
        return cls(layers).eval()

    def save(self, folder: Path) -> None:
        """Write the weights into `folder`, as `open` reads them."""
        held = {name: self.get_parameter(_attribute(name)).detach().cpu().contiguous() for name in self._names}
        save_file(held, folder / TOWER_FILE)

    def forward(self, pictures_BHWC: torch.Tensor) -> torch.Tensor:
        """Features of 8-bit RGB pictures (B, H, W, 3), H and W multiples of 32: (B, G * G, C), row by row."""
        pixels = (pictures_BHWC.permute(0, 3, 1, 2).float() - MEAN) / SCALE
        grid = relu6(self._conv("stem", pixels.contiguous(memory_format=torch.channels_last), stride=2))
        for index, stride in enumerate(STRIDES):
            grid = self._block(index, stride, grid)
        return grid.flatten(2).transpose(1, 2).contiguous()

    def _block(self, index: int, stride: int, grid: torch.Tensor) -> torch.Tensor:
        inside = grid
        if index > 0:  # the first block does not widen
            inside = relu6(self._conv(f"{index}.expand", inside))
        inside = relu6(self._conv(f"{index}.depthwise", inside, stride=stride, groups=inside.shape[1]))
        inside = self._conv(f"{index}.project", inside)
        return inside + grid if stride == 1 and inside.shape[1] == grid.shape[1] else inside

    def _conv(self, name: str, grid: torch.Tensor, *, stride: int = 1, groups: int = 1) -> torch.Tensor:
        """TensorFlow's "same" convolution: what is odd of the padding goes right and below."""
        weight = self.get_parameter(_attribute(f"{name}.weight"))
        bias = self.get_parameter(_attribute(f"{name}.bias"))
        size = weight.shape[-1]
        padding = []
        for length in (grid.shape[3], grid.shape[2]):
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            padding += [total // 2, total - total // 2]
        return conv2d(pad(grid, padding) if any(padding) else grid, weight, bias, stride, groups=groups)


def fold_batch_norm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the published checkpoint with its normalisations folded in, by Kastor's names.

    Raises:
        FailedPrecondition: it is no EfficientNet-lite0.

    """
    plan = {"stem": ("_conv_stem", "_bn0")}
    for index in range(len(STRIDES)):
        block, first = f"_blocks.{index}.", f"{index}."
        if index > 0:
            plan[first + "expand"] = (block + "_expand_conv", block + "_bn0")
        plan[first + "depthwise"] = (block + "_depthwise_conv", block + "_bn1")
        plan[first + "project"] = (block + "_project_conv", block + "_bn2")
    layers = {}
    for name, (conv, norm) in plan.items():
        try:
            scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BN_EPSILON)
            layers[f"{name}.weight"] = state[f"{conv}.weight"] * scale[:, None, None, None]
            layers[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        except KeyError as error:
            raise FailedPrecondition(
                f"These are not the weights of an EfficientNet-lite0: {error} is missing."
            ) from error
    return layers


def _attribute(name: str) -> str:
    return "layer_" + name.replace(".", "_")


def _format(tensor: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format

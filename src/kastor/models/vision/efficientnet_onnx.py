"""EfficientNet-lite0 as a frozen vision tower on onnxruntime, for the CPU: the network of `tower`, of the same weights.

Measured on one picture of 256 x 256: 16 ms of processor time, where torch takes 51 in fp32 (the same to 2e-5) and 17 in
bf16 (7 % off). What comes out depends neither on the number of threads nor on the size of the batch, to the bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from kastor.domain.errors import FailedPrecondition
from kastor.models.vision.efficientnet import MEAN, SCALE, STRIDES

OPSET, IR_VERSION = 17, 9
LAST = f"{len(STRIDES) - 1}.project.weight"


class OnnxEfficientNetLite:
    """The frozen tower: call it on pictures."""

    def __init__(self, layers: Mapping[str, NDArray[np.float32]], *, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads sleep
        self._session = onnxruntime.InferenceSession(
            _Graph(layers).model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._num_channels = len(layers[LAST])

    @classmethod
    def open(cls, file: Path, *, num_threads: int) -> "OnnxEfficientNetLite":
        """The tower whose folded weights `tower.folded` gave and `file` holds.

        Raises:
            FailedPrecondition: the file is not there, or is not such a tower.

        """
        try:
            return cls(load_file(file), num_threads=num_threads)
        except Exception as error:  # safetensors and onnxruntime raise their own kinds
            raise FailedPrecondition(f"Cannot read the vision tower {file}: {error}") from error

    def __call__(self, pictures_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of 8-bit RGB pictures (B, H, W, 3), H and W multiples of 32: (B, G * G, C), row by row."""
        (grid,) = self._session.run(None, {"pictures": pictures_BHWC})
        return np.asarray(grid).reshape(len(pictures_BHWC), -1, self._num_channels)


class _Graph:
    """The graph, node after node; each node is named after its output."""

    def __init__(self, layers: Mapping[str, NDArray[np.float32]]) -> None:
        self._layers = layers
        numbers = {"low": 0.0, "high": 6.0, "mean": MEAN, "scale": 1 / SCALE}
        held = {name: np.array(value, np.float32) for name, value in numbers.items()} | dict(layers)
        self._initializers = [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in held.items()]
        self._nodes: list[Any] = []

    def model(self) -> Any:  # noqa: ANN401  # onnx.ModelProto
        """The whole network: 8-bit pictures (B, H, W, 3) to the grid (B, G, G, C)."""
        self._add("Cast", "pictures", output="floats", to=TensorProto.FLOAT)
        self._add("Sub", "floats", "mean", output="centred")
        self._add("Mul", "centred", "scale", output="scaled")
        self._add("Transpose", "scaled", output="pixels", perm=[0, 3, 1, 2])
        grid = self._conv("stem", "pixels", stride=2, active=True)
        for index, stride in enumerate(STRIDES):
            grid = self._block(index, stride, grid)
        self._add("Transpose", grid, output="grid", perm=[0, 2, 3, 1])
        given = helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["B", "H", "W", 3])
        made = helper.make_tensor_value_info("grid", TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "efficientnet-lite0", [given], [made], self._initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _block(self, index: int, stride: int, grid: str) -> str:
        inside = grid
        if index > 0:  # the first block does not widen
            inside = self._conv(f"{index}.expand", inside, active=True)
        depthwise, project = (self._layers[f"{index}.{part}.weight"] for part in ("depthwise", "project"))
        before = self._layers[f"{index}.expand.weight"].shape[1] if index else len(depthwise)
        inside = self._conv(f"{index}.depthwise", inside, stride=stride, groups=len(depthwise), active=True)
        inside = self._conv(f"{index}.project", inside)
        return (
            self._add("Add", inside, grid, output=f"{index}.sum") if stride == 1 and len(project) == before else inside
        )

    def _conv(self, name: str, grid: str, *, stride: int = 1, groups: int = 1, active: bool = False) -> str:
        """A convolution with TensorFlow's "same" padding; `active`: up to ReLU6."""
        inputs = (grid, f"{name}.weight", f"{name}.bias")
        kernel = list(self._layers[f"{name}.weight"].shape[2:])
        settings = {"strides": [stride] * 2, "group": groups, "auto_pad": "SAME_UPPER", "kernel_shape": kernel}
        made = self._add("Conv", *inputs, output=name, **settings)
        return self._add("Clip", made, "low", "high", output=f"{name}.relu6") if active else made

    def _add(self, kind: str, *inputs: str, output: str, **settings: Any) -> str:  # noqa: ANN401  # ONNX attributes
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **settings))
        return output

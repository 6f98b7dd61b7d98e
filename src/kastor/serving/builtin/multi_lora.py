"""Several LoRA adapters on one base: loaded at first use, applied row by row, the least recently used one dropped.

A plain PEFT directory (adapter_config.json, adapter_model.safetensors) is read strictly: every tensor is applied or the
adapter is refused. The deltas of all adapters in use are computed at once: their A and B matrices are stacked along the
rank, and a mask gives each row its own part. Rows without an adapter get the base's output unchanged.

Shapes: B rows, T tokens, R summed rank of the adapters in use, I and O a linear layer's width in and out.
"""

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import FailedPrecondition

KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")

UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
"""Fields of peft's LoraConfig that change what an adapter computes and that this engine does not support."""

NEUTRAL_INITS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to start training that leave the base as it is; others (PiSSA, OLoRA, …) save a delta to a changed base."""


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """The delta of an adapter to one linear layer: x A^T B^T, with the scale already in B."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor


@dataclass(slots=True, eq=False)
class LoadedAdapter:
    """A resident adapter. `users` rows are decoded with it; it stays while there are any."""

    ref: AdapterRef
    rank: int  # the largest of its layers; other layers are padded to it when stacked
    deltas: Mapping[str, LoraDelta]  # by the layer's name in the base
    users: int = 0


@dataclass(slots=True)
class AdapterMask:
    """The part of the stacked ranks that each row of the next pass uses; `None`: no row has an adapter."""

    mask_BTR: torch.Tensor | None = None


class MultiLoraLinear(nn.Module):
    """A linear layer of the base plus the deltas of the adapters in use."""

    def __init__(self, base: nn.Linear, mask: AdapterMask) -> None:
        super().__init__()
        self.base = base
        self.mask = mask
        self.down_RI: torch.Tensor | None = None
        self.up_OR: torch.Tensor | None = None

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """The base's output plus each row's own delta, computed in the adapters' precision and rounded once.

        In bf16 the delta must not be added to a rounded output: what is less than half its last bit would be lost, and
        much of what a few steps teach is. So the matmul adds the delta, as it sums in fp32: log-probabilities are 2 to
        10 times nearer to fp32 than with peft (docs/log.md).
        """
        mask_BTR = self.mask.mask_BTR
        if mask_BTR is None or self.down_RI is None or self.up_OR is None:
            out_BTO: torch.Tensor = self.base(x_BTI)
            return out_BTO
        inner_BTR = functional.linear(x_BTI.to(self.down_RI.dtype), self.down_RI) * mask_BTR
        delta_BTO = functional.linear(inner_BTR, self.up_OR)
        weight_OI, bias_O = self.base.weight, self.base.bias
        if weight_OI.dtype is torch.float32:
            return delta_BTO.add_(self.base(x_BTI))
        rows = delta_BTO.to(weight_OI.dtype).flatten(0, -2)
        sum_BTO = torch.addmm(rows, x_BTI.flatten(0, -2), weight_OI.t()).view_as(delta_BTO)
        return sum_BTO if bias_O is None else sum_BTO + bias_O


@dataclass
class AdapterManager:
    """The resident adapters of one base. Used by the generating thread only.

    `folder_of` gives the PEFT directory of an adapter; `dtype` is what deltas are computed in.
    """

    model: nn.Module
    folder_of: Callable[[AdapterRef], Path]
    max_resident: int
    dtype: torch.dtype = torch.float32
    mask: AdapterMask = field(default_factory=AdapterMask)
    resident: "OrderedDict[AdapterRef, LoadedAdapter]" = field(default_factory=OrderedDict)  # least recently used first
    _layers: dict[str, MultiLoraLinear] = field(default_factory=dict)
    _stacked: list[LoadedAdapter] = field(default_factory=list)
    _owner_R: torch.Tensor | None = None

    def can_hold(self, ref: AdapterRef) -> bool:
        """Whether `acquire` can succeed now: it is resident, or there is room, or an idle one can go."""
        return (
            ref in self.resident
            or len(self.resident) < self.max_resident
            or any(adapter.users == 0 for adapter in self.resident.values())
        )

    def acquire(self, ref: AdapterRef) -> LoadedAdapter:
        """The adapter, loaded if need be, kept until `release`.

        Raises:
            FailedPrecondition: it is missing, broken, or needs something that this engine does not support.

        """
        adapter = self.resident.get(ref)
        if adapter is None:
            adapter = load_adapter(ref, self.folder_of(ref), self.model, self.dtype)
            while len(self.resident) >= self.max_resident:
                idle = next(a for a in self.resident.values() if a.users == 0)
                del self.resident[idle.ref]
            self._wrap(adapter)
            self.resident[ref] = adapter
        self.resident.move_to_end(ref)
        adapter.users += 1
        return adapter

    def release(self, adapter: LoadedAdapter) -> None:
        """Note that one row fewer uses it."""
        adapter.users -= 1

    def assign(self, adapters: Sequence[LoadedAdapter | None], counts: Sequence[int] | None = None) -> None:
        """Set the adapter of each row for the next pass.

        With `counts`, the pass is one row of tokens instead, of which `counts[i]` in turn belong to `adapters[i]`.
        """
        if all(adapter is None for adapter in adapters):
            self.mask.mask_BTR = None
            return
        self._stack([adapter for adapter in self.resident.values() if adapter.users])
        assert self._owner_R is not None  # noqa: S101 - a row uses an adapter
        place = {id(adapter): index for index, adapter in enumerate(self._stacked)}
        owners = torch.tensor([-1 if a is None else place[id(a)] for a in adapters], device=self._owner_R.device)
        if counts is not None:
            owners = torch.repeat_interleave(owners, torch.tensor(counts, device=owners.device))
        mask = (owners[:, None] == self._owner_R).to(self.dtype)
        self.mask.mask_BTR = mask[:, None, :] if counts is None else mask[None]

    def _wrap(self, adapter: LoadedAdapter) -> None:
        for name in adapter.deltas:
            if name not in self._layers:
                parent, _, attribute = name.rpartition(".")
                base = self.model.get_submodule(name)
                assert isinstance(base, nn.Linear)  # noqa: S101 - load_adapter checked it
                self._layers[name] = MultiLoraLinear(base, self.mask)
                setattr(self.model.get_submodule(parent), attribute, self._layers[name])

    def _stack(self, adapters: list[LoadedAdapter]) -> None:
        """Stack the matrices of these adapters along the rank; cheap if they are those of the last call."""
        adapters.sort(key=lambda adapter: str(adapter.ref))
        if adapters == self._stacked:
            return
        for name, layer in self._layers.items():
            layer.down_RI, layer.up_OR = _stacked(layer.base, name, adapters, self.dtype)
        owners = [index for index, adapter in enumerate(adapters) for _ in range(adapter.rank)]
        self._owner_R = torch.tensor(owners, device=next(self.model.parameters()).device)
        self._stacked = adapters


def _stacked(
    base: nn.Linear, name: str, adapters: Sequence[LoadedAdapter], dtype: torch.dtype
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if not any(name in adapter.deltas for adapter in adapters):
        return None, None
    device = base.weight.device
    downs, ups = [], []
    for adapter in adapters:
        delta = adapter.deltas.get(name)
        rank = 0 if delta is None else delta.down_RI.shape[0]
        if delta is not None:
            downs.append(delta.down_RI)
            ups.append(delta.up_OR)
        if rank < adapter.rank:
            downs.append(torch.zeros(adapter.rank - rank, base.in_features, dtype=dtype, device=device))
            ups.append(torch.zeros(base.out_features, adapter.rank - rank, dtype=dtype, device=device))
    if len(downs) == 1:
        return downs[0], ups[0]
    return torch.cat(downs), torch.cat(ups, dim=1)


def load_adapter(ref: AdapterRef, folder: Path, model: nn.Module, dtype: torch.dtype) -> LoadedAdapter:
    """The adapter in a PEFT directory, checked tensor by tensor against its base.

    Raises:
        FailedPrecondition: names the file, field, tensor or layer that is wrong.

    """
    config = _config(folder)
    pairs = _pairs(folder, next(model.parameters()).device)
    targets = config.get("target_modules")
    names = targets if isinstance(targets, list) else []
    missing = [t for t in names if not any(f".{n}".endswith(f".{t}") for n in pairs)]
    if missing or not pairs:
        raise _refused(folder, f"it holds no tensors for {', '.join(sorted(missing)) or 'any layer'}")
    deltas = {}
    for name, sides in pairs.items():
        linear = _linear(model, name, folder)
        rank, scale = _scale(config, name)
        down, up = sides.get("A"), sides.get("B")
        expected = ((rank, linear.in_features), (linear.out_features, rank))
        found = (None if down is None else tuple(down.shape), None if up is None else tuple(up.shape))
        if down is None or up is None or found != expected:
            raise _refused(folder, f"lora_A and lora_B of {name} have shapes {found}, the base needs {expected}")
        deltas[name] = LoraDelta(down.to(dtype), (up.float() * scale).to(dtype))
    return LoadedAdapter(ref, max(delta.down_RI.shape[0] for delta in deltas.values()), deltas)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"There is no adapter in {folder}: {file.name} is missing. Tune the model again."
        ) from (error)
    except (OSError, ValueError) as error:
        raise _refused(folder, f"{file.name} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _refused(folder, f"{file.name} is not the configuration of a LoRA adapter")
    for name in UNSUPPORTED:
        if config.get(name):
            raise _refused(folder, f"{name} = {config[name]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise _refused(folder, f"bias = {config['bias']!r} is not supported")
    if config.get("init_lora_weights", True) not in NEUTRAL_INITS:
        raise _refused(folder, f"init_lora_weights = {config['init_lora_weights']!r} changes the base's weights")
    return config


def _pairs(folder: Path, device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
    file = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(file, device=str(device))
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"There is no adapter in {folder}: {file.name} is missing. Tune the model again."
        ) from (error)
    except (OSError, SafetensorError) as error:
        raise _refused(folder, f"{file.name} cannot be read: {error}") from error
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise _refused(folder, f"the tensor {key} is not one that this engine applies")
        if not bool(torch.isfinite(tensor).all()):
            raise _refused(folder, f"the tensor {key} holds numbers that are not finite")
        pairs.setdefault(match["layer"], {})[match["side"]] = tensor
    return pairs


def _linear(model: nn.Module, name: str, folder: Path) -> nn.Linear:
    try:
        found = model.get_submodule(name)
    except AttributeError as error:
        raise _refused(folder, f"the base has no layer {name}") from error
    if isinstance(found, MultiLoraLinear):
        return found.base
    if not isinstance(found, nn.Linear):
        raise _refused(folder, f"the base's {name} is a {type(found).__name__}, not a linear layer")
    return found


def _scale(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    """Rank and scale of a layer's delta, by peft's rules for patterns and rank-stabilised LoRA."""
    rank = int(_by_pattern(config.get("rank_pattern"), name, config["r"]))
    alpha = float(_by_pattern(config.get("alpha_pattern"), name, config["lora_alpha"]))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:  # noqa: ANN401 - JSON
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default


def _refused(folder: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"The adapter in {folder} cannot be served: {why}.")

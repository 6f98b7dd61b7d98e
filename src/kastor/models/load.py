"""A folder in transformers' format -> the base model in memory, frozen, in the dtype this machine is fastest in."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from kastor.domain.errors import FailedPrecondition, ResourceExhausted
from kastor.domain.vision import VisionSpec
from kastor.models.decoder.inputs import text_config
from kastor.models.device import best_device

CausalModel = Any  # transformers.PreTrainedModel; its types are not checked (pyproject: follow_imports = skip)

SENSES = (
    *("visual", "vision_tower", "vision_model", "multi_modal_projector", "connector", "embed_vision"),
    *("audio_tower", "embed_audio"),
)
"""Names, inside transformers' models that see or hear, of what is not their language model."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Of this process, as a container sees it. The kernel ends a process that takes more than its group may."""
MEMORY_FACTOR = 1.3
"""Memory asked for before loading, as a multiple of the weights: what loading itself needs on top."""


def best_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it in hardware, fp32 elsewhere (there bf16 is emulated and slower).

    Measured for two cores with AMX: 690 GFLOP/s in bf16, 211 in fp32 (docs/log.md).
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def compute_dtype(name: str) -> torch.dtype:
    """What the setting `base_dtype` names: `auto` is `best_dtype()`."""
    return {"auto": best_dtype(), "bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def compute_threads() -> int:
    """The cores this process may use; more threads than that only wait for one another."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def stop_token_ids(model: CausalModel, closing_id: int) -> frozenset[int]:
    """The tokens that end an answer: the family's closing token, and what the base itself was taught to end with."""
    found = {closing_id}
    for config in (model.config, text_config(model), model.generation_config):
        own = getattr(config, "eos_token_id", None)
        found |= set(own if isinstance(own, list) else [] if own is None else [own])
    return frozenset(found)


def load_base(folder: Path, *, dtype: torch.dtype | None = None, whole: bool = False) -> CausalModel:
    """The base model of `folder`: frozen, in evaluation mode, on the best device; its eyes and ears only if `whole`.

    Raises:
        FailedPrecondition: files are missing or broken; names the folder.
        ResourceExhausted: it does not fit in memory; says how much is needed and free.

    """
    transformers_logging.set_verbosity_error()  # our own errors say what matters
    transformers_logging.disable_progress_bar()
    wanted = dtype or best_dtype()
    _check_memory(folder, wanted)
    try:
        kind = AutoModelForImageTextToText if has_vision_tower(folder) else AutoModelForCausalLM
        model = kind.from_pretrained(str(folder), dtype=wanted, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FailedPrecondition(
            f"The base model in {folder} cannot be loaded: {_first_line(error)} "
            "Delete the folder and run `kastor models pull` to fetch it again."
        ) from error
    if not whole:
        _drop_senses(model)
    return model.requires_grad_(False).eval().to(best_device())


def has_vision_tower(folder: Path) -> bool:
    """Whether the model in the folder has a vision tower of its own."""
    try:
        return "vision_config" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # whoever loads it says what is wrong


def _drop_senses(model: CausalModel) -> None:
    """Let what sees and hears go: pictures come as features, their tower is a program of its own; sound never comes."""
    for name in SENSES:
        if getattr(model.model, name, None) is not None:
            setattr(model.model, name, None)


def _check_memory(folder: Path, dtype: torch.dtype) -> None:
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise FailedPrecondition(
            f"{folder} holds no *.safetensors: the base model is missing or incomplete. "
            "Delete the folder and run `kastor models pull` to fetch it again."
        )
    on_disk = sum(file.stat().st_size for file in files)  # taken as 2 bytes a parameter
    needed = int(on_disk * dtype.itemsize / 2 * MEMORY_FACTOR)
    free = free_bytes()
    if free < needed:
        raise ResourceExhausted(
            f"The base model in {folder} needs {needed / 1e9:.1f} GB of memory in {dtype}, "
            f"{free / 1e9:.1f} GB are free: close other programs, or tune a smaller base."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") + "." if text else f"{type(error).__name__}."


def cast_for_serving(base: Any, vision: VisionSpec | None) -> Any:  # noqa: ANN401  # a transformers model
    """The loaded base as it is served: one that sees computes in fp32, on the weights that were trained on.

    Among a picture's tokens bf16 rounds served log-probabilities .6 nats away on average, while training, whose sums
    are kept in fp32, stays within .05 of fp32 (docs/log.md). On a GPU, where both sides run the same kernels, a
    pretrained model stays as it is: many would not fit twice.
    """
    return base.float() if serving_dtype(base, vision) is torch.float32 else base


def serving_dtype(base: Any, vision: VisionSpec | None) -> torch.dtype:  # noqa: ANN401  # as above
    """What the loaded base computes in when it is served."""
    if vision is None or (vision.pretrained and base.device.type != "cpu"):
        dtype: torch.dtype = base.dtype
        return dtype
    return torch.float32


def fits_in_fp32(model: Any) -> bool:  # noqa: ANN401  # as above
    """Whether memory has room for the model's weights in fp32 in place of those in its own dtype."""
    more = sum(p.numel() * (torch.float32.itemsize - p.element_size()) for p in _rounded(model))
    return free_bytes() >= more * MEMORY_FACTOR


def to_fp32(model: Any) -> dict[torch.nn.Parameter, torch.dtype]:  # noqa: ANN401  # as above
    """Turn the model's weights into fp32, in place, and return what they were, for `restore_dtypes`.

    Buffers stay: those of rotary embeddings are fp32 in any model.
    """
    were = {parameter: parameter.dtype for parameter in _rounded(model)}
    restore_dtypes(dict.fromkeys(were, torch.float32))
    return were


def restore_dtypes(dtypes: Mapping[torch.nn.Parameter, torch.dtype]) -> None:
    """Turn each weight into its dtype, in place."""
    for parameter, dtype in dtypes.items():
        parameter.data = parameter.data.to(dtype)


@contextmanager
def fp32_module_by_module(model: Any) -> Iterator[None]:  # noqa: ANN401  # as above
    """Inside, the model computes in fp32 with memory for its largest module: each is turned while it is at work.

    The weights stay as they are; layers of training's own compute, which reads them itself, must not be in use.
    """
    held: dict[torch.nn.Module, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}

    def before(module: torch.nn.Module, _: Any) -> None:  # noqa: ANN401  # whatever the module is given
        own = _rounded(module, recurse=False)
        held[module] = [(parameter, parameter.data) for parameter in own]
        restore_dtypes(dict.fromkeys(own, torch.float32))

    def after(module: torch.nn.Module, *_: Any) -> None:  # noqa: ANN401  # as above
        for parameter, weight in held.pop(module):
            parameter.data = weight

    hooks = []
    for module in [one for one in model.modules() if _rounded(one, recurse=False)]:
        if isinstance(module, torch.nn.Embedding):  # what it looks up is exact
            hooks.append(module.register_forward_hook(lambda _, __, found: found.float()))
        else:
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounded(model: Any, *, recurse: bool = True) -> list[torch.nn.Parameter]:  # noqa: ANN401  # as above
    """Weights of less than four bytes a number; quantised ones are none that could be turned."""
    return [p for p in model.parameters(recurse) if p.is_floating_point() and p.element_size() < torch.float32.itemsize]


def free_bytes(control_group: Path = CONTROL_GROUP) -> int:
    """Memory that can be had now: of the GPU if there is one, else of the machine or, if less, of the container."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the allocator keeps of earlier work would count as taken
        return int(torch.cuda.mem_get_info()[0])
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((control_group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (control_group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])  # goes when room is needed
    except (OSError, ValueError, KeyError):  # no control groups, or no limit
        return available
    return min(available, max(0, limit - used + cached))

"""Runs one export: write beside the target, read back, compare with what is served, then rename into place."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import kastor
from kastor.domain.certificate import Tolerance
from kastor.domain.errors import Unimplemented
from kastor.export.comparison import Comparison, compare_logprobs, reference_logprobs
from kastor.export.gguf import check_gguf_support, read_gguf, write_gguf
from kastor.export.golden_features import family_of, load_golden_features, projector_origin
from kastor.export.hf_formats import read_adapter, read_merged, stored_dtype, write_adapter, write_merged, write_notice
from kastor.export.request import ExportRequest, Format, Weights, check_target
from kastor.models.chat.families import FAMILIES, Family
from kastor.models.chat.render import Renderer
from kastor.models.load import load_base
from kastor.runtime.atomic import rename_folder_synced
from kastor.runtime.storage_errors import translate_storage_errors
from kastor.serving.builtin.parity import ServedAdapter
from kastor.store.blobs.manifests import verify

MANIFEST_FILE = "kastor-export.json"
TOLERANCES: Mapping[torch.dtype | Weights, Tolerance] = {
    torch.float32: Tolerance(largest=0.01, mean=0.001),
    torch.float16: Tolerance(largest=0.1, mean=0.01),
    torch.bfloat16: Tolerance(largest=1.0, mean=0.1),
    Weights.F16: Tolerance(largest=0.1, mean=0.01),
    Weights.BF16: Tolerance(largest=1.0, mean=0.1),
    Weights.Q8_0: Tolerance(largest=1.0, mean=0.1),
}
"""How far an export may differ from what is served, both computed in fp32, by the dtype that its weights were rounded
to. Measurements and margin: docs/log.md."""
VISION_BF16 = Tolerance(largest=2.0, mean=0.2)
"""With pictures, rounding the weights to bf16 has twice the effect, as it has in the certificate."""
OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FormatHandler:
    """How a format is written and read back."""

    write: Callable[[ExportRequest, Path], None]
    read: Callable[[ExportRequest, Path], Any]
    library: str  # the reader's name, for progress


FORMAT_HANDLERS: Mapping[Format, FormatHandler] = {
    Format.PEFT: FormatHandler(write_adapter, read_adapter, "peft"),
    Format.MERGED: FormatHandler(write_merged, read_merged, "transformers"),
    Format.GGUF: FormatHandler(write_gguf, read_gguf, "transformers' GGUF reader"),
}


def run_export(order: ExportRequest, on_progress: OnProgress) -> dict[str, Any]:
    """Write the export and return its manifest; `on_progress` receives each stage.

    Raises:
        DataLoss: a file of the tuned model is damaged; names it.
        FailedPrecondition: the folder is not empty or cannot be written to, or a part of the model is broken.
        Internal: the written files give other numbers than the tuned model.
        Unimplemented: this model cannot be exported in this format.

    """
    check_target(order.out)
    verify(order.adapter)
    family = family_of(order)
    _check_format(order, family)
    on_progress("scoring golden rows as they are served")
    renderer = Renderer.open(order.base_folder, family, order.supervise, order.rendering)
    golden = order.files.golden(order.adapter)
    features = load_golden_features(golden, order)
    examples = features.rendered(golden, renderer)
    base, embed = load_base(order.base_folder, dtype=torch.float32), features.as_served(order)
    served = ServedAdapter.open(base, renderer, order.adapter, embed).logprobs(examples)
    scratch = order.out.parent / f".{order.out.name}.partial"
    with translate_storage_errors(order.out.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            _write(order, scratch, on_progress)
            found = reference_logprobs(_read_back(order, scratch, on_progress), examples, features.by(scratch))
            comparison = compare_logprobs(served, found, _tolerance(order), f"{order.format.value} export")
            manifest = _manifest(order, comparison, scratch)
            (scratch / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
            rename_folder_synced(scratch, order.out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _check_format(order: ExportRequest, family: Family) -> None:
    if order.format is not Format.GGUF:
        return
    if family.vision is not None:
        raise Unimplemented(
            f"{order.base_model} reads pictures, and llama.cpp would need its vision tower as a separate file "
            "(mmproj), of a kind that it does not know: export it as peft or merged."
        )
    check_gguf_support(order.base_folder)


def _write(order: ExportRequest, folder: Path, on_progress: OnProgress) -> None:
    on_progress(f"writing {order.format.value}")
    FORMAT_HANDLERS[order.format].write(order, folder)
    write_notice(order, folder)


def _read_back(order: ExportRequest, folder: Path, on_progress: OnProgress) -> Any:  # noqa: ANN401  # a library's model
    handler = FORMAT_HANDLERS[order.format]
    on_progress(f"reading it back by {handler.library} and comparing")
    return handler.read(order, folder)


def _tolerance(order: ExportRequest) -> Tolerance:
    if order.format is Format.GGUF:
        return TOLERANCES[order.weights]
    dtype = stored_dtype(order.base_folder) if order.format is Format.MERGED else torch.float32
    has_vision = FAMILIES[order.family].vision is not None
    return VISION_BF16 if has_vision and dtype is torch.bfloat16 else TOLERANCES[dtype]


def _manifest(order: ExportRequest, comparison: Comparison, folder: Path) -> dict[str, Any]:
    weights = {"weights": order.weights.value} if order.format is Format.GGUF else {}
    return {
        "format": order.format.value,
        **weights,
        **_vision_manifest(order),
        "model": order.model,
        "job": order.job,
        "baseModel": order.base_model,
        "comparison": comparison.document(),
        "versions": {"kastor": kastor.__version__}
        | {name: version(name) for name in ("torch", "transformers", "peft", "gguf")},
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(folder.iterdir())
        },
    }


def _vision_manifest(order: ExportRequest) -> dict[str, Any]:
    """The tower and the placeholder that the model needs for pictures; empty for a model that reads text only."""
    vision, origin = FAMILIES[order.family].vision, projector_origin(order)
    if vision is None or origin is None:
        return {}
    return {"vision": {**origin, "placeholder": vision.placeholder}}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

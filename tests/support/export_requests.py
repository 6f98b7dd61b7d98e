"""Export requests for tests: a tiny base, an adapter on it, and the examples for the comparison."""

from pathlib import Path
from typing import Any

from kastor.domain.content import SupervisedTurns
from kastor.domain.job import Rendering
from kastor.export.golden import GoldenJobFiles
from kastor.export.request import ExportRequest, Format, Weights


def files_in(folder: Path) -> GoldenJobFiles:
    """A job's files as `Blobs` names them, in one folder."""
    return GoldenJobFiles(folder / "dataset.jsonl", folder / "plan.jsonl")


def make_order(given: Path, out: Path, **changes: Any) -> ExportRequest:
    """The adapter in `given / "adapter"` on the base in `given / "base"`, as PEFT to `out`."""
    fields: dict[str, Any] = {
        "format": Format.PEFT,
        "weights": Weights.F16,
        "out": out,
        "model": "tunedModels/numbers",
        "job": "job1",
        "base_model": "models/tiny",
        "family": "smollm2",
        "base_folder": given / "base",
        "base_hub": "",
        "base_revision": "",
        "licence": "none",
        "adapter": given / "adapter",
        "files": files_in(given),
        "supervise": SupervisedTurns.LAST,
        "rendering": Rendering.PUBLISHED,
        "catalog_entry": "",
        "feature_cache": given / "features",
        "feature_cache_bytes": 1 << 30,
        "media": {},
        "lost": {},
    }
    return ExportRequest(**fields | changes)

"""What is to be exported, and where from: made by the command, read by the process that does it. No torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import Rendering
from kastor.export.golden import GoldenJobFiles


class Format(StrEnum):
    """What a model can be exported as."""

    PEFT = "peft"
    MERGED = "merged"
    GGUF = "gguf"


class Weights(StrEnum):
    """How a GGUF file holds the matrices; vectors are fp32."""

    BF16 = "bf16"
    F16 = "f16"
    Q8_0 = "q8_0"


def check_target(out: Path) -> None:
    """See to it that nothing lies where the export is to be.

    Raises:
        FailedPrecondition: something does.

    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FailedPrecondition(f"{out} exists and is not an empty folder; name another one.")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One export."""

    format: Format
    weights: Weights
    out: Path
    model: str  # tunedModels/NAME, empty where it was deleted
    job: str
    base_model: str
    family: str
    base_folder: Path
    base_hub: str  # repository of the hub that the base is from, or empty
    base_revision: str
    licence: str
    adapter: Path
    files: GoldenJobFiles
    supervise: SupervisedTurns
    rendering: Rendering  # that the model was tuned with
    catalog_entry: str  # by which the merged model is a base of Kastor's
    feature_cache: Path
    feature_cache_bytes: int
    media: Mapping[str, str]  # content hash -> path, of what golden rows show
    lost: Mapping[str, str]  # content hash -> why it cannot be had
    num_threads: int | None = None

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def decode(cls, text: str) -> "ExportRequest":
        """From JSON."""
        found: dict[str, Any] = json.loads(text)
        found |= {name: Path(found[name]) for name in ("out", "base_folder", "adapter", "feature_cache")}
        found["files"] = GoldenJobFiles(**{name: Path(path) for name, path in found["files"].items()})
        found |= {"supervise": SupervisedTurns(found["supervise"]), "rendering": Rendering(found["rendering"])}
        return cls(**found | {"format": Format(found["format"]), "weights": Weights(found["weights"])})

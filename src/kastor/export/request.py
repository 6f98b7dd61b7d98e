"""What to export, and where from: written by the command, read by the exporting process. No torch."""

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
    """The formats of exports."""

    PEFT = "peft"
    MERGED = "merged"
    GGUF = "gguf"


class Weights(StrEnum):
    """The dtype of a GGUF file's matrices; vectors are fp32."""

    BF16 = "bf16"
    F16 = "f16"
    Q8_0 = "q8_0"


def check_target(out: Path) -> None:
    """Check that the target folder is free.

    Raises:
        FailedPrecondition: it is not.

    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FailedPrecondition(f"{out} exists and is not an empty folder; name another one.")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One export."""

    format: Format
    weights: Weights
    out: Path
    model: str  # its name, empty where it was deleted
    job: str
    base_model: str
    family: str
    base_folder: Path
    base_hub: str  # the base's repository on the model hub, or empty
    base_revision: str
    licence: str
    adapter: Path
    files: GoldenJobFiles
    supervise: SupervisedTurns
    rendering: Rendering  # the one that the model was tuned with
    catalog_entry: str  # makes the merged model a base for Kastor
    feature_cache: Path
    feature_cache_bytes: int
    media: Mapping[str, str]  # content hash -> path, for the media of golden rows
    lost: Mapping[str, str]  # content hash -> why the medium is not available
    num_threads: int | None = None

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def decode(cls, text: str) -> "ExportRequest":
        """From JSON."""
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: Path(fields[name]) for name in ("out", "base_folder", "adapter", "feature_cache")}
        fields["files"] = GoldenJobFiles(**{name: Path(path) for name, path in fields["files"].items()})
        fields |= {"supervise": SupervisedTurns(fields["supervise"]), "rendering": Rendering(fields["rendering"])}
        return cls(**fields | {"format": Format(fields["format"]), "weights": Weights(fields["weights"])})

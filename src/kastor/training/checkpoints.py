"""Checkpoints on disk: each a plain PEFT adapter directory, plus what an exact resume needs and a manifest.

    checkpoints/step-000019/
        adapter_config.json, adapter_model.safetensors   the adapter, as peft writes it
        projector.safetensors                            what makes embeddings of pictures, where there were any
        tower.safetensors                                the vision tower, where that was trained, too
        training_state.safetensors                       optimizer; only in the newest
        manifest.json                                    step, base, sizes and sha256 of the files

A checkpoint appears by one rename, after its files have reached the disk: a folder with this name is whole. The ends of
epochs are kept; one taken between them goes when a newer one is there.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from kastor.domain.certificate import CERTIFICATE_FILE
from kastor.domain.errors import FailedPrecondition
from kastor.models.projector import PROJECTOR_FILE, Projector
from kastor.models.sources import TOWER_FILE
from kastor.models.tower import Tower

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
STATE_FILE = "training_state.safetensors"
MANIFEST_FILE = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    step: int

    @property
    def manifest(self) -> dict[str, Any]:
        """What its manifest says."""
        return manifest(self.folder)

    @property
    def resumable(self) -> bool:
        """Whether training can go on from it."""
        return (self.folder / STATE_FILE).is_file()


class Checkpoints:
    """One job's checkpoints."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def all(self) -> list[Checkpoint]:
        """Oldest first."""
        if not self._root.is_dir():
            return []
        named = ((entry, _NAME.fullmatch(entry.name)) for entry in self._root.iterdir())
        return sorted((Checkpoint(e, int(m.group(1))) for e, m in named if m), key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The one to resume from."""
        return next((checkpoint for checkpoint in reversed(self.all()) if checkpoint.resumable), None)

    def save(
        self,
        model: Any,  # noqa: ANN401  # peft model
        state: Mapping[str, torch.Tensor],
        *,
        step: int,
        ends_epoch: bool,
        about: Mapping[str, object],
        projector: Projector | None = None,
        tower: Tower | None = None,
    ) -> Checkpoint:
        """Write the checkpoint of `step`; `about` goes into its manifest, with the hash of the tower.

        Raises:
            OSError: the disk is full or not writable; nothing half-written stays under a checkpoint's name.

        """
        target = self._root / f"step-{step:06d}"
        with _scratch(self._root, target.name) as scratch:
            model.save_pretrained(scratch, safe_serialization=True, save_embedding_layers=False)
            (scratch / "README.md").unlink(missing_ok=True)  # peft's empty model card
            if projector is not None:
                projector.save(scratch)
            if tower is not None:
                tower.save(scratch)
                about = {**about, "vision": {**_vision(about), "tower": _sha256(scratch / TOWER_FILE)}}
            save_file(dict(state), scratch / STATE_FILE)
            _write_manifest(scratch, {**about, "step": step, "endsEpoch": ends_epoch})
            _move_into_place(scratch, target)
        self._prune(before=step)
        return Checkpoint(target, step)

    def publish(
        self, checkpoint: Checkpoint, target: Path, prove: Callable[[Path], str], beside: Sequence[Path] = ()
    ) -> None:
        """Copy the adapter of `checkpoint` to `target`, and the files `beside`, whole or not at all.

        `prove` is given the folder with the copied files and returns the certificate that is put beside them; what it
        raises leaves nothing published.

        Raises:
            FailedPrecondition: a file of the checkpoint is damaged; names it.

        """
        verify(checkpoint.folder)
        with _scratch(target.parent, target.name) as scratch:
            sight = [name for name in (PROJECTOR_FILE, TOWER_FILE) if (checkpoint.folder / name).exists()]
            for name in (*ADAPTER_FILES, *sight):
                shutil.copyfile(checkpoint.folder / name, scratch / name)
            for file in beside:
                shutil.copyfile(file, scratch / file.name)
            (scratch / CERTIFICATE_FILE).write_text(prove(scratch), "utf-8")
            _write_manifest(scratch, {k: v for k, v in checkpoint.manifest.items() if k != "files"})
            _move_into_place(scratch, target)

    def _prune(self, *, before: int) -> None:
        for left_over in self._root.glob(".step-*.partial"):  # of a worker that was killed while it saved
            shutil.rmtree(left_over, ignore_errors=True)
        for checkpoint in self.all():
            if checkpoint.step >= before:
                continue
            if checkpoint.manifest["endsEpoch"]:
                (checkpoint.folder / STATE_FILE).unlink(missing_ok=True)
            else:
                shutil.rmtree(checkpoint.folder, ignore_errors=True)


def restore(checkpoint: Checkpoint, model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401  # peft model
    """Load the adapter of `checkpoint` into `model` and return its training state. Raises what `load_adapter` does."""
    load_adapter(checkpoint.folder, model)
    return dict(load_file(checkpoint.folder / STATE_FILE))


def load_projector(folder: Path) -> Projector | None:
    """The projector beside the adapter in `folder`, if it was trained with one.

    Raises:
        FailedPrecondition: a file is damaged; names it.

    """
    verify(folder)
    return Projector.load(folder)


def load_adapter(folder: Path, model: Any) -> None:  # noqa: ANN401  # peft model
    """Load the adapter in `folder` into `model`.

    Raises:
        FailedPrecondition: a file is damaged, or is not of this model's adapter; names it.

    """
    verify(folder)
    loaded = set_peft_model_state_dict(model, load_file(folder / ADAPTER_FILES[1]))
    wrong = list(loaded.unexpected_keys) + [key for key in loaded.missing_keys if "lora_" in key]
    if wrong:
        raise FailedPrecondition(f"{folder}: {len(wrong)} tensors do not fit this model, first {wrong[0]}.")


def verify(folder: Path) -> None:
    """See to it that the files in `folder` are those that its manifest lists.

    Raises:
        FailedPrecondition: one is missing or damaged; names it.

    """
    for name, said in manifest(folder)["files"].items():
        file = folder / name
        if not file.is_file() or _sha256(file) != said["sha256"]:
            raise FailedPrecondition(
                f"{file} is missing or damaged: its sha256 is not the manifest's. Check the disk, and tune again."
            )


def manifest(folder: Path) -> dict[str, Any]:
    """What the manifest in the folder of an adapter says."""
    return dict(json.loads((folder / MANIFEST_FILE).read_text("utf-8")))


def _vision(about: Mapping[str, object]) -> dict[str, object]:
    found = about.get("vision")
    return dict(found) if isinstance(found, Mapping) else {}


def _write_manifest(folder: Path, about: Mapping[str, object]) -> None:
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_FILE
    }
    text = json.dumps({"format": FORMAT, **about, "files": files}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", "utf-8")


class _scratch:
    """A folder beside its final place that is gone when the block ends, unless it was moved away."""

    def __init__(self, parent: Path, name: str) -> None:
        self._folder = parent / f".{name}.partial"

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _move_into_place(scratch: Path, target: Path) -> None:
    for file in scratch.iterdir():
        _fsync(file)
    _fsync(scratch)
    if target.exists():  # the same step again after a resume: same bits, so either will do
        shutil.rmtree(target)
    scratch.rename(target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

"""Checkpoints on disk: a plain PEFT adapter directory, plus a manifest and the state for an exact resume.

    checkpoints/step-000019/
        adapter_config.json, adapter_model.safetensors   the adapter, as peft writes it
        projector.safetensors                            the vision projector, if examples have pictures
        tower.safetensors                                the vision tower, if it is trained
        training_state.safetensors                       optimizer state; only in the two newest
        manifest.json                                    step, base, sizes and sha256 of the files

A checkpoint appears by one rename, after its files have been synced. `CheckpointFolder` lists and prunes them.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from kastor.domain.certificate import CERTIFICATE_FILE
from kastor.domain.errors import FailedPrecondition
from kastor.models.vision.efficientnet import EfficientNetLite
from kastor.models.vision.projector import PROJECTOR_FILE, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.runtime.atomic import rename_folder_synced
from kastor.store.blobs.checkpoint_folder import Checkpoint, CheckpointFolder, remove_folder
from kastor.store.blobs.manifests import STATE_FILE, UNREAD, sha256_of, short_name, verify, write_manifest

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class CheckpointWriter(CheckpointFolder):
    """Writes and publishes the checkpoints of one job."""

    def save(
        self,
        model: Any,  # noqa: ANN401  # peft model
        state: Mapping[str, torch.Tensor],
        *,
        step: int,
        ends_epoch: bool,
        about: Mapping[str, object],
        projector: Projector | None = None,
        tower: EfficientNetLite | None = None,
    ) -> Checkpoint:
        """Write the checkpoint of `step`; `about` goes into its manifest, with the hash of the tower.

        An intact checkpoint of this step is kept: a step repeated after a resume has the same bits, and a checkpoint
        that ends an epoch stays one.

        Raises:
            OSError: the disk is full or not writable; no partial checkpoint is left behind.

        """
        checkpoint = self.at(step)
        target = checkpoint.folder
        if checkpoint.is_intact and (checkpoint.manifest["endsEpoch"] or not ends_epoch):
            return checkpoint
        with _scratch(self._root, target.name) as scratch:
            model.save_pretrained(scratch, safe_serialization=True, save_embedding_layers=False)
            (scratch / "README.md").unlink(missing_ok=True)  # the empty model card that peft writes
            if projector is not None:
                projector.save(scratch)
            if tower is not None:
                tower.save(scratch)
                about = {**about, "vision": {**_vision(about), "tower": sha256_of(scratch / TOWER_FILE)}}
            save_file(dict(state), scratch / STATE_FILE)
            write_manifest(scratch, {**about, "step": step, "endsEpoch": ends_epoch})
            _move_into_place(scratch, target)
        self._prune(newest=step)
        return checkpoint

    def publish(
        self, checkpoint: Checkpoint, target: Path, prove: Callable[[Path], str], beside: Sequence[Path] = ()
    ) -> None:
        """Copy the adapter of `checkpoint` and the files `beside` to `target`, atomically.

        `prove` receives the folder with the copied files and returns the certificate to store with them. If it raises,
        nothing is published.

        Raises:
            DataLoss: a file of the checkpoint is damaged; names it.

        """
        verify(checkpoint.folder)
        with _scratch(target.parent, target.name) as scratch:
            vision_files = [name for name in (PROJECTOR_FILE, TOWER_FILE) if (checkpoint.folder / name).exists()]
            for name in (*ADAPTER_FILES, *vision_files):
                shutil.copyfile(checkpoint.folder / name, scratch / name)
            for file in beside:
                shutil.copyfile(file, scratch / file.name)
            (scratch / CERTIFICATE_FILE).write_text(prove(scratch), "utf-8")
            write_manifest(scratch, {k: v for k, v in checkpoint.manifest.items() if k != "files"})
            _move_into_place(scratch, target)


def restore(checkpoint: Checkpoint, model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401  # peft model
    """Load the adapter of `checkpoint` into `model` and return its training state. Raises like `load_adapter`."""
    verify(checkpoint.folder)
    _load_tensors(checkpoint.folder, model)
    return dict(load_file(checkpoint.folder / STATE_FILE))


def load_projector(folder: Path) -> Projector | None:
    """The projector beside the adapter in `folder`, if it was trained with one.

    Raises:
        DataLoss: a file is damaged; names it.

    """
    verify(folder, unread=UNREAD)
    return Projector.load(folder)


def load_adapter(folder: Path, model: Any) -> None:  # noqa: ANN401  # peft model
    """Load the adapter in `folder` into `model`.

    Raises:
        DataLoss: a file is damaged; names it.
        FailedPrecondition: the tensors do not fit this model's adapter; names one.

    """
    verify(folder, unread=UNREAD)
    _load_tensors(folder, model)


def _load_tensors(folder: Path, model: Any) -> None:  # noqa: ANN401  # as above
    loaded = set_peft_model_state_dict(model, load_file(folder / ADAPTER_FILES[1]))
    wrong = list(loaded.unexpected_keys) + [key for key in loaded.missing_keys if "lora_" in key]
    if wrong:
        raise FailedPrecondition(
            f"The adapter in {short_name(folder)} does not fit this model: {len(wrong)} tensors differ, first "
            f"{wrong[0]}."
        )


def _vision(about: Mapping[str, object]) -> dict[str, object]:
    found = about.get("vision")
    return dict(found) if isinstance(found, Mapping) else {}


class _scratch:
    """A temporary folder next to the final one; it is deleted when the block ends, unless it was renamed."""

    def __init__(self, parent: Path, name: str) -> None:
        self._folder = parent / f".{name}.partial"

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _move_into_place(scratch: Path, target: Path) -> None:
    if target.exists():  # damaged, or left by a worker that was killed
        remove_folder(target)
    rename_folder_synced(scratch, target)

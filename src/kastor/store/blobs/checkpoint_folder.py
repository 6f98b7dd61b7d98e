"""One job's checkpoints on disk: which there are, which are sound, and which are kept. No torch: the server asks, too.

A checkpoint appears and goes by one rename: a folder of this name with a manifest is whole. The two newest can be
resumed from, so that a damaged one has another before it; of older ones the ends of epochs stay, as adapters.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kastor.domain.errors import DataLoss
from kastor.store.blobs.manifests import MANIFEST_FILE, STATE_FILE, manifest, verify

NUM_RESUMABLE = 2
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
    def is_resumable(self) -> bool:
        """Whether training can go on from it."""
        return (self.folder / STATE_FILE).is_file()

    @property
    def is_intact(self) -> bool:
        """Whether training can go on from it, and every file is as it was written."""
        try:
            verify(self.folder)
        except DataLoss:
            return False
        return self.is_resumable


class CheckpointFolder:
    """The folder of one job's checkpoints."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def all(self) -> list[Checkpoint]:
        """Oldest first; without what a removal that was cut short left, which has no manifest."""
        if not self._root.is_dir():
            return []
        named = ((entry, _NAME.fullmatch(entry.name)) for entry in self._root.iterdir())
        whole = (Checkpoint(e, int(m.group(1))) for e, m in named if m and (e / MANIFEST_FILE).is_file())
        return sorted(whole, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest that can be resumed from if it is sound."""
        return next((checkpoint for checkpoint in reversed(self.all()) if checkpoint.is_resumable), None)

    def latest_intact(self, on_damage: Callable[[Checkpoint], None]) -> Checkpoint | None:
        """The one to resume from: the newest whose files are all as they were written.

        `on_damage` is told of each newer one that is not so.
        """
        for age, checkpoint in enumerate(reversed(self.all())):
            if checkpoint.is_intact:
                return checkpoint
            if age == 0 or checkpoint.is_resumable:  # of the older ones most are only kept as adapters
                on_damage(checkpoint)
        return None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of that step; its folder need not exist."""
        return Checkpoint(self._root / f"step-{step:06d}", step)

    def _prune(self, *, newest: int) -> None:
        for left_over in self._root.glob(".step-*"):  # of a worker that was killed while it saved or removed
            shutil.rmtree(left_over, ignore_errors=True)
        older = [checkpoint for checkpoint in self.all() if checkpoint.step < newest]
        for checkpoint in older[: -(NUM_RESUMABLE - 1)]:
            if _may_end_epoch(checkpoint):
                (checkpoint.folder / STATE_FILE).unlink(missing_ok=True)
            else:
                remove_folder(checkpoint.folder)


def _may_end_epoch(checkpoint: Checkpoint) -> bool:
    try:
        return bool(checkpoint.manifest.get("endsEpoch", True))
    except DataLoss:  # damaged: what can still be read of it is not ours to throw away
        return True


def remove_folder(folder: Path) -> None:
    """Remove a folder that others look for: by a rename first, so that nobody meets half of it."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)

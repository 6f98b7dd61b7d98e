"""Pictures -> frozen features, computed once: the encoder around a tower, and the store where its features are kept.

A picture is scaled to a square without regard to its proportions (by the decoders, bicubic): everything in it stays in
sight and no token is spent on borders, as EfficientNet was trained under crops of all proportions. Features are half
precision; their rounding, 5e-4, is far below what the projector's standardisation leaves of differences.

Shapes: P pictures of a medium, S pixels of a side, N tokens of a picture, C channels of the tower.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kastor.domain.errors import FailedPrecondition
from kastor.media.cache import Lease, MediaCache
from kastor.models.load import best_device
from kastor.models.sources import TOWER_FILE
from kastor.models.tower import Tower

PREPROCESSING = 1  # counts changes to how pictures are scaled; part of every key
BATCH_PIXELS = 8 * 256 * 256  # go through the tower at once
TENSOR = "features"

Pixels = NDArray[np.uint8]
Features = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Encoder:
    """A frozen tower that makes features of pictures; `hash` is that of its weights."""

    tower: Callable[[Pixels], NDArray[np.float32]]  # (B, S, S, 3) -> (B, N, C)
    hash: str

    @classmethod
    def open(cls, folder: Path, *, num_threads: int) -> "Encoder":
        """The encoder of the base model in `folder`, on the GPU if there is one.

        Raises:
            FailedPrecondition: the tower's weights are missing or broken.

        """
        file = folder / TOWER_FILE
        sha256 = tower_hash(folder)
        if best_device().type == "cpu":
            # not at the top: half a second that a job whose features are stored needs not
            from kastor.models.tower_onnx import OnnxTower

            return cls(OnnxTower.open(file, num_threads=num_threads), sha256)
        return cls(_OnDevice(Tower.open(file).to(best_device())), sha256)

    def encode(self, pictures: Sequence[Pixels]) -> Features:
        """Features of pictures of one size (S, S, 3), S a multiple of 32: (P, N, C). Batches change no bit of them."""
        at_once = max(1, BATCH_PIXELS // pictures[0][..., 0].size)
        batches = [np.stack(pictures[at : at + at_once]) for at in range(0, len(pictures), at_once)]
        return np.concatenate([self.tower(batch).astype(np.float16) for batch in batches])


@dataclass(frozen=True, slots=True)
class _OnDevice:
    """The tower in torch, with arrays outside."""

    tower: Tower

    def __call__(self, pictures_BHWC: Pixels) -> NDArray[np.float32]:
        device = next(self.tower.buffers()).device
        found: NDArray[np.float32] = self.tower(torch.from_numpy(pictures_BHWC).to(device)).float().cpu().numpy()
        return found


def tower_hash(folder: Path) -> str:
    """The SHA-256 of the weights of the tower of the base model in `folder`.

    Raises:
        FailedPrecondition: there is none.

    """
    try:
        with (folder / TOWER_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FailedPrecondition(
            f"{folder / TOWER_FILE} cannot be read ({error.strerror}): the base model's vision tower is missing. "
            "Delete the folder and run `kastor models pull` to fetch it again."
        ) from error


def feature_key(sha256: str, pictures: Sequence[int], size: int, tower: str) -> str:
    """Under which name the features of a medium are kept.

    Args:
        sha256: of the medium's content.
        pictures: those that are looked at: presentation times of a video's frames, numbers of pages, (0,) of an image.
        size: pixels of each side that they are scaled to.
        tower: the hash of its weights.

    """
    said = json.dumps([PREPROCESSING, tower, size, sha256, list(pictures)])
    return hashlib.sha256(said.encode()).hexdigest()


class FeatureStore:
    """Features on this machine's disk, shared by jobs and generation; what `lease` has asked for stays.

    The folder is a `MediaCache`: written whole or not at all, by several processes, the least recently used evicted.
    """

    def __init__(self, cache: MediaCache, lease: Lease) -> None:
        self._cache = cache
        self._lease = lease
        self._held: dict[str, Path] = {}

    def has(self, key: str) -> bool:
        """Whether the features are here now; they may go."""
        return self._cache.has(key)

    def hold(self, key: str) -> bool:
        """Whether the features are here; if so, they stay for as long as the lease lives."""
        if key not in self._held:
            found = self._cache.get(key, self._lease)
            if found is None:
                return False
            self._held[key] = found.path
        return True

    def put(self, key: str, features_PNC: Features) -> None:
        """Keep the features, for as long as the lease lives at least.

        Raises:
            ResourceExhausted: the disk or the cache is full.

        """
        self._held[key] = self._cache.put([save({TENSOR: features_PNC})], self._lease, name=key).path

    def read(self, key: str, index: int) -> Features:
        """Features (N, C) of one picture of a medium that is held; no others are read from the disk.

        Raises:
            FailedPrecondition: they cannot be read.

        """
        path = self._held[key]
        try:
            with safe_open(path, framework="numpy") as file:  # maps it into memory
                found: Features = file.get_slice(TENSOR)[index]
        except (OSError, SafetensorError) as error:
            raise FailedPrecondition(
                f"The features in {path} cannot be read ({error}): delete the file, and tune again."
            ) from error
        return found

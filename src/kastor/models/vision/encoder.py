"""Pictures -> frozen features, computed once: the encoder around a tower, and the store where its features are kept.

A picture is scaled by the decoders to the size of its layout. Features are half precision; their rounding, 5e-4, is far
below what the projector's standardisation leaves of differences.

Shapes: B pictures at once, N tokens of a picture, C channels of the tower.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import MediumError
from kastor.domain.vision import Grid, VisionSpec
from kastor.media.cache import Lease, MediaCache
from kastor.media.frame_sampling import SCALING
from kastor.models.device import best_device
from kastor.models.vision.efficientnet import EfficientNetLite
from kastor.models.vision.grids import layout_of
from kastor.models.vision.specs import TOWER_FILE

PREPROCESSING = 2  # counts changes to how pictures are scaled; part of every key
BATCH_PIXELS = 8 * 256 * 256  # go through the tower at once
TENSOR = "features"  # of all pictures, one after the other
ENDS = "ends"  # where each one's end, in tokens
LARGEST_HALF = float(np.finfo(np.float16).max)

Pixels = NDArray[np.uint8]
Features = NDArray[np.float16] | NDArray[np.float32]  # the latter where a number is too large for the former


Run = Callable[[Pixels, Grid], NDArray[np.float32]]
"""Pictures (B, height, width, 3) and their layout -> features (B, N, C)."""


@dataclass(frozen=True, slots=True)
class VisionEncoder:
    """A frozen tower that makes features of pictures; `hash` is that of its weights."""

    tower: Run
    hash: str

    @classmethod
    def open(cls, folder: Path, vision: VisionSpec, *, num_threads: int) -> "VisionEncoder":
        """The encoder of the base model in `folder`, which sees by `vision`, on the GPU if there is one.

        Raises:
            FailedPrecondition: the tower's weights are missing or broken, or of a model that sees otherwise.

        """
        if vision.pretrained:
            from kastor.models.vision.pretrained import (
                PretrainedTower,  # costs a second, of transformers' models that see
            )

            _check_layout(folder, vision)
            tower = PretrainedTower.open(folder, vision.pretrained)
            return cls(tower, tower.hash)
        return cls(load_efficientnet(folder, num_threads=num_threads), tower_hash(folder, vision))

    def encode(self, pictures: Sequence[Pixels], grids: Sequence[Grid]) -> list[Features]:
        """Features (N, C) of each picture, which is as its grid says. Batches change no bit of them."""
        found: list[Features] = []
        for grid, group in groupby(zip(grids, pictures, strict=True), key=lambda pair: pair[0]):
            alike = [picture for _, picture in group]
            at_once = max(1, BATCH_PIXELS // (grid.width * grid.height))
            for at in range(0, len(alike), at_once):
                found += [to_half_precision(one) for one in self.tower(np.stack(alike[at : at + at_once]), grid)]
        bad = next((index for index, one in enumerate(found) if not np.isfinite(one).all()), None)
        if bad is not None:
            raise MediumError.of(
                "features_not_finite",
                f"The vision tower makes no finite numbers of its picture {bad + 1}.",
                "If it is so with every medium, the tower's weights are damaged: fetch the base model again.",
            )
        return found


def load_efficientnet(folder: Path, *, num_threads: int) -> Run:
    """The tower that lies in `folder` apart from any language model, frozen, on the GPU if there is one.

    Raises:
        FailedPrecondition: its weights are missing or broken.

    """
    file = folder / TOWER_FILE
    if best_device().type == "cpu":
        # not at the top: half a second that a job whose features are stored needs not
        from kastor.models.vision.efficientnet_onnx import OnnxEfficientNetLite

        onnx = OnnxEfficientNetLite.open(file, num_threads=num_threads)
        return lambda pictures, _: onnx(pictures)
    return _OnDevice(EfficientNetLite.open(file).to(best_device()))


@dataclass(frozen=True, slots=True)
class _OnDevice:
    """The tower in torch, with arrays outside."""

    tower: EfficientNetLite

    def __call__(self, pictures_BHWC: Pixels, _: Grid) -> NDArray[np.float32]:
        device = next(self.tower.parameters()).device
        with torch.inference_mode():
            found: NDArray[np.float32] = self.tower(torch.from_numpy(pictures_BHWC).to(device)).float().cpu().numpy()
        return found


def _check_layout(folder: Path, vision: VisionSpec) -> None:
    """Nothing, if the model in `folder` lays pictures out as its catalog entry has it."""
    path = folder / "config.json"
    own = layout_of(json.loads(path.read_bytes()))
    if own != vision.layout:
        raise FailedPrecondition(
            f"{path} lays pictures out by {own}, the catalog by {vision.layout}: "
            "write these numbers into the base's entry, as layout = { … }."
        )


def tower_hash(folder: Path, vision: VisionSpec) -> str:
    """The hash of what decides the features that the base model in `folder`, which sees by `vision`, makes.

    Raises:
        FailedPrecondition: it has no tower.

    """
    if vision.pretrained:
        from kastor.models.vision.pretrained import tower_hash as pretrained_hash  # as above

        return pretrained_hash(folder, vision.pretrained)
    try:
        with (folder / TOWER_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FailedPrecondition(
            f"{folder / TOWER_FILE} cannot be read ({error.strerror}): the base model's vision tower is missing. "
            "Delete the folder and run `kastor models pull` to fetch it again."
        ) from error


def feature_key(sha256: str, pictures: Sequence[int], grids: Sequence[Grid], tower: str, scaling: int = 0) -> str:
    """Under which name the features of a medium are kept.

    Args:
        sha256: of the medium's content.
        pictures: those that are looked at: presentation times of a video's frames, numbers of pages, (0,) of an image.
        grids: how each is laid out.
        tower: the hash of its weights.
        scaling: version of the rules that pictures are made by; 0 for the present one.

    """
    layout = [[*astuple(grid), len(list(group))] for grid, group in groupby(grids)]
    said = json.dumps([PREPROCESSING, scaling or SCALING, tower, layout, sha256, list(pictures)])
    return hashlib.sha256(said.encode()).hexdigest()


def to_half_precision(features: NDArray[np.float32]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Features as they are kept: fp16, or fp32 where one is too large for it.

    fp16 rounds by 5e-4, a model's own bf16 by 4e-3; but it ends at 65504, which what no norm bounds may exceed.
    """
    if not np.abs(features).max(initial=0) <= LARGEST_HALF:
        return features
    return features.astype(np.float16)


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

    def put(self, key: str, features: Sequence[Features]) -> None:
        """Keep the features (N, C) of each picture, for as long as the lease lives at least.

        Raises:
            ResourceExhausted: the disk or the cache is full.

        """
        ends = np.cumsum([len(one) for one in features])
        content = save({TENSOR: np.concatenate(features), ENDS: ends})
        self._held[key] = self._cache.put([content], self._lease, name=key).path

    def read(self, key: str, index: int) -> Features:
        """Features (N, C) of one picture of a medium that is held; no others are read from the disk.

        Raises:
            FailedPrecondition: they cannot be read.

        """
        path = self._held[key]
        try:
            with safe_open(path, framework="numpy") as file:  # maps it into memory
                begin, end = [0, *file.get_tensor(ENDS).tolist()][index : index + 2]
                found: Features = file.get_slice(TENSOR)[begin:end]
        except (OSError, SafetensorError) as error:
            raise FailedPrecondition(
                f"The features in {path} cannot be read ({error}): delete the file, and tune again."
            ) from error
        return found

"""Embeds the media of prompts: decode, encode with the vision tower, project into the language model's embeddings.

This runs outside the generating thread, which goes on with other answers. Features and frames come from the stores that
training fills and reads, so a second question about a medium decodes nothing. The projector is the adapter's own, or
the one in the base's folder (an exported model is such a base). A base without one gets a random projector, always the
same, which carries no meaning.

Shapes: P pictures of a medium, N tokens of a picture, C channels of the tower, W width of the language model.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from cachetools import LRUCache

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import FailedPrecondition, InvalidArgument, Unavailable
from kastor.domain.generation import ResolvedMedia, ResolvedMedium
from kastor.domain.media import MediumError
from kastor.domain.vision import VisionSpec
from kastor.media import decode
from kastor.media.cache import MediaCache
from kastor.media.frame_store import FrameStore
from kastor.models.chat.render import PictureSpan
from kastor.models.vision.encoder import PREPROCESSING, Features, FeatureStore, Pixels, VisionEncoder, tower_hash
from kastor.models.vision.media_frames import load_frames, medium_feature_key, medium_frames_key
from kastor.models.vision.projector import PROJECTOR_FILE, ChannelStats, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.serving.builtin.sequence import PictureEmbeddings

MANIFEST_FILE = "manifest.json"  # beside a projector; says what it was trained on
MAX_PROJECTORS = 32
MAX_ENCODERS = 4  # the base's, and those of adapters whose tower was trained
SEED = 0  # of a base's own projector


class PictureEmbedder:
    """Embeds the media of prompts for the base in `folder`; safe to use from several threads at once."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401  # transformers.PreTrainedModel, untyped
        vision: VisionSpec,
        folder: Path,
        cache: MediaCache,
        frames: MediaCache,
        adapter_folder: Callable[[AdapterRef], Path],
        *,
        num_threads: int,
    ) -> None:
        """`cache` holds features, `frames` the pictures that they are computed from."""
        self._table = model.get_input_embeddings().weight
        self._vision = vision
        self._folder = folder
        self._cache = cache
        self._frames = frames
        self._adapter_folder = adapter_folder
        self._num_threads = num_threads
        self._encoding = threading.Lock()  # one medium goes through the tower at a time
        self._encoders: LRUCache[str, VisionEncoder] = LRUCache(MAX_ENCODERS)
        self._loading = threading.Lock()
        self._projectors: LRUCache[AdapterRef | None, Projector] = LRUCache(MAX_PROJECTORS)
        self._towers: LRUCache[AdapterRef | None, _Tower] = LRUCache(MAX_PROJECTORS)

    def embed(
        self, pictures: Sequence[PictureSpan], shown: ResolvedMedia, adapter: AdapterRef | None
    ) -> tuple[PictureEmbeddings, ...]:
        """Embeddings of a prompt's pictures by this adapter, or by the base if `None`. Blocks while media are decoded.

        Raises:
            InvalidArgument: a medium is damaged; names its part.
            FailedPrecondition: the adapter's projector cannot be used with this base.
            ResourceExhausted: there is no room for features.
            Unavailable: a medium was removed or changed since it was inspected.

        """
        tower = self._tower(adapter)
        features = {media: self._features(one, tower) for media, one in shown.items()}
        spans = [features[p.media][p.index][p.offset : p.offset + p.num_tokens] for p in pictures]
        sizes = [len(span) for span in spans]
        embeddings = torch.from_numpy(np.concatenate(spans)).to(self._table.device)
        if not self._vision.pretrained:
            with torch.inference_mode():
                embeddings = self._projector(adapter, tower, num_channels=embeddings.shape[1])(embeddings, sizes)
        parts = embeddings.to(self._table.dtype).split(sizes)
        return tuple(PictureEmbeddings(picture.start, part) for picture, part in zip(pictures, parts, strict=True))

    # ---- features

    def _features(self, shown: ResolvedMedium, tower: "_Tower") -> list[Features]:
        key = medium_feature_key(shown.planned, tower.hash)
        with closing(self._cache.lease("engine")) as lease:
            store = FeatureStore(self._cache, lease)
            if not store.hold(key):
                with self._cache.fetching(key):  # whoever asks for the same meanwhile waits here
                    if not store.hold(key):
                        store.put(key, self._encoded(shown, tower))
            return [store.read(key, index) for index in range(shown.planned.view.num_pictures)]

    def _encoded(self, shown: ResolvedMedium, tower: "_Tower") -> list[Features]:
        with closing(self._frames.lease("engine")) as lease:
            pixels = self._pixels(shown, FrameStore(self._frames, lease, _log_not_kept))
            with self._encoding:
                encoder = self._encoders.get(tower.hash)
                if encoder is None:
                    encoder = VisionEncoder.open(tower.folder, self._vision, num_threads=self._num_threads)
                    self._encoders[tower.hash] = encoder
                with _caller_fault(shown):
                    return encoder.encode(pixels, shown.planned.view.grids)

    def _pixels(self, shown: ResolvedMedium, frames: FrameStore) -> Sequence[Pixels]:
        kept = frames.hold(medium_frames_key(shown.planned, self._vision))
        if kept is not None:
            return kept
        _check_content(shown)
        with _caller_fault(shown), closing(decode.PictureDecoder()) as pictures:
            return load_frames(frames, shown.path, shown.planned, self._vision, pictures)

    def _tower(self, adapter: AdapterRef | None) -> "_Tower":
        """The vision tower of an adapter: its own, if it was trained with the adapter, else the base's."""
        with self._loading:
            found = self._towers.get(adapter)
            if found is None:
                folder = self._folder_with(TOWER_FILE, adapter) or self._folder
                found = self._towers[adapter] = _Tower(folder, tower_hash(folder, self._vision))
            return found

    def _folder_with(self, name: str, adapter: AdapterRef | None) -> Path | None:
        """The folder that holds this file: the adapter's, else the base's."""
        folders = [] if adapter is None else [self._adapter_folder(adapter)]
        return next((folder for folder in [*folders, self._folder] if (folder / name).exists()), None)

    # ---- projectors

    def _projector(self, adapter: AdapterRef | None, tower: "_Tower", *, num_channels: int) -> Projector:
        with self._loading:
            found = self._projectors.get(adapter)
            if found is None:
                found = self._projectors[adapter] = self._load_projector(adapter, tower, num_channels)
            return found

    def _load_projector(self, adapter: AdapterRef | None, tower: "_Tower", num_channels: int) -> Projector:
        folder = self._folder_with(PROJECTOR_FILE, adapter)
        own = None if folder is None else Projector.load(folder)
        if own is None or folder is None:
            stats = ChannelStats(np.zeros(num_channels), np.ones(num_channels))
            scale = float(self._table.float().std())
            own = Projector.fresh(stats, self._table.shape[1], scale=scale, seed=SEED)
        else:
            check_projector_manifest(folder, tower.hash)
        expected, actual = (num_channels, self._table.shape[1]), (len(own.mean_C), own.width)
        if actual != expected:
            raise FailedPrecondition(
                f"The projector in {folder} maps {actual[0]} channels to {actual[1]}, this base needs {expected[0]} "
                f"and {expected[1]}: it belongs to another model."
            )
        return own.requires_grad_(False).to(self._table.device)


@dataclass(frozen=True, slots=True)
class _Tower:
    """The folder of a vision tower, and the hash of its weights."""

    folder: Path
    hash: str


def _log_not_kept(why: str) -> None:
    structlog.get_logger().warning("pictures_not_kept", reason=why)


@contextmanager
def _caller_fault(shown: ResolvedMedium) -> Iterator[None]:
    """Turns a fault of the medium into an error of the caller, which names the part."""
    try:
        yield
    except MediumError as bad:
        error = InvalidArgument.of(shown.place, f"{bad.fault.message} {bad.fault.hint}".strip())
        reason = bad.fault.rule.upper()
        raise InvalidArgument(error.message, violations=error.violations, reason=reason) from bad


def _check_content(shown: ResolvedMedium) -> None:
    """Check that the file still is what was inspected; a file named by its hash is never written to again."""
    try:
        with shown.path.open("rb") as file:
            sha256 = shown.planned.sha256
            same = shown.path.name == sha256 or hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        raise Unavailable(f"{shown.place}: the medium was removed after it was inspected; ask again.") from error
    if not same:
        raise Unavailable(f"{shown.place}: the medium was changed after it was inspected; ask again.")


def check_projector_manifest(folder: Path, tower: str) -> None:
    """Check that the projector in `folder` was trained on features that this program computes with that tower.

    Raises:
        FailedPrecondition: it was not, or no manifest says so.

    """
    try:
        vision = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))["vision"]
        preprocessing, trained_tower = int(vision["preprocessing"]), str(vision["tower"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"{folder / MANIFEST_FILE} does not say what its projector was trained on. Tune the model again."
        ) from error
    if preprocessing != PREPROCESSING:
        raise FailedPrecondition(
            f"The projector in {folder} was trained on pictures prepared by version {preprocessing} of this program's "
            f"rules; they are at version {PREPROCESSING} now. Tune the model again."
        )
    if trained_tower != tower:
        raise FailedPrecondition(
            f"The projector in {folder} was trained on the vision tower {trained_tower[:12]}…; this base has "
            f"{tower[:12]}…. Tune the model again."
        )

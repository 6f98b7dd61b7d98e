"""What an engine sees with: media of prompts -> embeddings in the places of their pictures.

All of it happens beside the generating thread, which goes on with other answers. Features and pictures come from the
stores that training fills and reads, so a second question about a medium decodes nothing. What makes embeddings of
features is the adapter's own projector, or that in the base's folder (an exported model is such a base); a base without
has a random one, always the same, by which pictures mean nothing.

Shapes: P pictures of a medium, N tokens of a picture, C channels of the tower, W width of the language model.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
import torch

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

MANIFEST_FILE = "manifest.json"  # beside a projector; says what that was trained on
MAX_PROJECTORS = 32
MAX_ENCODERS = 4  # the base's, and those of adapters whose tower was trained
SEED = 0  # of a base's own projector


K = TypeVar("K")
V = TypeVar("V")


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
        """`cache` is that of features, `frames` that of the pictures they are made of."""
        self._table = model.get_input_embeddings().weight
        self._vision = vision
        self._folder = folder
        self._cache = cache
        self._frames = frames
        self._adapter_folder = adapter_folder
        self._num_threads = num_threads
        self._encoding = threading.Lock()  # one medium goes through the tower at a time
        self._encoders: OrderedDict[str, VisionEncoder] = OrderedDict()
        self._loading = threading.Lock()
        self._projectors: OrderedDict[AdapterRef | None, Projector] = OrderedDict()
        self._towers: OrderedDict[AdapterRef | None, _TowerPlace] = OrderedDict()

    def embedded(
        self, pictures: Sequence[PictureSpan], shown: ResolvedMedia, adapter: AdapterRef | None
    ) -> tuple[PictureEmbeddings, ...]:
        """The pictures of a prompt, as the adapter sees them, or the base if `None`. Blocks: media may be decoded.

        Raises:
            InvalidArgument: a medium is damaged; names its part.
            FailedPrecondition: the adapter's projector cannot be used with this base.
            ResourceExhausted: there is no room for features.
            Unavailable: a medium has gone or changed since it was looked at.

        """
        tower = self._tower(adapter)
        features = {media: self._features(one, tower) for media, one in shown.items()}
        found = [features[p.media][p.index][p.offset : p.offset + p.num_tokens] for p in pictures]
        given, sizes = torch.from_numpy(np.concatenate(found)).to(self._table.device), [len(one) for one in found]
        if not self._vision.pretrained:
            with torch.inference_mode():
                given = self._projector(adapter, tower, num_channels=given.shape[1])(given, sizes)
        made = given.to(self._table.dtype)
        parts = made.split(sizes)
        return tuple(PictureEmbeddings(picture.start, part) for picture, part in zip(pictures, parts, strict=True))

    # ---- features

    def _features(self, shown: ResolvedMedium, tower: "_TowerPlace") -> list[Features]:
        key = medium_feature_key(shown.planned, tower.hash)
        with closing(self._cache.lease("engine")) as lease:
            store = FeatureStore(self._cache, lease)
            if not store.hold(key):
                with self._cache.fetching(key):  # who asks the same meanwhile waits for this
                    if not store.hold(key):
                        store.put(key, self._encoded(shown, tower))
            return [store.read(key, index) for index in range(shown.planned.view.num_pictures)]

    def _encoded(self, shown: ResolvedMedium, tower: "_TowerPlace") -> list[Features]:
        with closing(self._frames.lease("engine")) as lease:
            pixels = self._pixels(shown, FrameStore(self._frames, lease, _not_kept))
            with self._encoding:
                encoder = self._encoders.get(tower.hash)
                if encoder is None:
                    encoder = VisionEncoder.open(tower.folder, self._vision, num_threads=self._num_threads)
                    self._encoders[tower.hash] = encoder
                _bounded(self._encoders, tower.hash, MAX_ENCODERS)
                with _blamed_on(shown):
                    return encoder.encode(pixels, shown.planned.view.grids)

    def _pixels(self, shown: ResolvedMedium, frames: FrameStore) -> Sequence[Pixels]:
        kept = frames.hold(medium_frames_key(shown.planned, self._vision))
        if kept is not None:
            return kept
        _check_content(shown)
        with _blamed_on(shown), closing(decode.PictureDecoder()) as pictures:
            return load_frames(frames, shown.path, shown.planned, self._vision, pictures)

    def _tower(self, adapter: AdapterRef | None) -> "_TowerPlace":
        """The tower that an adapter sees with: its own, where it was trained along, else the base's."""
        with self._loading:
            found = self._towers.get(adapter)
            if found is None:
                folder = self._holding(TOWER_FILE, adapter) or self._folder
                found = self._towers[adapter] = _TowerPlace(folder, tower_hash(folder, self._vision))
            _bounded(self._towers, adapter, MAX_PROJECTORS)
            return found

    def _holding(self, name: str, adapter: AdapterRef | None) -> Path | None:
        """The folder with a file of that name: the adapter's, else the base's."""
        folders = [] if adapter is None else [self._adapter_folder(adapter)]
        return next((folder for folder in [*folders, self._folder] if (folder / name).exists()), None)

    # ---- projectors

    def _projector(self, adapter: AdapterRef | None, tower: "_TowerPlace", *, num_channels: int) -> Projector:
        with self._loading:
            found = self._projectors.get(adapter)
            if found is None:
                found = self._projectors[adapter] = self._loaded(adapter, tower, num_channels)
            _bounded(self._projectors, adapter, MAX_PROJECTORS)
            return found

    def _loaded(self, adapter: AdapterRef | None, tower: "_TowerPlace", num_channels: int) -> Projector:
        folder = self._holding(PROJECTOR_FILE, adapter)
        own = None if folder is None else Projector.load(folder)
        if own is None or folder is None:
            plain = ChannelStats(np.zeros(num_channels), np.ones(num_channels))
            scale = float(self._table.float().std())
            own = Projector.fresh(plain, self._table.shape[1], scale=scale, seed=SEED)
        else:
            check_projector_manifest(folder, tower.hash)
        wanted, has = (num_channels, self._table.shape[1]), (len(own.mean_C), own.width)
        if has != wanted:
            raise FailedPrecondition(
                f"The projector in {folder} leads from {has[0]} channels to {has[1]}, this base needs {wanted[0]} and "
                f"{wanted[1]}: it is another model's."
            )
        return own.requires_grad_(False).to(self._table.device)


@dataclass(frozen=True, slots=True)
class _TowerPlace:
    """Where a tower lies, and its hash."""

    folder: Path
    hash: str


def _bounded(held: OrderedDict[K, V], lately: K, most: int) -> None:
    """Let go of what was not used for longest; `lately` is used now."""
    held.move_to_end(lately)
    while len(held) > most:
        held.popitem(last=False)


def _not_kept(why: str) -> None:
    structlog.get_logger().warning("pictures_not_kept", reason=why)


@contextmanager
def _blamed_on(shown: ResolvedMedium) -> Iterator[None]:
    """A medium's fault as the caller's, with the place of its part."""
    try:
        yield
    except MediumError as bad:
        said = f"{bad.fault.message} {bad.fault.hint}".strip()
        refused = InvalidArgument.of(shown.place, said)
        reason = bad.fault.rule.upper()
        raise InvalidArgument(refused.message, violations=refused.violations, reason=reason) from bad


def _check_content(shown: ResolvedMedium) -> None:
    """Nothing, if the file still is what was looked at; one named by its hash is never written to again."""
    try:
        with shown.path.open("rb") as file:
            sha256 = shown.planned.sha256
            same = shown.path.name == sha256 or hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        raise Unavailable(f"{shown.place}: the medium was taken away just now; ask again.") from error
    if not same:
        raise Unavailable(f"{shown.place}: the medium was changed just now; ask again.")


def check_projector_manifest(folder: Path, tower: str) -> None:
    """See to it that the projector in `folder` was trained on what this program makes of pictures with that tower.

    Raises:
        FailedPrecondition: it was not, or nothing says so.

    """
    try:
        vision = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))["vision"]
        made_for = (int(vision["preprocessing"]), str(vision["tower"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"{folder / MANIFEST_FILE} does not say what its projector was trained on. Tune the model again."
        ) from error
    if made_for[0] != PREPROCESSING:
        raise FailedPrecondition(
            f"The projector in {folder} was trained on pictures prepared by version {made_for[0]} of this program's "
            f"rules; they are at version {PREPROCESSING} now. Tune the model again."
        )
    if made_for[1] != tower:
        raise FailedPrecondition(
            f"The projector in {folder} was trained on the vision tower {made_for[1][:12]}…; this base has "
            f"{tower[:12]}…. Tune the model again."
        )

"""What golden rows show, for the comparison: features of their pictures, and the projector that an export holds.

Shapes: P pictures of a medium, N tokens of a picture, C channels of the tower, W width of the language model.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.domain.media import BadMedium
from kastor.domain.vision import PlannedMedium, Vision
from kastor.export.golden import Golden
from kastor.export.order import Order
from kastor.export.proof import See, blind
from kastor.media import decode
from kastor.media.cache import MediaCache
from kastor.models.load import best_device, compute_threads
from kastor.models.pictures import pixels_of, stored_under
from kastor.models.projector import PROJECTOR_FILE, Projector
from kastor.models.render import Rendered, Renderer
from kastor.models.sources import TOWER_FILE
from kastor.models.vision import Encoder, Features, FeatureStore, tower_hash
from kastor.serving.certificate import Embed
from kastor.serving.seeing import MANIFEST_FILE, check_origin
from kastor.training.sight import Sight


def projector_folder(order: Order) -> Path | None:
    """Where the tuned model's projector lies: beside its adapter, or in a base that has one of its own."""
    return next((f for f in (order.adapter, order.base_folder) if (f / PROJECTOR_FILE).is_file()), None)


def origin(order: Order) -> dict[str, Any] | None:
    """On what pictures that projector was trained, as the manifest beside it says; `None` where there is none.

    Raises:
        FailedPrecondition: on others than this program makes with the base's tower.

    """
    folder = projector_folder(order)
    if folder is None:
        return None
    check_origin(folder, tower_hash(order.base_folder))
    return dict(json.loads((folder / MANIFEST_FILE).read_text("utf-8"))["vision"])


@dataclass(frozen=True, slots=True)
class Seen:
    """The features (P, N, C) of the media that golden rows show, by their keys; none where these are of text alone."""

    vision: Vision | None
    tower: str = ""  # hash of its weights
    features: Mapping[str, Features] | None = None

    def rendered(self, golden: Sequence[Golden], renderer: Renderer) -> list[Rendered]:
        """The examples as tokens, at each picture the key of its features."""
        return [self._rendered(one, renderer) for one in golden]

    def _rendered(self, one: Golden, renderer: Renderer) -> Rendered:
        if one.planned is None or self.vision is None:
            return renderer.example(one.example)
        made = renderer.example(one.example, one.planned.views(one.example))
        planned = one.planned.by_media(one.example)
        return made.keyed({media: stored_under(its, self.vision, self.tower) for media, its in planned.items()})

    def as_served(self, folder: Path | None) -> Embed | None:
        """How the engine puts pictures in their places, by the projector in `folder`."""
        projector, features = None if folder is None else Projector.load(folder), self.features
        if projector is None or not features:
            return None
        sight = Sight(projector.to(best_device()), lambda key, index: features[key][index])
        return lambda embeddings_TW, example: sight.placed(embeddings_TW, example.pictures)

    def by(self, export: Path) -> See:
        """How a reader of the export sees: by the projector in its folder, one picture after the other.

        Raises:
            Internal: the projector is missing, or the tower beside it is another one.

        """
        features = self.features
        if not features:
            return blind
        projector = Projector.load(export)
        if projector is None:
            raise Internal(f"The export holds no {PROJECTOR_FILE}, and its model is to see.")
        if (export / TOWER_FILE).is_file() and tower_hash(export) != self.tower:
            raise Internal(f"The {TOWER_FILE} of the export is not the one that the model was tuned with.")
        projector.to(best_device())
        return lambda picture: projector(torch.from_numpy(features[picture.key][picture.index]).to(best_device()))


def seen_in(golden: Sequence[Golden], order: Order, vision: Vision | None) -> Seen:
    """What the examples show: from the store of features, or made of the media anew where they were evicted.

    Raises:
        FailedPrecondition: they were evicted, and the medium cannot be had any more.

    """
    if vision is None:
        return Seen(None)
    tower, found = tower_hash(order.base_folder), dict[str, Features]()
    shown = [planned for one in golden if one.planned is not None for planned in one.planned.media]
    cache = MediaCache(order.feature_cache, max_bytes=order.feature_cache_bytes)
    with closing(cache.lease("export")) as lease:
        store = FeatureStore(cache, lease)
        for planned in shown:
            key = stored_under(planned, vision, tower)
            if not store.hold(key):
                store.put(key, _made(planned, order, vision))
            found[key] = np.stack([store.read(key, index) for index in range(planned.view.num_pictures)])
    return Seen(vision, tower, found)


def _made(planned: PlannedMedium, order: Order, vision: Vision) -> Features:
    path = order.media.get(planned.sha256)
    if path is None:
        why = order.lost.get(planned.sha256, "nothing says where it is.")
        raise FailedPrecondition(
            "An export is compared on examples that the model was certified on, and a medium that one of them shows "
            f"(sha256 {planned.sha256}) cannot be had any more: {why} Put it back, and export again."
        )
    try:
        with closing(decode.Pictures()) as pictures:
            pixels = pixels_of(Path(path), planned, vision, pictures)
    except BadMedium as bad:
        raise FailedPrecondition(f"{path} cannot be decoded any more: {bad.fault.message}") from bad
    return Encoder.open(order.base_folder, num_threads=order.num_threads or compute_threads()).encode(pixels)

"""Features of the pictures in golden rows, and the projectors that turn them into embeddings, for the comparison.

A pretrained vision model has its projector in the base, so its export has none of its own.
Shapes: N tokens of a picture, C channels of the features, W width of the language model.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.domain.media import MediumError
from kastor.domain.vision import MediumPlan, VisionSpec
from kastor.export.golden import GoldenInput
from kastor.export.request import ExportRequest
from kastor.media import decode
from kastor.media.cache import MediaCache
from kastor.models.chat.families import FAMILIES, Family
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.device import best_device
from kastor.models.load import compute_threads, has_vision_tower
from kastor.models.vision.encoder import Features, FeatureStore, VisionEncoder, tower_hash
from kastor.models.vision.grids import layout_of
from kastor.models.vision.media_frames import decode_frames, medium_feature_key
from kastor.models.vision.projector import PROJECTOR_FILE, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.serving.builtin.picture_embeddings import MANIFEST_FILE, check_projector_manifest
from kastor.serving.builtin.scoring import Embed
from kastor.serving.builtin.sequence import PictureEmbeddings
from kastor.training.vision_inputs import VisionInputs


def family_of(order: ExportRequest) -> Family:
    """The base's family; for a pretrained vision model, with the layout in the base's configuration."""
    family = FAMILIES[order.family]
    vision = family.vision
    if vision is None or not vision.pretrained:
        return family
    layout = layout_of(json.loads((order.base_folder / "config.json").read_bytes()))
    return replace(family, vision=replace(vision, layout=layout))


def projector_folder(order: ExportRequest) -> Path | None:
    """The folder of the tuned model's projector: its adapter's, or the base's if the base has one."""
    return next((f for f in (order.adapter, order.base_folder) if (f / PROJECTOR_FILE).is_file()), None)


def tower_folder(order: ExportRequest) -> Path:
    """The folder of the tuned model's vision tower: its adapter's, if the tower was trained, else the base's."""
    return order.adapter if (order.adapter / TOWER_FILE).is_file() else order.base_folder


def projector_origin(order: ExportRequest) -> dict[str, Any] | None:
    """The vision part of the manifest: tower and preprocessing of training; `None` if it was on text alone.

    Raises:
        FailedPrecondition: this program computes other features with the base's tower.

    """
    vision = family_of(order).vision
    folder = order.adapter if vision is not None and vision.pretrained else projector_folder(order)
    if vision is None or folder is None or not (folder / MANIFEST_FILE).is_file():
        return None
    about = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
    if vision.pretrained and "vision" not in about:
        return None
    check_projector_manifest(folder, tower_hash(tower_folder(order), vision))
    return dict(about["vision"])


@dataclass(frozen=True, slots=True)
class GoldenFeatures:
    """The features (N, C) of the pictures in golden rows, by the keys of their media."""

    vision: VisionSpec | None  # None: the model reads text only
    tower: str = ""  # hash of its weights
    features: Mapping[str, Sequence[Features]] | None = None

    def rendered(self, golden: Sequence[GoldenInput], renderer: Renderer) -> list[RenderedExample]:
        """The examples as tokens, with the key of its features at each picture."""
        return [self._rendered(one, renderer) for one in golden]

    def _rendered(self, one: GoldenInput, renderer: Renderer) -> RenderedExample:
        if one.planned is None:
            return renderer.example(one.example)
        rendered = renderer.example(one.example, one.planned.views(one.example))
        planned = one.planned.by_media(one.example)
        return rendered.keyed({media: medium_feature_key(plan, self.tower) for media, plan in planned.items()})

    def as_served(self, order: ExportRequest) -> Embed | None:
        """How the engine computes the embeddings of the tuned model's pictures."""
        inputs = self._vision_inputs(projector_folder(order))
        if inputs is None:
            return None

        @torch.no_grad()
        def embed(example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
            embeddings = inputs.embed(example.pictures, best_device())
            parts = embeddings.split([picture.num_tokens for picture in example.pictures])
            return tuple(PictureEmbeddings(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

        return embed

    def by(self, export: Path) -> VisionInputs | None:
        """How a reader of the export embeds pictures: by the projector in its folder, if that is not in the model.

        Raises:
            Internal: the projector is missing, or the export has another tower.

        """
        vision = self.vision
        if not self.features or vision is None:
            return None
        if not vision.pretrained and not (export / PROJECTOR_FILE).is_file():
            raise Internal(f"The export holds no {PROJECTOR_FILE}, which its model needs for pictures.")
        has_tower = (export / TOWER_FILE).is_file() or has_vision_tower(export)
        if has_tower and tower_hash(export, vision) != self.tower:
            raise Internal("The vision tower of the export is not the one that the model was tuned with.")
        return self._vision_inputs(export)

    def _vision_inputs(self, folder: Path | None) -> VisionInputs | None:
        features, vision = self.features, self.vision
        if not features or vision is None:
            return None
        projector = None if folder is None or vision.pretrained else Projector.load(folder)
        if projector is not None:
            projector.to(best_device())
        return VisionInputs(projector, lambda key, index: features[key][index], both_ways=vision.both_ways)


def load_golden_features(golden: Sequence[GoldenInput], order: ExportRequest) -> GoldenFeatures:
    """The features of the examples' pictures: from the feature store, or computed again if they were evicted.

    Raises:
        FailedPrecondition: they were evicted, and the medium is not available any more.

    """
    vision = family_of(order).vision
    if vision is None:
        return GoldenFeatures(None)
    tower, features = tower_hash(tower_folder(order), vision), dict[str, list[Features]]()
    media = [planned for one in golden if one.planned is not None for planned in one.planned.media]
    cache = MediaCache(order.feature_cache, max_bytes=order.feature_cache_bytes)
    with closing(cache.lease("export")) as lease:
        store = FeatureStore(cache, lease)
        for planned in media:
            key = medium_feature_key(planned, tower)
            if not store.hold(key):
                store.put(key, _computed_features(planned, order, vision))
            features[key] = [store.read(key, index) for index in range(planned.view.num_pictures)]
    return GoldenFeatures(vision, tower, features)


def _computed_features(planned: MediumPlan, order: ExportRequest, vision: VisionSpec) -> list[Features]:
    path = order.media.get(planned.sha256)
    if path is None:
        why = order.lost.get(planned.sha256, "nothing says where it is.")
        raise FailedPrecondition(
            "An export is compared on examples that the model was certified on, and a medium of one of them "
            f"(sha256 {planned.sha256}) is not available any more: {why} Put it back, and export again."
        )
    try:
        with closing(decode.PictureDecoder()) as pictures:
            pixels = list(decode_frames(Path(path), planned, vision, pictures))
    except MediumError as bad:
        raise FailedPrecondition(f"{path} cannot be decoded any more: {bad.fault.message}") from bad
    encoder = VisionEncoder.open(tower_folder(order), vision, num_threads=order.num_threads or compute_threads())
    return encoder.encode(pixels, planned.view.grids)

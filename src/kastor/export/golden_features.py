"""What golden rows show, for the comparison: features of their pictures, and the projector that an export holds.

A pretrained model that sees has its projector in the base: an export has none of its own.
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
    """The base's family; of a pretrained one that sees, with the layout that is written in the base's folder."""
    family = FAMILIES[order.family]
    vision = family.vision
    if vision is None or not vision.pretrained:
        return family
    layout = layout_of(json.loads((order.base_folder / "config.json").read_bytes()))
    return replace(family, vision=replace(vision, layout=layout))


def projector_folder(order: ExportRequest) -> Path | None:
    """Where the tuned model's projector lies: beside its adapter, or in a base that has one of its own."""
    return next((f for f in (order.adapter, order.base_folder) if (f / PROJECTOR_FILE).is_file()), None)


def tower_folder(order: ExportRequest) -> Path:
    """Where the tuned model's tower lies: beside its adapter, where it was trained along, or in the base."""
    return order.adapter if (order.adapter / TOWER_FILE).is_file() else order.base_folder


def projector_origin(order: ExportRequest) -> dict[str, Any] | None:
    """Of what pictures the model was tuned, as the manifest beside it says; `None` where it was on text alone.

    Raises:
        FailedPrecondition: of others than this program makes with the base's tower.

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
    """The features (N, C) of the pictures of media that golden rows show, by the media's keys."""

    vision: VisionSpec | None  # of models that read text alone, `None`
    tower: str = ""  # hash of its weights
    features: Mapping[str, Sequence[Features]] | None = None

    def rendered(self, golden: Sequence[GoldenInput], renderer: Renderer) -> list[RenderedExample]:
        """The examples as tokens, at each picture the key of its features."""
        return [self._rendered(one, renderer) for one in golden]

    def _rendered(self, one: GoldenInput, renderer: Renderer) -> RenderedExample:
        if one.planned is None:
            return renderer.example(one.example)
        made = renderer.example(one.example, one.planned.views(one.example))
        planned = one.planned.by_media(one.example)
        return made.keyed({media: medium_feature_key(its, self.tower) for media, its in planned.items()})

    def as_served(self, order: ExportRequest) -> Embed | None:
        """How the engine makes embeddings of the tuned model's pictures."""
        sight = self._sight(projector_folder(order))
        if sight is None:
            return None

        @torch.no_grad()
        def embedded(example: RenderedExample) -> tuple[PictureEmbeddings, ...]:
            made = sight.embed(example.pictures, best_device())
            parts = made.split([picture.num_tokens for picture in example.pictures])
            return tuple(PictureEmbeddings(p.start, part) for p, part in zip(example.pictures, parts, strict=True))

        return embedded

    def by(self, export: Path) -> VisionInputs | None:
        """How a reader of the export sees: by the projector in its folder, where that is not in the model.

        Raises:
            Internal: the projector is missing, or the tower of the export is another one.

        """
        vision = self.vision
        if not self.features or vision is None:
            return None
        if not vision.pretrained and not (export / PROJECTOR_FILE).is_file():
            raise Internal(f"The export holds no {PROJECTOR_FILE}, and its model is to see.")
        has_tower = (export / TOWER_FILE).is_file() or has_vision_tower(export)
        if has_tower and tower_hash(export, vision) != self.tower:
            raise Internal("The vision tower of the export is not the one that the model was tuned with.")
        return self._sight(export)

    def _sight(self, folder: Path | None) -> VisionInputs | None:
        features, vision = self.features, self.vision
        if not features or vision is None:
            return None
        projector = None if folder is None or vision.pretrained else Projector.load(folder)
        if projector is not None:
            projector.to(best_device())
        return VisionInputs(projector, lambda key, index: features[key][index], both_ways=vision.both_ways)


def load_golden_features(golden: Sequence[GoldenInput], order: ExportRequest) -> GoldenFeatures:
    """What the examples show: from the store of features, or made of the media anew where they were evicted.

    Raises:
        FailedPrecondition: they were evicted, and the medium cannot be had any more.

    """
    vision = family_of(order).vision
    if vision is None:
        return GoldenFeatures(None)
    tower, found = tower_hash(tower_folder(order), vision), dict[str, list[Features]]()
    shown = [planned for one in golden if one.planned is not None for planned in one.planned.media]
    cache = MediaCache(order.feature_cache, max_bytes=order.feature_cache_bytes)
    with closing(cache.lease("export")) as lease:
        store = FeatureStore(cache, lease)
        for planned in shown:
            key = medium_feature_key(planned, tower)
            if not store.hold(key):
                store.put(key, _made(planned, order, vision))
            found[key] = [store.read(key, index) for index in range(planned.view.num_pictures)]
    return GoldenFeatures(vision, tower, found)


def _made(planned: MediumPlan, order: ExportRequest, vision: VisionSpec) -> list[Features]:
    path = order.media.get(planned.sha256)
    if path is None:
        why = order.lost.get(planned.sha256, "nothing says where it is.")
        raise FailedPrecondition(
            "An export is compared on examples that the model was certified on, and a medium that one of them shows "
            f"(sha256 {planned.sha256}) cannot be had any more: {why} Put it back, and export again."
        )
    try:
        with closing(decode.PictureDecoder()) as pictures:
            pixels = list(decode_frames(Path(path), planned, vision, pictures))
    except MediumError as bad:
        raise FailedPrecondition(f"{path} cannot be decoded any more: {bad.fault.message}") from bad
    encoder = VisionEncoder.open(tower_folder(order), vision, num_threads=order.num_threads or compute_threads())
    return encoder.encode(pixels, planned.view.grids)

"""The projector a job trains: of its checkpoint, of the tuned model it goes on from, of its base, or a fresh one.

The tower, where that is trained, too, comes from the first of these that has one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.models.chat.render import RenderedExample
from kastor.models.vision.efficientnet import EfficientNetLite
from kastor.models.vision.encoder import to_half_precision
from kastor.models.vision.projector import ChannelStats, Projector
from kastor.models.vision.specs import TOWER_FILE
from kastor.training.checkpoints import load_projector
from kastor.training.projector_init import collect_observations, fit_alignment
from kastor.training.vision_inputs import VisionInputs, encode_picture
from kastor.worker.pipeline.prefetch import FeaturePrefetcher, FeatureSample

LOOKED_AT = 256
"""Pictures, of the first rows that are trained on, that a fresh projector is made by: their features tell the spread of
all, and what pictures tell of answers (docs/log.md)."""

BESIDE = 0.25
"""Size of what the random layers make beside an alignment of single pictures, as a share of the embedding table's. They
learn as much more slowly, and so do not learn pictures by heart. Of a medium of several the alignment does not tell
which of them an answer points at; that is left to them, at full size (docs/log.md)."""


def build_vision_inputs(
    model: Any,  # noqa: ANN401  # peft model
    examples: Sequence[RenderedExample],
    seeing: FeaturePrefetcher | None,
    held: Path | None,
    base: Path,
    *,
    seed: int,
    train_tower: bool = False,
    tell: Callable[[str], None],
) -> VisionInputs | None:
    """What the job's model sees with; `None` where neither its examples nor the adapter it goes on from know pictures.

    `held` is the folder of that adapter, if there is one; that of the base may hold a projector, too. Waits for the
    first pictures. `tell` is told what a fresh projector begins with.

    Raises:
        FailedPrecondition: projector or tower are damaged, or of another model.
        What `FeaturePrefetcher.sample` raises.

    """
    table = model.get_input_embeddings().weight
    if seeing is not None and seeing.vision.pretrained:
        return VisionInputs(None, seeing.read, both_ways=seeing.vision.both_ways)
    projector = None if held is None else load_projector(held)
    if seeing is None:
        return None if projector is None else VisionInputs(projector.to(table.device), _nothing)
    if projector is None:
        projector = Projector.load(base)
    tower = _tower((held, base), table.device) if train_tower else None
    sampled = seeing.sample(1 if projector is not None else LOOKED_AT)
    if tower is not None:
        seen = {place: _features(tower, pixels, table.device) for place, pixels in sampled.features.items()}
        sampled = replace(sampled, features=seen)
    if not sampled.features:  # all media turned out bad, and only rows without any are left
        return None if projector is None else VisionInputs(projector.to(table.device), _nothing)
    corrections: dict[str, torch.Tensor] = {}
    if projector is None:
        projector, corrections = _fresh(sampled, [examples[row] for row in sampled.rows], table, seed, tell)
    _check(projector, next(iter(sampled.features.values())).shape[1], table.shape[1], held or base)
    return VisionInputs(projector.to(table.device), seeing.read, tower=tower, corrections=corrections)


def _check(projector: Projector, num_channels: int, width: int, folder: Path) -> None:
    found = len(projector.mean_C), projector.width
    if found != (num_channels, width):
        raise FailedPrecondition(
            f"The projector of {folder} leads from {found[0]} channels to {found[1]}, this base needs "
            f"{num_channels} and {width}: it is another model's."
        )


def _fresh(
    sampled: FeatureSample,
    examples: Sequence[RenderedExample],
    table: torch.Tensor,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[Projector, dict[str, torch.Tensor]]:
    """A projector that is aligned with the answers, if pictures tell of them, and what training needs of that."""
    spread, scale = ChannelStats.of(sampled.features.values()), float(table.float().std())

    def embedded(token_ids: Sequence[int]) -> NDArray[Any]:
        found: NDArray[Any] = table[list(token_ids)].float().cpu().numpy()
        return found

    found = fit_alignment(collect_observations(examples, sampled.features, embedded))
    several = any(picture.index > 0 for example in examples for picture in example.pictures)
    size = scale if found is None or several else scale * BESIDE
    projector = Projector.fresh(spread, table.shape[1], scale=size, seed=seed)
    if found is None:
        tell("the projector begins at random: pictures tell nothing of how answers differ, or are too few to say")
        return projector, {}
    tell(
        f"pictures tell {found.explained:.0%} of how the answers to {len(found.corrections)} media differ "
        "(ridge regression, each left out in turn): the projector begins with that"
    )
    projector.align(found.matrix_CW, found.offset_W)
    return projector, {key: torch.from_numpy(beyond_W).float() for key, beyond_W in found.corrections.items()}


def _tower(folders: Sequence[Path | None], device: torch.device) -> EfficientNetLite:
    folder = next(folder for folder in folders if folder is not None and (folder / TOWER_FILE).is_file())
    return EfficientNetLite.open(folder / TOWER_FILE).to(device).requires_grad_(True)


@torch.no_grad()
def _features(tower: EfficientNetLite, pixels: NDArray[Any], device: torch.device) -> NDArray[Any]:
    found: NDArray[Any] = encode_picture(tower, pixels, device).cpu().numpy()
    return to_half_precision(found)


def _nothing(key: str, index: int) -> Any:  # noqa: ANN401  # never returns
    raise Internal(f"The features {key} were asked for in a job without pictures.")

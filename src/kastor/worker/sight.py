"""The projector a job trains: of its checkpoint, of the tuned model it goes on from, of its base, or a fresh one.

The tower, where that is trained, too, comes from the first of these that has one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.models.projector import Projector, Spread
from kastor.models.sources import TOWER_FILE
from kastor.models.tower import Tower
from kastor.models.vision import compact
from kastor.training.checkpoints import load_projector
from kastor.training.sight import Sight, looked_at
from kastor.worker.features import FeaturePass

LOOKED_AT = 128
"""Pictures whose features tell the spread of all: 8,192 tokens of the first ones that are trained on (docs/log.md)."""


def sight(
    model: Any,  # noqa: ANN401  # peft model
    seeing: FeaturePass | None,
    held: Path | None,
    base: Path,
    *,
    seed: int,
    train_tower: bool = False,
) -> Sight | None:
    """What the job's model sees with; `None` where neither its examples nor the adapter it goes on from know pictures.

    `held` is the folder of that adapter, if there is one; that of the base may hold a projector, too. Waits for the
    first pictures.

    Raises:
        FailedPrecondition: projector or tower are damaged, or of another model.
        What `FeaturePass.sample` raises.

    """
    table = model.get_input_embeddings().weight
    if seeing is not None and seeing.vision.pretrained:
        return Sight(None, seeing.read, both_ways=seeing.vision.both_ways)
    projector = None if held is None else load_projector(held)
    if seeing is None:
        return None if projector is None else Sight(projector.to(table.device), _nothing)
    if projector is None:
        projector = Projector.load(base)
    tower = _tower((held, base), table.device) if train_tower else None
    features = seeing.sample(1 if projector is not None else LOOKED_AT)
    if tower is not None:
        features = [_features(tower, pixels, table.device) for pixels in features]
    if not features:  # all media turned out bad, and only rows without any are left
        return None if projector is None else Sight(projector.to(table.device), _nothing)
    if projector is None:
        projector = Projector.fresh(Spread.of(features), table.shape[1], scale=float(table.float().std()), seed=seed)
    wanted, found = (features[0].shape[1], table.shape[1]), (len(projector.mean_C), projector.width)
    if found != wanted:
        raise FailedPrecondition(
            f"The projector of {held or base} leads from {found[0]} channels to {found[1]}, this base needs "
            f"{wanted[0]} and {wanted[1]}: it is another model's."
        )
    return Sight(projector.to(table.device), seeing.read, tower=tower)


def _tower(folders: Sequence[Path | None], device: torch.device) -> Tower:
    folder = next(folder for folder in folders if folder is not None and (folder / TOWER_FILE).is_file())
    return Tower.open(folder / TOWER_FILE).to(device).requires_grad_(True)


@torch.no_grad()
def _features(tower: Tower, pixels: NDArray[Any], device: torch.device) -> NDArray[Any]:
    found: NDArray[Any] = looked_at(tower, pixels, device).cpu().numpy()
    return compact(found)


def _nothing(key: str, index: int) -> Any:  # noqa: ANN401  # never returns
    raise Internal(f"The features {key} were asked for in a job without pictures.")

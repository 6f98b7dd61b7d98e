"""The projector a job trains: that of its checkpoint, of the tuned model it goes on from, or a fresh one."""

from pathlib import Path
from typing import Any

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.models.projector import Projector, Spread
from kastor.training.checkpoints import load_projector
from kastor.training.sight import Sight
from kastor.worker.examples import Pictures


def sight(model: Any, pictures: Pictures | None, held: Path | None, *, seed: int) -> Sight | None:  # noqa: ANN401  # peft model
    """What the job's model sees with; `None` where neither its examples nor the adapter it goes on from know pictures.

    `held` is the folder of that adapter, if there is one.

    Raises:
        FailedPrecondition: its projector is damaged, or of another model.

    """
    table = model.get_input_embeddings().weight
    if pictures is not None and pictures.vision.pretrained:
        return Sight(None, pictures.store.read, both_ways=pictures.vision.both_ways)
    projector = None if held is None else load_projector(held)
    if pictures is None:
        return None if projector is None else Sight(projector.to(table.device), _nothing)
    features = [pictures.store.read(key, index) for key, index in pictures.some]
    if projector is None:
        projector = Projector.fresh(Spread.of(features), table.shape[1], scale=float(table.float().std()), seed=seed)
    wanted, found = (features[0].shape[1], table.shape[1]), (len(projector.mean_C), projector.width)
    if found != wanted:
        raise FailedPrecondition(
            f"The projector in {held} leads from {found[0]} channels to {found[1]}, this base needs {wanted[0]} and "
            f"{wanted[1]}: it is another model's."
        )
    return Sight(projector.to(table.device), pictures.store.read)


def _nothing(key: str, index: int) -> Any:  # noqa: ANN401  # never returns
    raise Internal(f"The features {key} were asked for in a job without pictures.")

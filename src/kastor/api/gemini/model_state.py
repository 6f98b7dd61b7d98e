"""The state of a tuned model on the Gemini API's wire: its job's, seen from the model's side."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from kastor.domain.job import State


class ModelState(StrEnum):
    """TunedModel.State. It has no CANCELLED."""

    CREATING = "CREATING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"


MODEL_STATE: Mapping[State, ModelState] = MappingProxyType(
    {
        State.QUEUED: ModelState.CREATING,
        State.PREPARING: ModelState.CREATING,
        State.RUNNING: ModelState.CREATING,
        State.CANCELLING: ModelState.CREATING,
        State.SUCCEEDED: ModelState.ACTIVE,
        State.FAILED: ModelState.FAILED,
        State.CANCELLED: ModelState.FAILED,
    }
)

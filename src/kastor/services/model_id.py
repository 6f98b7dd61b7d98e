"""The id of a tuned model for which nobody chose one."""

from kastor.domain.errors import NotFound
from kastor.domain.tuned_model import generated_model_id, random_model_id
from kastor.store.models import ModelStore

RANDOM_CHARS = 6  # beside the words of the display name


def free_model_id(display_name: str, models: ModelStore) -> str:
    """An id made of the display name that no model has, as far as can be known beforehand."""
    while True:
        model_id = generated_model_id(display_name, random_model_id(RANDOM_CHARS))
        try:
            models.get(model_id)
        except NotFound:
            return model_id

"""Names of models on the Gemini API's wire, which the Kastor API shares: `models/ID` and `tunedModels/ID`."""

from kastor.domain.errors import InvalidArgument
from kastor.domain.model_ref import ModelRef

BASE = "models/"
TUNED = "tunedModels/"


def tuned_model_name(model_id: str) -> str:
    """The resource name of a tuned model."""
    return TUNED + model_id


def parse_model_name(name: str) -> ModelRef:
    """The model of this name; a base may stand without `models/`.

    >>> parse_model_name("models/gemma-3-270m-it"), parse_model_name("tunedModels/numbers")
    (ModelRef(id='gemma-3-270m-it', tuned=False), ModelRef(id='numbers', tuned=True))
    """
    if name.startswith(TUNED):
        return ModelRef(name.removeprefix(TUNED), tuned=True)
    return ModelRef(name.removeprefix(BASE))


def parse_source_name(name: str) -> ModelRef:
    """The model to tune.

    Raises:
        InvalidArgument: there is no name.

    """
    if not name:
        raise InvalidArgument.of("baseModel", "is missing; name one of GET /v1beta/models")
    return parse_model_name(name)

"""Dataset limits for a command: a profile with the values that the operator and the user raised."""

from collections.abc import Sequence

import typer

from kastor.domain.dataset_limits import DatasetLimits, dataset_limits
from kastor.domain.errors import InvalidArgument
from kastor.settings import Settings


def raised_dataset_limits(profile: str, raised: Sequence[str], settings: Settings) -> DatasetLimits:
    """The profile's limits, overridden by KASTOR_DATASET_LIMITS and then by `--raise NAME=NUMBER`.

    Raises:
        typer.BadParameter: a profile or limit is unknown, or a value is not a number.

    """
    numbers: dict[str, float | None] = dict(settings.dataset_limits)
    for item in raised:
        name, _, number = item.partition("=")
        try:
            numbers[name.strip()] = None if number == "none" else float(number) if "." in number else int(number)
        except ValueError:
            message = f"{item!r}; write NAME=NUMBER, such as max_images=50, or NAME=none"
            raise typer.BadParameter(message, param_hint="--raise") from None
    try:
        return dataset_limits(profile, numbers)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from error

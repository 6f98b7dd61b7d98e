"""Validation that applies to every option and argument of every command."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])


class CheckedCommand(TyperCommand):
    """A command that rejects numbers that are not finite and texts that are not UTF-8."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # typer's own context and result
        """Validate the values, then run the command. Raises `typer.BadParameter` that names an invalid value."""
        _check_values(self.params, ctx.params)
        return super().invoke(ctx)


class CheckedGroup(TyperGroup):
    """A group whose own options are validated like those of its commands."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # typer's own context and result
        """Validate the values, then run the group. Raises `typer.BadParameter` that names an invalid value."""
        _check_values(self.params, ctx.params)
        return super().invoke(ctx)


class Commands(typer.Typer):
    """A command group that makes each of its commands a `CheckedCommand`."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  # typer's
        super().__init__(cls=CheckedGroup, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:  # noqa: ANN401
        """Register a function as a command."""
        return super().command(name, cls=CheckedCommand, **settings)


def _check_values(parameters: Sequence[Any], values: Mapping[str, Any]) -> None:
    for parameter in parameters:
        given = values.get(parameter.name)
        for value in given if isinstance(given, list | tuple) else (given,):
            fault = _fault(value)
            if fault:
                hint = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
                raise typer.BadParameter(fault, param_hint=hint)


def _fault(value: object) -> str:
    """What is wrong with a value, or an empty string. Paths may hold any bytes, as file names do."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number."
    if isinstance(value, str) and not isinstance(value, Path):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{ascii(value)[1:-1]} is not UTF-8."
    return ""

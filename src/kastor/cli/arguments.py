"""Checks that every option and argument of every command gets, whatever it is for."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

Function = TypeVar("Function", bound=Callable[..., Any])


class CheckedCommand(TyperCommand):
    """A command that refuses numbers that are not finite, and texts that are not UTF-8."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # typer's own context and result
        """Run the command, if its values make sense.

        Raises:
            typer.BadParameter: one does not; names it.

        """
        for parameter in self.params:
            values = ctx.params.get(parameter.name)
            for value in values if isinstance(values, list | tuple) else (values,):
                said = _fault(value)
                if said:
                    hint = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
                    raise typer.BadParameter(said, param_hint=hint)
        return super().invoke(ctx)


class Commands(typer.Typer):
    """A group of commands, each of them a `CheckedCommand`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:  # noqa: ANN401
        """Make a command of a function."""
        return super().command(name, cls=CheckedCommand, **settings)


def _fault(value: object) -> str:
    """What is wrong with a value, or nothing. A path may be any bytes, as file names may."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number."
    if isinstance(value, str) and not isinstance(value, Path):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{ascii(value)[1:-1]} is not UTF-8."
    return ""

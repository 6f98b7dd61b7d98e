"""The exit code and output of a command that a test ran."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CommandResult:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # JSON, of which each test knows the shape
        """Stdout, which must be nothing but JSON."""
        return json.loads(self.out)


Kastor = Callable[..., CommandResult]

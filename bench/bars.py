"""Pass criteria of benchmarks: a measurement, its bound, and a line that says whether the bound holds."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A measurement and its bound; `at_most` says whether the bound is an upper one."""

    what: str
    measured: float
    bound: float
    at_most: bool
    unit: str = ""

    @property
    def kept(self) -> bool:
        """Whether the bound holds."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "pass" if self.kept else "FAIL"
        return f"{verdict}  {self.what}: {self.measured:.3g}{self.unit}, bar {sign} {self.bound:g}{self.unit}"


def at_most(what: str, measured: float, bound: float, unit: str = "") -> Bar:
    """A bar with an upper bound."""
    return Bar(what, measured, bound, at_most=True, unit=unit)


def at_least(what: str, measured: float, bound: float, unit: str = "") -> Bar:
    """A bar with a lower bound."""
    return Bar(what, measured, bound, at_most=False, unit=unit)


def report(bars: Sequence[Bar], figures: dict[str, Any], written: Path | None) -> int:
    """Print each bar, write everything as JSON if asked to; the exit code: 1 if a bar is missed."""
    for bar in bars:
        print(bar)
    print(f"load {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    if written is not None:
        held = {"figures": figures, "bars": [asdict(bar) | {"kept": bar.kept} for bar in bars]}
        written.write_text(json.dumps(held, indent=1, default=str))
    return 0 if all(bar.kept for bar in bars) else 1

"""Which test files start processes, compute with torch or encode films, told from what they import.

`make test-fast` leaves their tests out.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "subprocess", "multiprocessing", "kastor.executors", "kastor.server", "av")


@cache
def is_heavy(file: Path) -> bool:
    """Whether the file, or a module of `support` that it imports, imports one of `HEAVY`."""
    for name in imported_names(file):
        if name.startswith(tuple(f"{heavy}." for heavy in HEAVY)) or name in HEAVY:
            return True
        shared = TESTS.joinpath(*name.split(".")).with_suffix(".py")
        if name.startswith("support.") and shared.is_file() and is_heavy(shared):
            return True
    return False


def imported_names(file: Path) -> Iterator[str]:
    """Every module, or name of a module, that the file imports, also within functions."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

"""The names of rules that the sources give to what they find."""

import ast
from collections.abc import Iterator
from pathlib import Path

import kastor

PLACES = {"RuleViolation": 1, "RowError": 1, "Issue": 2, "MediaFault": 0, "of": 0}
"""Of each call that names a rule, which argument it is; `of` is MediumError's."""


def named_rules() -> set[str]:
    """Every rule that `dataset`, `media` and `models` name by a constant."""
    root = Path(kastor.__file__).parent
    files = [file for package in ("dataset", "media", "models") for file in (root / package).rglob("*.py")]
    return {rule for file in files for rule in _rules(ast.parse(file.read_text("utf-8")))}


def _rules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name == "of" and not (isinstance(called, ast.Attribute) and ast.unparse(called.value) == "MediumError"):
            continue
        place = PLACES.get(name)
        if place is not None and len(node.args) > place:
            held = node.args[place]
            if isinstance(held, ast.Constant) and isinstance(held.value, str):
                yield held.value

"""The core spells no words of a dialect's wire: only the edges do."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "kastor"
WORDS = re.compile(r"tunedModel|tuningTask|projects/")
EDGES = ("api", "cli", "studio")
ALLOWED = {"store/migrations/versions/v0006_plain_model_ids.py"}  # takes the words out of older databases


def spelled_in(text: str) -> list[str]:
    """The string literals and docstrings of a module that hold such a word, and its comments."""
    literals = [
        node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and type(node.value) is str
    ]
    comments = re.findall(r"#.*", text)
    return [found for found in literals + comments if WORDS.search(found)]


def test_nothing_outside_the_edges_spells_the_words_of_a_dialect() -> None:
    offenders = {
        name: spelled
        for path in sorted(SOURCE.rglob("*.py"))
        if (name := str(path.relative_to(SOURCE))).split("/")[0] not in EDGES
        and name not in ALLOWED
        and (spelled := spelled_in(path.read_text("utf-8")))
    }
    assert offenders == {}


def test_a_word_is_found_in_a_literal_and_in_a_comment() -> None:
    assert spelled_in('NAME = f"tunedModels/{x}"\n') == ["tunedModels/"]
    assert spelled_in("x = 1  # of tuningTask\n") == ["# of tuningTask"]
    assert spelled_in("tuned_models = 1\n") == []

"""What is said about installing works: Kastor is on no package index, so its extras come from the checkout."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOLD = [
    *(path for part in ("src", "docs", "scripts", "bench", "tests") for path in (ROOT / part).rglob("*")),
    *(ROOT / name for name in ("README.md", "Makefile")),
]
EXTRA = re.compile(r"kastor\[[a-z{]")
HINT = re.compile(r"pip install '\.\[([a-z,]+)\]'")


def texts() -> dict[Path, str]:
    """Every text that people may read."""
    found = {}
    for path in TOLD:
        written_by_tool = any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
        if path.is_file() and path != Path(__file__) and not written_by_tool:
            try:
                found[path] = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
    return found


def test_nothing_names_an_extra_of_a_package_that_no_index_has() -> None:
    assert [str(path) for path, text in texts().items() if EXTRA.search(text)] == []


def test_every_extra_that_is_named_is_there() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for text in texts().values() for found in HINT.findall(text) for extra in found.split(",")}
    assert named >= {"grpc", "postgres"}
    assert named <= set(extras)


@pytest.mark.parametrize("name", ["docs/guide/grpc.md", "src/kastor/server/main.py", "src/kastor/store/database.py"])
def test_a_hint_says_that_it_is_for_the_checkout(name: str) -> None:
    said = " ".join((ROOT / name).read_text().split())
    assert "pip install '.[" in said and "in kastor's checkout" in said.lower()

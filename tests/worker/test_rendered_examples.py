"""Accepted rows become tokens exactly as planned, and text rows are rendered once."""

from pathlib import Path

import pytest

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.validation.example_plan import encode_row
from kastor.dataset.validation.validator import ExamplePlan
from kastor.domain.content import Example
from kastor.domain.errors import Internal
from kastor.domain.vision import TokenCount
from kastor.models.chat.render import RenderedExample
from kastor.worker.pipeline.rendered_examples import PreparedFiles, load_text_examples


class CountingRenderer:
    """Renders the same two tokens for every example."""

    def __init__(self) -> None:
        self.calls: list[Example] = []

    def example(self, example: Example, _: object) -> RenderedExample:
        self.calls.append(example)
        return RenderedExample([1, 2], [False, True])


def prepared_files(folder: Path, tokens: TokenCount, num_rows: int = 3) -> PreparedFiles:
    """A dataset of text rows and its plan."""
    examples = [Example.pair(f"question {row}", "answer") for row in range(num_rows)]
    files = PreparedFiles(folder / "dataset.jsonl", folder / "plan.jsonl")
    files.dataset.write_bytes(b"".join(encode_example(example) + b"\n" for example in examples))
    rows = (encode_row(row + 1, one, ExamplePlan(tokens, {}), {}) for row, one in enumerate(examples))
    files.plan.write_bytes(b"".join(row + b"\n" for row in rows))
    return files


def test_every_text_row_is_rendered_once(tmp_path: Path) -> None:
    renderer = CountingRenderer()
    examples, tokens = load_text_examples(prepared_files(tmp_path, TokenCount(2, 1)), renderer)
    assert len(examples) == len(renderer.calls) == 3
    assert tokens == TokenCount(6, 3)


def test_a_text_row_that_differs_from_its_plan_is_an_internal_error_that_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(Internal, match="Line 1 became 2 tokens"):
        load_text_examples(prepared_files(tmp_path, TokenCount(3, 1)), CountingRenderer())

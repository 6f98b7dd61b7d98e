"""Google's two packages for Node: the page of the guide."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.client_runs import ProgramResult, run_node
from support.guide_page import program
from support.kastor_server import Kastor


@pytest.fixture(scope="module")
def page(kastor: Kastor, environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ProgramResult:
    modules = environment("node") / "node_modules"
    tell = ["operation", "model", "answer", "pieces", "totalTokens", "mine", "olderAnswer", "olderPieces"]
    variables = {"GEMINI_API_KEY": kastor.key("gus")}
    return run_node(modules, program("node.md", "js", at=kastor.url), tmp_path_factory.mktemp("page"), variables, tell)


def test_a_model_is_tuned_by_plain_http(page: ProgramResult) -> None:
    operation = page.told["operation"]
    assert operation["done"] is True
    assert operation["response"]["state"] == "ACTIVE"
    assert page.told["model"].startswith("tunedModels/increment-")


def test_genai_generates_streams_counts_and_lists(page: ProgramResult) -> None:
    answer = page.told["answer"]
    assert answer["candidates"][0]["content"]["parts"][0]["text"]
    assert answer["modelVersion"] == "smollm2-135m-instruct"
    assert "".join(page.told["pieces"]) == answer["candidates"][0]["content"]["parts"][0]["text"]
    assert page.told["totalTokens"] > 2
    assert page.told["mine"] == [page.told["model"]]


def test_generative_ai_generates_and_streams_the_same(page: ProgramResult) -> None:
    assert page.told["olderAnswer"] == page.told["answer"]["candidates"][0]["content"]["parts"][0]["text"]
    assert "".join(page.told["olderPieces"]) == page.told["olderAnswer"]

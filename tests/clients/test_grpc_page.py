"""The legacy SDK with its default transport, on Kastor's gRPC port: the page of the guide."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.client_runs import ProgramResult, run_python
from support.guide_page import PRINTED_ENDPOINT, program
from support.kastor_server import Kastor

TELL = {
    "id": "model_id",
    "base": "bases[-1].name",
    "operation": "operation.name",
    "state": "model.state.name",
    "steps": "steps",
    "answer": "answer.text",
    "pieces": "pieces",
    "tokens": "tokens",
    "running": "running",
    "later": "later.text",
    "taken": "[type(taken).__name__, taken.message]",
    "description": "model.description",
    "roles": "roles",
    "gone": "[type(gone).__name__, gone.message]",
}


@pytest.fixture(scope="module")
def page(kastor: Kastor, environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ProgramResult:
    python = environment("google-generativeai") / "bin" / "python"
    whole = program("grpc.md", "python", printed=PRINTED_ENDPOINT, at=kastor.grpc)
    variables = {"GEMINI_API_KEY": kastor.key("hana"), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": kastor.grpc_ca}
    return run_python(python, whole, tmp_path_factory.mktemp("page"), variables, TELL)


def test_a_script_that_says_nothing_of_transports_tunes(page: ProgramResult) -> None:
    told = page.told
    assert told["base"] == "models/gemini-1.5-flash-001-tuning"
    assert told["operation"].startswith(f"tunedModels/{told['id']}/operations/")
    assert told["state"] == "ACTIVE"
    assert told["steps"] == [1, 2, 3, 4, 5]


def test_it_generates_streams_and_counts_also_without_waiting(page: ProgramResult) -> None:
    assert page.told["answer"]
    assert "".join(page.told["pieces"]) == page.told["answer"] == page.told["later"]
    assert page.told["tokens"] > 2


def test_operations_are_listed(page: ProgramResult) -> None:
    assert page.told["operation"] in page.told["running"]


def test_a_name_that_is_taken_already_exists(page: ProgramResult) -> None:
    kind, message = page.told["taken"]
    assert kind == "AlreadyExists"
    assert f"tunedModels/{page.told['id']}" in message


def test_it_is_edited_shared_and_gone(page: ProgramResult) -> None:
    assert page.told["description"] == "Says the next number."
    assert page.told["roles"] == {"hana@example.org": "OWNER", "ben@example.org": "READER"}
    assert page.told["gone"] == ["NotFound", f"Tuned model tunedModels/{page.told['id']} does not exist."]

"""The shell quick start as the guide has it: only host and key differ from Google's."""

import json
import shutil
from typing import Any

import pytest

from support.client_runs import ProgramResult, run_shell
from support.guide_page import program
from support.kastor_server import Kastor

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="curl and jq are not both on this machine"
)


@pytest.fixture(scope="module")
def page(kastor: Kastor, tmp_path_factory: pytest.TempPathFactory) -> ProgramResult:
    folder, variables = tmp_path_factory.mktemp("page"), {"GOOGLE_API_KEY": kastor.key("emil")}
    return run_shell(program("curl.md", "sh", at=kastor.url), folder, variables)


def left(page: ProgramResult, file: str) -> Any:
    """The JSON in a file that the page wrote."""
    return json.loads((page.folder / file).read_bytes())


def test_the_loop_ends_with_100_percent_and_a_line_that_says_active(page: ProgramResult) -> None:
    assert left(page, "tunemodel.json")["metadata"]["totalSteps"] == 13
    assert "Tuning...100%\n" in page.out
    assert '  "state": "ACTIVE",\n' in page.out


def test_it_generates_at_once_and_piece_by_piece(page: ProgramResult) -> None:
    whole = left(page, "answer.json")["candidates"][0]
    assert whole["content"]["role"] == "model"
    events = (page.folder / "stream.txt").read_bytes().decode().split("\r\n\r\n")
    assert events.pop() == ""
    pieces = [json.loads(event.removeprefix("data: ")) for event in events]
    assert pieces[-1]["candidates"][0]["finishReason"] in ("STOP", "MAX_TOKENS")
    assert pieces[-1]["usageMetadata"]["totalTokenCount"] > 0


def test_a_cancelled_job_ends_with_code_1(page: ProgramResult) -> None:
    assert left(page, "cancelled.json") == {}
    operation = left(page, "other_operation.json")
    assert operation["done"] is True
    assert operation["error"]["code"] == 1


def test_pages_follow_one_another_with_the_key_glued_to_the_token(page: ProgramResult) -> None:
    name, other = (left(page, f"{which}model.json")["metadata"]["tunedModel"] for which in ("tune", "other"))
    assert f'"{other}"\n' in page.out  # the newest first
    assert [model["name"] for model in left(page, "more_models.json")["tunedModels"]] == [name]
    assert "nextPageToken" not in left(page, "more_models.json")


def test_it_is_edited_deleted_and_gone(page: ProgramResult) -> None:
    name = left(page, "tunemodel.json")["metadata"]["tunedModel"]
    assert left(page, "patched.json")["description"] == "Says the next number."
    assert left(page, "deleted.json") == {}
    error = left(page, "gone.json")["error"]
    assert (error["code"], error["status"]) == (404, "NOT_FOUND")
    assert error["message"] == f"Tuned model {name} does not exist."

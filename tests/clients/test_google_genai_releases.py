"""google-genai 1.46.0, the last that sends its examples, and the newest: the page of the guide and what it says."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.client_runs import ProgramResult, run_python, script
from support.guide_page import program
from support.kastor_server import WITHOUT_WEIGHTS, Kastor

CALLERS = {"1.46.0": "cleo", "3": "dora"}  # lists hold only what is one's own
TELL = {
    "version": "genai.__version__",
    "state": "job.state.name",
    "model": "[job.name, job.tuned_model.model, job.tuned_model.endpoint]",
    "times": "bool(job.create_time and job.start_time and job.end_time)",
    "answer": "answer.text",
    "served_by": "answer.model_version",
    "usage": "answer.usage_metadata.candidates_token_count",
    "pieces": "pieces",
    "tokens": "tokens",
    "formed": "[candidate.content.parts[0].text for candidate in formed.candidates]",
    "parsed": "formed.parsed",
    "logprobs": "len(formed.candidates[0].logprobs_result.top_candidates[0].candidates)",
    "mine": "mine",
    "description": "updated.description",
    "left": "[model.name for model in client.models.list(config={'query_base': False})]",
    "cancelled": "[other.name, other.state.name]",
    "file": "[file.display_name, file.mime_type, file.size_bytes, file.state.name]",
    "content": "content.decode()",
    "same": "same.name == file.name and file.name in names",
    "files": "[f.name for f in client.files.list()]",
}


@pytest.fixture(scope="module", params=["1.46.0", "3"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def python(release: str, environment: Callable[[str], Path]) -> Path:
    return environment(f"google-genai-{release}") / "bin" / "python"


@pytest.fixture(scope="module")
def page(kastor: Kastor, release: str, python: Path, tmp_path_factory: pytest.TempPathFactory) -> ProgramResult:
    whole = program("google-genai.md", "python", at=kastor.url, variant=release)
    variables = {"GEMINI_API_KEY": kastor.key(CALLERS[release])}
    return run_python(python, whole, tmp_path_factory.mktemp("page"), variables, TELL)


def test_it_tunes_and_polls_until_the_job_has_succeeded(page: ProgramResult, release: str) -> None:
    told = page.told
    assert told["version"].startswith(release)
    assert told["state"] == "JOB_STATE_SUCCEEDED"
    assert told["model"][0].startswith("tunedModels/increment-")
    assert told["model"] == [told["model"][0]] * 3
    assert told["times"]


def test_it_generates_streams_and_counts(page: ProgramResult) -> None:
    assert page.told["answer"]
    assert page.told["served_by"] == "smollm2-135m-instruct"
    assert 1 <= page.told["usage"] <= 8
    assert "".join(page.told["pieces"]) == page.told["answer"]  # temperature 0
    assert page.told["tokens"] > 2


def test_answers_have_the_form_that_was_asked_for(page: ProgramResult) -> None:
    for answer in page.told["formed"]:
        assert json.loads(answer)["parity"] in ("even", "odd")
    assert len(page.told["formed"]) == 2
    assert page.told["parsed"] == json.loads(page.told["formed"][0])
    assert page.told["logprobs"] == 2


def test_it_lists_edits_and_deletes(page: ProgramResult) -> None:
    model = page.told["model"][0]
    assert page.told["mine"] == [page.told["cancelled"][0], model]  # the newest first
    assert page.told["description"] == "Says the next number."
    assert model not in page.told["left"]


def test_a_cancelled_job_has_ended(page: ProgramResult) -> None:
    name, state = page.told["cancelled"]
    assert state == "JOB_STATE_FAILED"
    assert page.told["left"] == [name]


def test_a_file_goes_up_comes_down_and_is_deleted(page: ProgramResult) -> None:
    assert page.told["file"] == ["numbers", "text/plain", 5, "ACTIVE"]
    assert page.told["same"]
    assert page.told["content"] == "1 2 3"
    assert page.told["files"] == []


def test_a_script_that_never_heard_of_kastor_is_led_there_by_the_environment(
    kastor: Kastor, release: str, python: Path, tmp_path: Path
) -> None:
    variables = {"GOOGLE_GEMINI_BASE_URL": kastor.url, "GEMINI_API_KEY": kastor.key(CALLERS[release])}
    told = run_python(python, script("untouched.py"), tmp_path, variables, {"told": "told"}).told["told"]
    assert "models/gemini-1.5-flash-001-tuning" in told["models"]
    assert told["chat"][0] and told["chat"][1]
    assert told["missing"] == [404, "NOT_FOUND", "Tuned model tunedModels/x does not exist."]
    assert told["modality"][:2] == [400, "INVALID_ARGUMENT"]
    assert told["wrong key"] == [400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."]


def test_a_job_that_fails_has_ended_and_its_operation_says_why(
    kastor: Kastor, environment: Callable[[str], Path], tmp_path: Path
) -> None:
    python = environment("google-genai-3") / "bin" / "python"
    variables = {"URL": kastor.url, "GEMINI_API_KEY": kastor.key("finn"), "BASE": WITHOUT_WEIGHTS}
    tell = {"name": "job.name", "state": "job.state.name"}
    told = run_python(python, script("failing_job.py"), tmp_path, variables, tell).told
    assert told["state"] == "JOB_STATE_FAILED"
    listed = httpx.get(f"{kastor.url}/v1/{told['name']}/operations", headers={"x-goog-api-key": kastor.key("finn")})
    (operation,) = listed.json()["operations"]
    assert operation["done"] is True
    assert "response" not in operation
    assert operation["error"]["message"]


def test_without_extra_body_the_newest_release_is_told_what_became_of_its_examples(
    kastor: Kastor, environment: Callable[[str], Path], tmp_path: Path
) -> None:
    python = environment("google-genai-3") / "bin" / "python"
    variables = {"URL": kastor.url, "GEMINI_API_KEY": kastor.key("finn")}
    tell = {"code": "refused.code", "status": "refused.status", "message": "refused.message"}
    told = run_python(python, script("examples_dropped.py"), tmp_path, variables, tell).told
    assert (told["code"], told["status"]) == (400, "INVALID_ARGUMENT")
    assert "1.47.0" in told["message"] and "extra_body" in told["message"]

"""The legacy SDK over REST: the whole page of its guide, as a notebook would run it, and two people sharing a model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.client_runs import ProgramResult, run_python, script
from support.guide_page import program
from support.kastor_server import Kastor

TELL = {
    "id": "model_id",
    "base": "bases[-1].name",
    "operation": "operation.name",
    "total_steps": "operation.metadata.total_steps",
    "percent": "operation.metadata.completed_percent",
    "at_first": "at_first.state.name",
    "state": "model.state.name",
    "rate": "model.tuning_task.hyperparameters.learning_rate",
    "columns": "sorted(snapshots.columns)",
    "epochs": "loss_of_epoch.index.tolist()",
    "losses": "snapshots['mean_loss'].tolist()",
    "steps": "snapshots['step'].tolist()",
    "answer": "answer.text",
    "finish": "answer.candidates[0].finish_reason.name",
    "usage": "answer.usage_metadata.candidates_token_count",
    "tokens": "tokens",
    "mine": "mine",
    "source": "further.tuning_task and further.source_model",
    "further": "[further.base_model, further.state.name]",
    "description": "model.description",
    "roles": "roles",
    "everyone": "[again.grantee_type.name, again.role.name, again.email_address]",
    "file": "[file.display_name, file.mime_type, file.size_bytes, file.state.name, file.uri]",
    "same": "same.name == file.name and file.name in names",
    "files": "[f.name for f in genai.list_files()]",
    "gone": "[type(gone).__name__, gone.message]",
}


@pytest.fixture(scope="module")
def python(environment: Callable[[str], Path]) -> Path:
    return environment("google-generativeai") / "bin" / "python"


@pytest.fixture(scope="module")
def page(kastor: Kastor, python: Path, tmp_path_factory: pytest.TempPathFactory) -> ProgramResult:
    whole = program("google-generativeai.md", "python", at=kastor.url)
    return run_python(python, whole, tmp_path_factory.mktemp("page"), {"GEMINI_API_KEY": kastor.key("ada")}, TELL)


def test_the_notebook_tunes_a_model_from_creating_to_active(page: ProgramResult) -> None:
    told = page.told
    assert told["base"] == "models/gemini-1.5-flash-001-tuning"
    assert told["operation"].startswith(f"tunedModels/{told['id']}/operations/")
    assert (told["at_first"], told["state"]) == ("CREATING", "ACTIVE")
    assert (told["total_steps"], told["percent"], told["rate"]) == (19, 100, 0.001)


def test_the_snapshots_make_a_frame_that_can_be_plotted(page: ProgramResult) -> None:
    assert page.told["columns"] == ["compute_time", "epoch", "mean_loss", "step"]
    assert page.told["steps"] == list(range(1, 20))
    assert page.told["epochs"] == [1, 2, 3, 4, 5]
    assert all(loss > 0 for loss in page.told["losses"])


def test_the_tuned_model_answers_and_streams(page: ProgramResult) -> None:
    assert page.told["answer"]
    assert page.told["finish"] in ("STOP", "MAX_TOKENS")
    assert 1 <= page.told["usage"] <= 8
    assert page.told["tokens"] > 2


def test_it_is_listed_edited_and_tuned_further(page: ProgramResult) -> None:
    model = f"tunedModels/{page.told['id']}"
    assert model in page.told["mine"]
    assert page.told["description"] == "Says the next number."
    assert page.told["source"] == model
    assert page.told["further"] == ["models/gemini-1.5-flash-001-tuning", "ACTIVE"]


def test_permissions_go_there_and_back(page: ProgramResult) -> None:
    assert page.told["roles"] == {"ada@example.org": "OWNER", "ben@example.org": "WRITER"}
    assert page.told["everyone"] == ["EVERYONE", "READER", None]


def test_a_file_goes_up_is_listed_and_deleted(page: ProgramResult) -> None:
    name, kind, size, state, uri = page.told["file"]
    assert (name, kind, size, state) == ("numbers", "text/plain", 5, "ACTIVE")
    assert uri.startswith("http://")
    assert page.told["same"]
    assert page.told["files"] == []


def test_what_was_deleted_is_not_found_in_googles_words(page: ProgramResult) -> None:
    kind, message = page.told["gone"]
    assert kind == "NotFound"
    assert message.endswith(f": Tuned model tunedModels/{page.told['id']} does not exist.")


def test_a_model_is_its_owners_until_it_is_shared_and_handed_over(kastor: Kastor, python: Path, tmp_path: Path) -> None:
    variables = {"URL": kastor.url, "OWNER_KEY": kastor.key("ada"), "OTHER_KEY": kastor.key("ben")}
    told = run_python(python, script("two_people.py"), tmp_path, variables, {"told": "told"}).told["told"]
    refused = f"You do not have permission to access tuned model {told['name']}"
    assert told["stranger"] == ["Forbidden", refused]
    assert told["reader"] == [told["name"], ["Forbidden", f"{refused} as WRITER: you are its READER."]]
    assert told["writer"] == ["by the writer", ["Forbidden", f"{refused} as OWNER: you are its WRITER."]]
    assert told["former owner"][0] == {"ada@example.org": "WRITER", "ben@example.org": "OWNER"}
    assert told["former owner"][1] == told["writer"][1]
    assert told["in the end"][0] == "NotFound"

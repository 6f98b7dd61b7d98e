"""`kastor models` against a server whose answers are known."""

from pathlib import Path

import pytest

from support.command_result import Kastor
from support.fake_kastor import MODEL, FakeServer, Reply, error_body

TUNED = {
    "name": MODEL,
    "displayName": "numbers",
    "baseModel": "models/smollm2-135m-instruct",
    "state": "ACTIVE",
    "createTime": "2026-01-02T03:04:05Z",
    "tuningTask": {"hyperparameters": {"epochCount": 5}, "snapshots": [{"step": 1}]},
}
BASE = {"name": "models/smollm2-135m-instruct", "displayName": "SmolLM2", "inputTokenLimit": 7168}


@pytest.fixture
def models(server: FakeServer) -> FakeServer:
    """The fake with a base and a tuned model."""
    server.on("GET", "/v1beta/models", {"models": [BASE]})
    server.on("GET", f"/v1beta/{BASE['name']}", BASE)
    server.on("GET", "/v1beta/tunedModels", {"tunedModels": [TUNED]})
    server.on("GET", f"/v1beta/{MODEL}", TUNED)
    server.on("DELETE", f"/v1beta/{MODEL}", {})
    return server


def test_list_shows_bases_and_tuned_models(kastor: Kastor, models: FakeServer) -> None:
    shown = kastor("models", "list", "--server", models.url).out
    assert "models/smollm2-135m-instruct" in shown
    assert MODEL in shown
    assert "active" in shown


LONG = {"name": f"tunedModels/{'n' * 40}", "displayName": "d" * 40, "state": "CREATING"}


@pytest.mark.parametrize("width", [80, 100, 200])
def test_names_are_whole_and_on_one_line_however_narrow_the_terminal(
    width: int, kastor: Kastor, models: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.on("GET", "/v1beta/tunedModels", {"tunedModels": [TUNED, TUNED | LONG]})
    monkeypatch.setenv("COLUMNS", str(width))
    lines = kastor("models", "list", "--server", models.url).out.splitlines()
    for name in (BASE["name"], MODEL, LONG["name"]):
        assert sum(str(name) in line.split() for line in lines) == 1, lines
    assert max(map(len, lines)) <= width
    assert any("creating" in line for line in lines)
    assert len(lines) == 2 + 1 + 1 + 2 + 2, "a row is a line"
    if width == 200:
        assert any("d" * 40 in line and "2026-01-0" in line for line in lines)


def test_other_names_of_a_base_can_be_copied_too(kastor: Kastor, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = kastor("models", "list").out.split()
    assert {"models/smollm2-135m-instruct", "models/gemini-1.5-flash-001-tuning"} <= set(words)


@pytest.mark.parametrize("command", [("models", "pull"), ("check", "pairs.jsonl", "--base")])
def test_a_base_that_is_not_here_is_told_how_it_gets_here(
    command: tuple[str, ...], kastor: Kastor, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs_file.parent)
    for name, said in (("Qwen/Qwen3-0.6B", 'kind = "hub"'), ("gemini-2.5-flash", "aliases of open bases")):
        ran = kastor(*command, name)
        assert ran.code == 1 and said in ran.err and "KASTOR_CATALOG_FILE" in ran.err and "v1beta" not in ran.err


def test_list_as_json_holds_both_kinds(kastor: Kastor, models: FakeServer) -> None:
    document = kastor("models", "list", "--json", "--server", models.url).json
    assert [base["name"] for base in document["baseModels"]] == ["models/smollm2-135m-instruct"]
    assert document["tunedModels"] == [TUNED]


@pytest.mark.parametrize("name", [MODEL, "numbers-q1w2"])
def test_show_finds_a_tuned_model_by_either_name(name: str, kastor: Kastor, models: FakeServer) -> None:
    assert kastor("models", "show", name, "--json", "--server", models.url).json == TUNED


def test_show_finds_a_base_by_its_bare_name(kastor: Kastor, models: FakeServer) -> None:
    assert kastor("models", "show", "smollm2-135m-instruct", "--json", "--server", models.url).json == BASE


def test_delete_asks_for_yes_where_nobody_can_answer(kastor: Kastor, models: FakeServer) -> None:
    ran = kastor("models", "delete", MODEL, "--server", models.url)
    assert ran.code == 1
    assert "confirm with --yes" in ran.err
    assert not any(s.method == "DELETE" for s in models.seen)


def test_delete_with_yes_deletes(kastor: Kastor, models: FakeServer) -> None:
    assert kastor("models", "delete", MODEL, "--yes", "--json", "--server", models.url).json == {"deleted": MODEL}
    assert models.seen[-1].method == "DELETE"


def test_delete_of_a_missing_model_says_so_before_asking(kastor: Kastor, models: FakeServer) -> None:
    gone = Reply(error_body(404, "NOT_FOUND", "Tuned model tunedModels/x does not exist."), 404)
    models.on("GET", "/v1beta/tunedModels/x", gone)
    assert "does not exist" in kastor("models", "delete", "x", "--server", models.url).err


def test_a_base_is_not_deleted(kastor: Kastor, models: FakeServer) -> None:
    assert "only tuned models can be deleted" in kastor("models", "delete", BASE["name"], "--server", models.url).err


def test_pull_of_an_unknown_base_gives_the_near_names(kastor: Kastor) -> None:
    ran = kastor("models", "pull", "smollm")
    assert ran.code == 1
    assert "models/smollm2-135m-instruct" in ran.err

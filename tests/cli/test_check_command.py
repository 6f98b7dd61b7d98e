"""`kastor check` says what would be refused, and shows what would be learnt."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kastor.cli.app import app
from tiny import tiny_tokenizer
from tiny_catalog import tiny_catalog


@pytest.fixture(autouse=True)
def a_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    catalog = tiny_catalog(tmp_path / "catalog.toml", {"tiny": folder}, input_token_limit=200, output_token_limit=56)
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    monkeypatch.setenv("KASTOR_CACHE_DIR", str(tmp_path / "cache"))


def dataset(folder: Path, *lines: str) -> str:
    file = folder / "data.jsonl"
    file.write_text("\n".join(lines))
    return str(file)


GOOD = '{"text_input": "1", "output": "日本"}'


def test_a_good_file_is_counted_and_exits_with_0(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", dataset(tmp_path, GOOD, GOOD), "--base", "tiny", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["rows"], document["accepted"], document["rejected"]) == (2, 2, 0)
    assert document["supervisedTokens"] == 2 * 7  # six bytes and the end of the turn


def test_faults_are_listed_with_their_line_and_exit_with_1(tmp_path: Path) -> None:
    too_long = json.dumps({"text_input": "x" * 300, "output": "y"})
    result = CliRunner().invoke(app, ["check", dataset(tmp_path, GOOD, "{}", too_long), "--base", "tiny"])
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "line 3: " in result.stderr
    assert "at most 256 fit models/tiny" in result.stderr


def test_the_view_shows_each_token_and_whether_it_is_learnt(tmp_path: Path) -> None:
    arguments = ["check", dataset(tmp_path, GOOD), "--base", "tiny", "--show-tokens", "1", "--json"]
    (view,) = json.loads(CliRunner().invoke(app, arguments).stdout)["views"]
    assert [piece["text"] for piece in view if piece["supervised"]] == ["日", "本", "<|im_end|>"]
    assert "".join(piece["text"] for piece in view).startswith("<|im_start|>system\n")


def test_without_the_weights_at_hand_everything_else_is_checked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", dataset(tmp_path, GOOD, "{}")])
    assert result.exit_code == 1
    assert "models pull smollm2-135m-instruct" in result.stderr


def test_columns_of_other_names_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("question,answer\n1,2\n")
    columns = ["--input-key", "question", "--output-key", "answer"]
    assert CliRunner().invoke(app, ["check", str(tmp_path / "t.csv"), "--base", "tiny", *columns]).exit_code == 0

"""`kastor check` says what would be refused, and shows what would be learnt."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
from tokenizers import AddedToken
from typer.testing import CliRunner

from kastor.cli.app import app
from kastor.domain.content import Resolution
from kastor.domain.job import State, default_hyperparameters
from kastor.models.chat.families import NANO_VL
from kastor.store.database import migrate, open_database
from kastor.store.jobs import JobStore
from support.domain_values import after, make_job, make_model, make_snapshot
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_tokenizer


@pytest.fixture(autouse=True)
def a_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    catalog = tiny_catalog(tmp_path / "catalog.toml", {"tiny": folder}, input_token_limit=200, output_token_limit=56)
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    monkeypatch.setenv("KASTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KASTOR_DATA_DIR", str(tmp_path / "no data"))


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
    assert "".join(piece["text"] for piece in view).startswith("<|im_start|>user\n")


def test_of_a_conversation_every_answer_is_learnt_or_the_last(tmp_path: Path) -> None:
    turns = [
        {"role": role, "parts": [{"text": text}]} for role, text in zip(("user", "model") * 2, "abcd", strict=True)
    ]
    data = dataset(tmp_path, json.dumps({"contents": turns}))
    for supervise, learnt in (("all", ["b", "<|im_end|>", "d", "<|im_end|>"]), ("last", ["d", "<|im_end|>"])):
        arguments = ["check", data, "--base", "tiny", "--show-tokens", "1", "--supervise", supervise, "--json"]
        found = json.loads(CliRunner().invoke(app, arguments).stdout)
        assert [piece["text"] for piece in found["views"][0] if piece["supervised"]] == learnt
        assert found["outputTokens"]["sum"] == str(len(learnt))


def test_functions_are_shown_as_the_model_sees_them(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]},
    ]
    data = dataset(tmp_path, json.dumps({"contents": turns}))
    page = tmp_path / "page.html"
    arguments = ["check", data, "--base", "tiny", "--show-tokens", "1", "--html", str(page), "--json"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    learnt = "".join(piece["text"] for piece in found["views"][0] if piece["supervised"])
    assert learnt == '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>'
    assert "functionCall" in json.dumps(found) and page.is_file()


def test_without_the_weights_at_hand_everything_else_is_checked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", dataset(tmp_path, GOOD, "{}")])
    assert result.exit_code == 1
    assert "models pull smollm2-135m-instruct" in result.stderr


def test_columns_of_other_names_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("question,answer\n1,2\n")
    columns = ["--input-key", "question", "--output-key", "answer"]
    assert CliRunner().invoke(app, ["check", str(tmp_path / "t.csv"), "--base", "tiny", *columns]).exit_code == 0


FAULTY = '{"text_input": "1", "output": ""}'


def checked(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["check", "--base", "tiny", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_report_sums_and_says_what_is_wrong_how_often_and_where(tmp_path: Path) -> None:
    too_long = json.dumps({"text_input": "x" * 300, "output": "y"})
    code, out, err = checked(dataset(tmp_path, GOOD, FAULTY, GOOD, too_long, FAULTY))
    assert code == 1
    assert "5 rows = 2 accepted + 1 dropped + 2 rejected" in out
    assert [line.split()[:5] for line in out.splitlines() if line.startswith("empty_output")] == [
        ["empty_output", "2", "rejected", "2,", "5"]
    ]
    assert "line 3 as 1" in out
    assert "Refused: 2 of 5 rows are faulty: 2 empty_output." in out
    assert "line 2, output: is empty" in err


def test_a_fine_dataset_is_said_to_be_fine_and_estimated(tmp_path: Path) -> None:
    code, out, _ = checked(dataset(tmp_path, *[GOOD] * 6), "--epochs", "3", "--batch-size", "2")
    assert code == 0
    assert "OK: 6 examples can be trained on." in out
    assert "9 (3 epochs, batch 2" in out
    assert "a rough calibration" in out


def test_the_speed_of_earlier_jobs_is_taken_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASTOR_DATA_DIR", str(tmp_path / "data"))
    database = open_database(f"sqlite:///{tmp_path / 'data' / 'kastor.db'}")
    migrate(database)
    jobs = JobStore(database)
    for job_id, base in (("mine", "tiny"), ("other", "smollm2-135m-instruct")):
        job = make_job(job_id, spec=replace(make_job().spec, base_model=base))
        jobs.add(job, make_model(job))
        claimed = jobs.claim(at=after(1), max_active=2)
        assert claimed is not None
        running = jobs.move(claimed, State.RUNNING, at=after(2))
        jobs.record_step(
            job_id, running.attempt, make_snapshot(1, num_tokens=100 if base == "tiny" else 9, elapsed_s=0.5)
        )
    database.close()
    _, out, _ = checked(dataset(tmp_path, GOOD), "--json")
    estimate = json.loads(out)["estimate"]
    assert (estimate["tokensPerSecond"], estimate["tokensPerSecondSource"]) == (200.0, "the last job on this base here")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--raise", "max_images"],
        ["--raise", "max_cats=3"],
        ["--profile", "nowhere"],
        ["--epochs", "0"],
        ["--batch-size", "-1"],
    ],
)
def test_a_question_that_makes_no_sense_is_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    assert checked(dataset(tmp_path, GOOD), *arguments)[0] == 2


def test_a_limit_may_be_raised(tmp_path: Path) -> None:
    data = dataset(tmp_path, json.dumps({"text_input": "1", "output": "y" * 20}))
    assert checked(data, "--raise", "max_output_chars=10")[0] == 1
    assert checked(data, "--raise", "max_output_chars=10", "--raise", "max_output_chars=none")[0] == 0


def test_the_validation_file_is_judged_too_and_leaks_are_told(tmp_path: Path) -> None:
    data = dataset(tmp_path, GOOD)
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(f"{GOOD}\n{FAULTY}")
    code, out, err = checked(data, "--validation", str(held_out))
    assert code == 1
    assert "1 example is both in the validation and the training file" in out
    assert "held-out.jsonl, line 2, output" in err


def test_page_and_rejects_are_written(tmp_path: Path) -> None:
    page, rejects = tmp_path / "report.html", tmp_path / "rejects.jsonl"
    data = dataset(tmp_path, GOOD, FAULTY)
    assert checked(data, "--html", str(page), "--rejects", str(rejects))[0] == 1
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == [FAULTY]
    assert "<mark>日本&lt;|im_end|&gt;</mark>" in page.read_text("utf-8")


def test_a_few_system_instructions_are_pointed_out_with_the_way_to_give_them(tmp_path: Path) -> None:
    turns = [{"role": role, "parts": [{"text": "a"}]} for role in ("user", "model")]
    row = json.dumps({"systemInstruction": {"parts": [{"text": "Be kind."}]}, "contents": turns})
    said = " ".join(CliRunner().invoke(app, ["check", dataset(tmp_path, GOOD, row), "--base", "tiny"]).stdout.split())
    assert "1 of 2 examples has a system instruction: send one with each prompt, too" in said
    assert "kastor generate --system" in said


def test_a_shared_preamble_is_pointed_out(tmp_path: Path) -> None:
    rows = [json.dumps({"text_input": f"Add one: {number}", "output": "x"}) for number in range(6)]
    _, out, _ = checked(dataset(tmp_path, *rows))
    assert "100% of the prompts begin with 'Add one: '; use it in prompts, too." in out


def test_an_interrupted_check_reports_what_was_read_by_then(tmp_path: Path) -> None:
    data = tmp_path / "endless.jsonl"
    os.mkfifo(data)
    command = [sys.executable, "-m", "kastor.cli", "check", str(data), "--base", "tiny", "--html", str(tmp_path / "x")]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running,
        data.open("w") as rows,
    ):
        rows.write(f"{FAULTY}\n" + f"{GOOD}\n" * 199)
        rows.flush()
        assert running.stderr is not None
        assert "line 1, output" in running.stderr.readline()  # told while the file is still open
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    counted = re.search(
        r"(\d+) rows? = (\d+) accepted \+ 0 dropped \+ 1 rejected", out
    )  # by then: as the pipe gave them
    assert counted is not None
    assert 1 <= int(counted[1]) == int(counted[2]) + 1 < 200
    assert "Interrupted" in out
    assert not (tmp_path / "x").exists()


MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media"


@pytest.mark.skipif(not MEDIA.is_dir(), reason="the sample media are not here")
def test_real_clips_and_images_go_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<jupyter_output>", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    catalog = tiny_catalog(tmp_path / "seeing.toml", {"tiny": folder}, input_token_limit=90_000)
    catalog.write_text(catalog.read_text().replace('"smollm2"', '"kastor-nano-vl"'))
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    page = tmp_path / "report.html"
    data = dataset(tmp_path, *media_rows())
    code, out, _ = checked(data, "--profile", "vertex-gemini-2.5", "--json", "--html", str(page))
    found = json.loads(out)
    assert code == 0, found["refusals"]
    assert found["droppedByRule"] == {"media_type_unsupported": 1}
    assert found["accepted"] == found["rows"] - 1
    assert (found["slices"]["image"], found["slices"]["video"]) == (6, found["accepted"] - 6)
    assert page.read_text("utf-8").count("data:image/jpeg;base64,") > 20


def test_a_page_shows_pictures_in_the_shape_that_the_model_sees_named_in_a_grid_with_an_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    catalog = tiny_catalog(tmp_path / "seeing.toml", {"tiny": folder}, input_token_limit=90_000)
    catalog.write_text(catalog.read_text().replace('"smollm2"', '"kastor-nano-vl"'))
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    parts: list[dict[str, object]] = []
    for number in range(16):
        PIL.Image.new("RGB", (640, 320), "white").save(tmp_path / f"scan-{number}.png")
        parts.append({"fileData": {"mimeType": "image/png", "fileUri": f"scan-{number}.png"}})
    turns = [
        {"role": "user", "parts": [*parts, {"text": "How many?"}]},
        {"role": "model", "parts": [{"text": "16"}]},
    ]
    page = tmp_path / "report.html"
    code, out, err = checked(dataset(tmp_path, json.dumps({"contents": turns})), "--html", str(page), "--json")
    assert code == 0, out + err
    media = default_hyperparameters(1, has_media=True)  # what the job takes
    assert (json.loads(out)["estimate"]["batchSize"], json.loads(out)["estimate"]["learningRate"]) == (
        media.batch_size,
        media.learning_rate,
    )
    text = page.read_text("utf-8")
    assert text.count('<div class="grid">') == 1
    grid = text.split('<div class="grid">')[1].split("How many?")[0]
    assert re.findall(r"<span>(.*?)</span>", grid) == [f"scan-{number}.png" for number in range(16)]
    shown = [base64.b64decode(one) for one in re.findall(r"data:image/jpeg;base64,([^\"]+)", grid)]
    views = NANO_VL.vision.layout(Resolution.MEDIUM, (640, 320)) if NANO_VL.vision else None
    assert views is not None
    sizes = {PIL.Image.open(io.BytesIO(one)).size for one in shown}
    assert {width * views.height == height * views.width for width, height in sizes} == {True}
    assert ".frame img { display: block; width: 100%; height: auto; border: 1px solid var(--edge)" in text


def media_rows() -> list[str]:
    """Short clips with their captions, two scenes of the film, and some images."""
    types = {".mp4": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm", ".avi": "video/x-msvideo"}
    captions = [json.loads(line) for line in (MEDIA / "videos" / "labels.jsonl").read_text().splitlines()]
    media = [
        (f"videos/{one['file']}", types.get(Path(one["file"]).suffix, "video/ogg"), {}, one["caption"])
        for one in captions
        if "10min" not in one["file"]
    ]
    film = json.loads((MEDIA / "videos" / "big_buck_bunny_segments.json").read_text())
    for scene in film["segments"][:2]:
        segment = {"videoMetadata": {"startOffset": f"{scene['start']}s", "endOffset": f"{scene['end']}s"}}
        media.append((f"videos/{film['file']}", "video/mp4", segment, scene["text"]))
    for cloth in json.loads((MEDIA / "textile" / "labels.json").read_text())[:6]:
        media.append((cloth["file"], "image/jpeg", {}, cloth["label"]))
    rows = []
    for file, mime_type, segment, text in media:
        part = {"fileData": {"mimeType": mime_type, "fileUri": str(MEDIA / file)}, **segment}
        turns = [
            {"role": "user", "parts": [part, {"text": "What is it?"}]},
            {"role": "model", "parts": [{"text": text}]},
        ]
        rows.append(json.dumps({"contents": turns}))
    return rows


def test_media_for_a_base_that_sees_are_judged_as_tuning_on_them_would(tmp_path: Path) -> None:
    part = {"fileData": {"mimeType": "image/png", "fileUri": "missing.png"}}
    turns = [{"role": "user", "parts": [part]}, {"role": "model", "parts": [{"text": "a cat"}]}]
    data = dataset(tmp_path, json.dumps({"contents": turns}))
    _, out, _ = checked(data, "--base", "kastor-nano-vl", "--json")
    assert list(json.loads(out)["droppedByRule"]) == ["media_not_found"]
    _, out, _ = checked(data, "--base", "kastor-nano-vl", "--profile", "gemini-api", "--json")
    assert list(json.loads(out)["droppedByRule"]) == ["too_many_images"]


def test_how_a_file_was_read_is_said_and_stands_in_the_report(tmp_path: Path) -> None:
    row = json.dumps({"instruction": "Translate.", "input": "dog", "output": "chien", "id": 7})
    arguments = ["check", dataset(tmp_path, row), "--base", "tiny"]
    said = " ".join(CliRunner().invoke(app, arguments).stdout.split())
    assert "read as Alpaca (instruction, input, output)" in said
    assert "id: not used in tuning" in said
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (document["readAs"], document["rowsAreNumberedBy"]) == ("Alpaca (instruction, input, output)", "line")


def test_rows_of_a_json_list_are_called_elements(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", dataset(tmp_path, f"[{GOOD}, {GOOD}, 7]"), "--base", "tiny"])
    assert "element 3: a number, not an object" in result.stderr
    assert "first elements" in result.stdout
    assert "element 2 as 1" in result.stdout


def test_what_comes_on_standard_input_is_checked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "-", "--base", "tiny", "--json"], input=f"{GOOD}\n" * 3)
    assert json.loads(result.stdout)["accepted"] == 3

"""`kastor tune` against a server whose answers are known."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_result import Kastor
from support.fake_kastor import JOB_ID, MODEL, FakeServer, Reply, error_body, make_job


def test_tune_prints_only_the_name_on_stdout(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    ran = kastor("tune", str(pairs_file), "--server", tuning.url)
    assert (ran.code, ran.out) == (0, f"{MODEL}\n"), ran.err


def test_tune_tells_of_its_progress_in_lines_where_stderr_is_no_terminal(
    kastor: Kastor, tuning: FakeServer, pairs_file: Path
) -> None:
    told = kastor("tune", str(pairs_file), "--server", tuning.url).err
    assert "queued" in told
    assert "step 3/19  epoch 1/5  loss 0.833  321 tokens/s  32s left" in told
    assert "step 19/19" in told
    assert "\x1b" not in told


def test_tune_sends_what_was_asked_and_nothing_else(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    kastor(
        "tune", str(pairs_file), "--server", tuning.url, "--epochs", "3", "--name", "my-model", "--api-key", "secret"
    )
    create = next(s for s in tuning.seen if s.method == "POST")
    assert create.query == {"tunedModelId": ["my-model"]}
    assert create.headers["x-goog-api-key"] == "secret"
    assert create.body == {
        "displayName": "pairs",
        "baseModel": "models/smollm2-135m-instruct",
        "tuningTask": {
            "hyperparameters": {"epochCount": 3},
            "trainingData": {
                "examples": {"examples": [{"textInput": "1", "output": "2"}, {"textInput": "3", "output": "4"}]}
            },
        },
    }


def test_tune_as_json_holds_the_name_and_the_job(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    document = kastor("tune", str(pairs_file), "--server", tuning.url, "--json").json
    assert document["name"] == MODEL
    assert document["job"]["state"] == "SUCCEEDED"


def test_a_detached_tune_returns_at_once(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    ran = kastor("tune", str(pairs_file), "--server", tuning.url, "--detach", "--json")
    assert ran.json == {"name": MODEL, "job": JOB_ID}
    assert not any(s.path.startswith("/kastor") for s in tuning.seen)


def test_tune_shows_what_a_job_is_prepared_with(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    fetching = [{"at": "2026-01-02T03:04:06Z", "level": "info", "message": "fetching the base model"}]
    tuning.on_job(make_job("PREPARING"), make_job("PREPARING", events=fetching), make_job("SUCCEEDED", 19))
    assert "preparing: fetching the base model" in kastor("tune", str(pairs_file), "--server", tuning.url).err


def test_a_queued_job_says_how_many_stand_before_it(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    others = [make_job("QUEUED"), make_job("RUNNING", 3, id="other"), make_job("SUCCEEDED", 19, id="past")]
    tuning.on("GET", "/kastor/v1/jobs", {"jobs": others})
    tuning.on_job(make_job("QUEUED"), make_job("QUEUED"), make_job("SUCCEEDED", 19))
    assert "queued: 1 job ahead" in kastor("tune", str(pairs_file), "--server", tuning.url).err


def test_the_death_of_a_worker_is_told_once(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    death = {"at": "2026-01-02T03:04:06Z", "level": "warning", "message": "worker died (SIGKILL); going on from step 8"}
    again = make_job("RUNNING", 9, attempt=2, events=[death])
    tuning.on_job(
        make_job(step=8, events=[]), make_job(step=8, events=[]), again, again, again, make_job("SUCCEEDED", 19)
    )
    assert kastor("tune", str(pairs_file), "--server", tuning.url).err.count("worker died") == 1


def test_a_failed_job_is_an_error_with_its_reason(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    tuning.on_job(make_job("FAILED", 3, error={"code": 8, "message": "The disk is full. Free some."}))
    ran = kastor("tune", str(pairs_file), "--server", tuning.url)
    assert (ran.code, ran.out) == (1, "")
    assert f"Job {JOB_ID} failed: The disk is full. Free some. Its log: kastor jobs logs {JOB_ID}" in ran.err


def test_a_cancelled_job_is_an_error(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    tuning.on_job(make_job("CANCELLED", 3))
    ran = kastor("tune", str(pairs_file), "--server", tuning.url)
    assert ran.code == 1
    assert "was cancelled after 3 of 19 steps" in ran.err


def test_the_servers_refusal_is_shown_as_it_is(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    refusal = error_body(404, "NOT_FOUND", "models/x is not found. Near names: models/y.")
    tuning.on("POST", "/v1beta/tunedModels", Reply(refusal, 404))
    ran = kastor("tune", str(pairs_file), "--server", tuning.url)
    assert (ran.code, ran.err) == (1, "Error: models/x is not found. Near names: models/y.\n")


def takes_files(tuning: FakeServer) -> None:
    tuning.on("POST", "/upload/v1beta/files", {"file": {"name": "files/abc"}})
    tuning.on("POST", "/kastor/v1/jobs", make_job("QUEUED"))
    tuning.on_job(make_job("SUCCEEDED", 19))


def test_a_set_too_large_for_the_tuned_models_api_goes_as_a_file(
    kastor: Kastor, tuning: FakeServer, pairs_file: Path
) -> None:
    refusal = error_body(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 4194304 bytes.")
    tuning.on("POST", "/v1beta/tunedModels", Reply(refusal, 400))
    takes_files(tuning)
    ran = kastor("tune", str(pairs_file), "--server", tuning.url, "--epochs", "3")
    assert (ran.code, ran.out) == (0, f"{MODEL}\n")
    upload, create = (s for s in tuning.seen if s.method == "POST" and s.path != "/v1beta/tunedModels")
    assert pairs_file.read_bytes() in upload.body
    assert b'{"file": {"displayName": "%s"}}' % pairs_file.name.encode() in upload.body
    assert create.body == {
        "displayName": "pairs",
        "baseModel": "models/smollm2-135m-instruct",
        "dataset": "files/abc",
        "hyperparameters": {"epochCount": 3},
    }


def test_without_a_display_name_the_datasets_name_is_it(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    for name, shown in (
        (".a.b.jsonl", "a"),
        ("caf\udce9.jsonl", "caf\ufffd"),
        ("x" * 60, "x" * 40),
        (".jsonl", "jsonl"),
    ):
        file = pairs_file.with_name(name)
        file.write_bytes(pairs_file.read_bytes())
        assert kastor("tune", str(file), "--server", tuning.url, "--detach").code == 0
        assert tuning.seen[-1].body["displayName"] == shown


def test_a_lost_connection_is_tried_again(kastor: Kastor, tuning: FakeServer, pairs_file: Path) -> None:
    away = Reply(error_body(503, "UNAVAILABLE", "The server restarts."), 503)
    tuning.on("GET", f"/kastor/v1/jobs/{JOB_ID}", Reply(make_job(step=3)), Reply(make_job(step=3)), away)
    tuning.replies["GET", f"/kastor/v1/jobs/{JOB_ID}"].append(Reply(make_job("SUCCEEDED", 19)))
    ran = kastor("tune", str(pairs_file), "--server", tuning.url)
    assert ran.code == 0
    assert "The server restarts. Trying again for 120 s.\nThe server answers again." in ran.err


def test_faulty_rows_are_refused_before_anything_is_sent(kastor: Kastor, tuning: FakeServer, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.jsonl"
    faulty.write_text('{"text_input": "1"}\n')
    ran = kastor("tune", str(faulty), "--server", tuning.url)
    assert ran.code == 1
    assert "line 1" in ran.err
    assert tuning.seen == []


@pytest.mark.parametrize(
    "row",
    [
        '{"contents": [%s, %s, %s, %s]}',
        '{"systemInstruction": {"parts": [{"text": "s"}]}, "contents": [%s, %s]}',
    ],
)
def test_what_the_tuned_models_api_cannot_carry_goes_as_a_file(
    row: str, kastor: Kastor, tuning: FakeServer, tmp_path: Path
) -> None:
    turns = ['{"role": "user", "parts": [{"text": "a"}]}', '{"role": "model", "parts": [{"text": "b"}]}'] * 2
    data = tmp_path / "turns.jsonl"
    data.write_text(row % tuple(turns[: row.count("%s")]) + "\n")
    takes_files(tuning)
    assert kastor("tune", str(data), "--server", tuning.url, "--profile", "open").code == 0
    upload, create = (s for s in tuning.seen if s.method == "POST")
    assert data.read_bytes() in upload.body
    assert (create.body["dataset"], create.body["profile"]) == ("files/abc", "open")


def test_rows_of_another_form_are_sent_as_pairs_and_it_is_said(
    kastor: Kastor, tuning: FakeServer, tmp_path: Path
) -> None:
    data = tmp_path / "alpaca.jsonl"
    data.write_text('{"instruction": "Translate.", "input": "dog", "output": "chien", "id": 7}\n')
    ran = kastor("tune", str(data), "--server", tuning.url)
    assert "Read as Alpaca (instruction, input, output)" in ran.err
    assert "id: not used in tuning (1 of the rows)" in ran.err
    (create,) = (s for s in tuning.seen if s.method == "POST")
    sent = create.body["tuningTask"]["trainingData"]["examples"]["examples"]
    assert sent == [{"textInput": "Translate.\n\ndog", "output": "chien"}]


def test_turns_of_weight_0_are_never_sent_as_pairs(kastor: Kastor, tuning: FakeServer, tmp_path: Path) -> None:
    turns = [("user", "a", 1), ("assistant", "b", 0), ("user", "c", 1), ("assistant", "d", 1)]
    messages = [{"role": role, "content": text} | ({} if weight else {"weight": 0}) for role, text, weight in turns]
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": messages}) + "\n")
    takes_files(tuning)
    assert kastor("tune", str(data), "--server", tuning.url).code == 0
    upload, _ = (s for s in tuning.seen if s.method == "POST")
    assert data.read_bytes() in upload.body


def test_named_fields_go_with_a_job_as_rows_that_need_no_names(
    kastor: Kastor, tuning: FakeServer, tmp_path: Path
) -> None:
    data = tmp_path / "qa.csv"
    data.write_text("q;a\n1;2\n")
    takes_files(tuning)
    names = ("--input-key", "q", "--output-key", "a")
    assert kastor("tune", str(data), "--server", tuning.url, "--profile", "open", *names).code == 0
    upload, _ = (s for s in tuning.seen if s.method == "POST")
    assert b'{"contents":[{"role":"user","parts":[{"text":"1"}]},' in upload.body


def test_which_turns_are_learnt_goes_with_the_job(kastor: Kastor, tuning: FakeServer, tmp_path: Path) -> None:
    turns = [{"role": role, "parts": [{"text": role}]} for role in ("user", "model") * 2]
    data = tmp_path / "turns.jsonl"
    data.write_text(json.dumps({"contents": turns}) + "\n")
    takes_files(tuning)
    assert kastor("tune", str(data), "--server", tuning.url, "--supervise", "last").code == 0
    assert [s.body["supervise"] for s in tuning.seen if s.path.endswith("/jobs") and s.method == "POST"] == ["last"]


def test_a_tower_to_train_is_asked_for_whatever_the_dataset_holds(
    kastor: Kastor, tuning: FakeServer, pairs_file: Path
) -> None:
    takes_files(tuning)
    assert kastor("tune", str(pairs_file), "--server", tuning.url, "--train-tower").code == 0
    assert [s.body["trainTower"] for s in tuning.seen if s.path.endswith("/jobs") and s.method == "POST"] == [True]


def test_media_beside_the_dataset_are_looked_for_there(kastor: Kastor, tuning: FakeServer, tmp_path: Path) -> None:
    part = {"fileData": {"mimeType": "image/png", "fileUri": "cat.png"}}
    turns = [{"role": "user", "parts": [part]}, {"role": "model", "parts": [{"text": "a cat"}]}]
    data = tmp_path / "cats.jsonl"
    data.write_text(json.dumps({"contents": turns}) + "\n")
    takes_files(tuning)
    assert kastor("tune", str(data), "--server", tuning.url).code == 0
    assert tuning.seen[-2].body["mediaFolder"] == str(tmp_path)


def test_ctrl_c_detaches_from_a_shared_server(home: Path, tuning: FakeServer, pairs_file: Path) -> None:
    tuning.on_job(make_job(step=3))
    command = [sys.executable, "-m", "kastor.cli", "tune", str(pairs_file), "--server", tuning.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        tuning.wait_for(f"/kastor/v1/jobs/{JOB_ID}", count=3)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert f"Detached; job {JOB_ID} continues." in err
    assert "Traceback" not in err
    assert not any(s.path.endswith(":cancel") for s in tuning.seen)


def test_in_a_terminal_there_is_a_bar_and_the_cursor_comes_back(
    home: Path, tuning: FakeServer, pairs_file: Path
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kastor.cli", "tune", str(pairs_file), "--server", tuning.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"}, text=True
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, f"{MODEL}\n")
    assert "step 12/19" in shown
    assert "step 19/19" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def read_all(fd: int) -> str:
    """What comes out of a pseudo-terminal until its other end is closed."""
    said = b""
    with os.fdopen(fd, "rb", buffering=0) as terminal:
        while True:
            try:
                piece = terminal.read(4096)
            except OSError:  # EIO: nobody holds the other end any more
                return said.decode()
            if not piece:
                return said.decode()
            said += piece

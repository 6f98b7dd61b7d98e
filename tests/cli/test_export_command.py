"""`kastor export`: a tuned model out of the data folder, or one sentence that says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import psutil
import pytest

from kastor.domain.job import State
from support.command_result import Kastor
from support.films import painted
from support.worker_environment import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A data folder with the tuned model `model-of-job1`, and one that waits."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.add("job1", num_epochs=1)
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED
    place.add("job2")
    yield place
    place.database.close()


@pytest.fixture(autouse=True)
def settings(place: Place, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_DATA_DIR", str(place.settings.data_dir))
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(place.settings.catalog_file))


def test_a_tuned_model_becomes_a_folder(kastor: Kastor, tmp_path: Path) -> None:
    ran = kastor("export", "tunedModels/model-of-job1", "--format", "merged", "--out", str(tmp_path / "merged"))
    assert ran.code == 0, ran.err
    assert str(tmp_path / "merged") in ran.out.replace("\n", "")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in (tmp_path / "merged").iterdir()}
    assert "writing merged" in ran.err and "from those served" in ran.err


@pytest.mark.parametrize("name", ["model-of-job1", "job1"])
def test_as_json_the_manifest_is_printed(kastor: Kastor, tmp_path: Path, name: str) -> None:
    shown = kastor("export", name, "--out", str(tmp_path / "adapter"), "--json").json
    assert (shown["format"], shown["job"], shown["folder"]) == ("peft", "job1", str(tmp_path / "adapter"))
    assert {"adapter_config.json", "adapter_model.safetensors", "certificate.json"} < shown["files"].keys()
    assert "tokenizer.json" in shown["files"]


def test_another_data_folder_is_named_by_an_option(kastor: Kastor, tmp_path: Path) -> None:
    ran = kastor("export", "job1", "--out", str(tmp_path / "x"), "--data-dir", str(tmp_path / "elsewhere"))
    assert ran.code == 1 and "has no tuned model or job 'job1'" in ran.err and "--data-dir" in ran.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tunedModels/nobody", "has no tuned model or job 'tunedModels/nobody'"),
        ("model-of-job2", "The job job2 of model-of-job2 is QUEUED; only a job that succeeded can be exported."),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(kastor: Kastor, tmp_path: Path, name: str, said: str) -> None:
    ran = kastor("export", name, "--out", str(tmp_path / "x"))
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err
    assert not (tmp_path / "x").exists()


def test_a_setting_without_effect_is_refused(kastor: Kastor, tmp_path: Path) -> None:
    ran = kastor("export", "job1", "--weights", "f16", "--out", str(tmp_path / "x"))
    assert ran.code == 1 and "--weights f16 applies to --format gguf only" in ran.err


def test_a_folder_with_something_in_it_is_left_alone(kastor: Kastor, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    ran = kastor("export", "job1", "--out", str(tmp_path / "mine"))
    assert ran.code == 1 and "is not an empty folder" in ran.err
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.fixture
def seeing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A data folder with a model that was tuned on two pictures."""
    place = Place(tmp_path / "seeing", seeing=True)
    for number in (1, 900):
        PIL.Image.fromarray(painted(number, (64, 48), noise=True)).save(place.media / f"{number}.png")
    for name, value in (("DATA_DIR", place.settings.data_dir), ("CACHE_DIR", place.settings.cache_dir)):
        monkeypatch.setenv(f"KASTOR_{name}", str(value))
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(place.settings.catalog_file))
    monkeypatch.setenv("KASTOR_MEDIA_FOLDERS", json.dumps([str(place.media)]))
    rows = [
        {
            "contents": [
                {"role": "user", "parts": [{"fileData": {"mimeType": "image/png", "fileUri": f"{number}.png"}}]},
                {"role": "model", "parts": [{"text": str(number)}]},
            ]
        }
        for number in (1, 900)
    ]
    place.add_file(rows)
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").state is State.SUCCEEDED
    yield place
    place.database.close()


def test_a_model_that_sees_is_compared_on_its_pictures_wherever_they_are(
    seeing: Place, kastor: Kastor, tmp_path: Path
) -> None:
    features = seeing.settings.cache_dir / "features"
    first = kastor("export", "job1", "--out", str(tmp_path / "first"), "--json").json
    assert first["comparison"]["rows"] == 2 and "projector.safetensors" in first["files"]
    (seeing.media / "1.png").rename(seeing.media / "moved.png")
    assert kastor("export", "job1", "--out", str(tmp_path / "kept")).code == 0  # its features are here
    shutil.rmtree(features)
    ran = kastor("export", "job1", "--out", str(tmp_path / "gone"))
    assert ran.code == 1 and "'1.png' does not exist" in ran.err and "Put it back" in ran.err
    (seeing.media / "moved.png").rename(seeing.media / "1.png")
    assert kastor("export", "job1", "--out", str(tmp_path / "back")).code == 0


@pytest.mark.usefixtures("without_fork_server")
def test_an_interrupted_export_leaves_nothing_behind_and_ends_its_process(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    command = [
        sys.executable,
        "-m",
        "kastor.cli",
        "export",
        "model-of-job1",
        "--format",
        "merged",
        "--out",
        str(target),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "writing merged" in line:
                break
        (child,) = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all at once
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest
    assert not child.is_running()
    assert list(tmp_path.iterdir()) == [], "what was half written is removed"

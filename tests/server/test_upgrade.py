"""An installation of release 0.1 (tests/data/release-0.1) opens, goes on with its jobs, and serves its models."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.polling import wait_until
from support.tiny_catalog import tiny_catalog

RECORDING = Path(__file__).parents[1] / "data" / "release-0.1" / "recording.tar.xz"
FINISHED = {"numbers", "further", "images", "videos"}


@pytest.fixture(scope="module", name="installation")
def an_installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked installation, its catalog pointing to where it lies now."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(RECORDING) as recording:
        recording.extractall(folder, filter="data")
    seeing = tiny_catalog(folder / "catalog.toml", {"tiny-vl": folder / "seeing"}, family="kastor-nano-vl").read_text()
    text = tiny_catalog(folder / "catalog.toml", {"tiny": folder / "base"}).read_text()
    (folder / "catalog.toml").write_text(text + seeing)
    return folder


@pytest.fixture(scope="module", name="client")
def a_client(installation: Path) -> Iterator[httpx.Client]:
    """A client of this version's server on that installation."""
    own = {
        "KASTOR_DATA_DIR": str(installation / "data"),
        "KASTOR_CACHE_DIR": str(installation / "cache"),
        "KASTOR_CATALOG_FILE": str(installation / "catalog.toml"),
        "KASTOR_NO_AUTH": "true",
        "KASTOR_NUM_THREADS": "1",
        "KASTOR_SPARE_WORKER_TIMEOUT_S": "0",
    }
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")} | own
    command = [sys.executable, "-m", "kastor.cli", "serve", "--port", "0", "--json"]
    with (installation / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (installation / "server.log").read_text()
        with httpx.Client(base_url=json.loads(line)["url"], timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=30)


def tuned_models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    listed = client.get("/v1beta/tunedModels?pageSize=50").json()["tunedModels"]
    return {model["name"].removeprefix("tunedModels/"): model for model in listed}


def job_of(client: httpx.Client, model: str) -> dict[str, Any]:
    jobs = client.get("/kastor/v1/jobs").json()["jobs"]
    job_id = next(job["id"] for job in jobs if job["tunedModel"] == f"tunedModels/{model}")
    return dict(client.get(f"/kastor/v1/jobs/{job_id}?view=full").json())


def answer(client: httpx.Client, model: str, text: str) -> str:
    body = {"contents": [{"parts": [{"text": text}]}], "generationConfig": {"temperature": 0, "maxOutputTokens": 8}}
    answered = client.post(f"/v1beta/tunedModels/{model}:generateContent", json=body)
    assert answered.status_code == 200, answered.text
    return "".join(part["text"] for part in answered.json()["candidates"][0].get("content", {}).get("parts", []))


def test_every_model_is_listed_with_its_state_and_permissions(client: httpx.Client) -> None:
    models = tuned_models(client)
    assert set(models) == {*FINISHED, "interrupted", "queued"}
    assert {name for name in FINISHED if models[name]["state"] != "ACTIVE"} == set()
    grants = client.get("/v1beta/tunedModels/numbers/permissions").json()["permissions"]
    assert ("ben@example.org", "READER") in {(grant.get("emailAddress"), grant["role"]) for grant in grants}


def test_finished_models_answer_as_they_did(client: httpx.Client, installation: Path) -> None:
    recorded = json.loads((installation / "about.json").read_text())["answers"]
    for name in ("numbers", "further"):
        assert answer(client, name, "3") == recorded[name]
    for name in ("images", "videos"):
        answer(client, name, "?")
        assert job_of(client, name)["certificate"]["rows"]


def test_interrupted_and_queued_jobs_go_on_as_the_release_itself_would(
    client: httpx.Client, installation: Path
) -> None:
    for name in ("interrupted", "queued"):
        wait_until(lambda name=name: job_of(client, name)["state"] in ("SUCCEEDED", "FAILED"), timeout_s=400)  # type: ignore[misc]
        job = job_of(client, name)
        assert job["state"] == "SUCCEEDED", job["error"]
    expected = json.loads((installation / "about.json").read_text())["losses"]
    steps = {str(step["step"]): step["meanLoss"] for step in job_of(client, "interrupted")["snapshots"]}
    assert expected and {step: steps[step] for step in expected} == pytest.approx(expected, rel=1e-3)
    assert tuned_models(client)["interrupted"]["state"] == "ACTIVE"


def test_a_new_model_can_be_tuned_on_an_old_one(client: httpx.Client) -> None:
    examples = {"examples": {"examples": [{"textInput": str(n), "output": str(n + 1)} for n in range(8)]}}
    body = {
        "tunedModelSource": {"tunedModel": "tunedModels/numbers"},
        "tuningTask": {"trainingData": examples, "hyperparameters": {"epochCount": 1}},
    }
    created = client.post("/v1beta/tunedModels?tunedModelId=newer", json=body)
    assert created.status_code == 200, created.text
    wait_until(lambda: job_of(client, "newer")["state"] in ("SUCCEEDED", "FAILED"), timeout_s=120)
    assert job_of(client, "newer")["state"] == "SUCCEEDED", job_of(client, "newer")["error"]

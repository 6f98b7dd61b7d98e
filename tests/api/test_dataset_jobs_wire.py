"""`POST /kastor/v1/jobs`: tuning on an uploaded file, or on one of the server's disk that the operator allows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import InvalidArgument
from kastor.models.catalog import load_catalog
from kastor.models.chat.families import FAMILIES
from kastor.services.tuning_request import check_tower
from support.api_world import BASE, World, error_of, fields_of

LINE = json.dumps({"contents": [{"role": r, "parts": [{"text": r}]} for r in ("user", "model", "user", "model")]})


def upload(world: World, name: str = "turns.jsonl", **options: Any) -> str:
    headers = {"X-Goog-Upload-Protocol": "multipart", "Content-Type": "multipart/related; boundary=b"} | options
    about = json.dumps({"file": {"displayName": name}})
    body = f"--b\r\nContent-Type: application/json\r\n\r\n{about}\r\n--b\r\n\r\n{LINE}\n\r\n--b--\r\n"
    answer = world.call("POST", "/upload/v1beta/files", content=body.encode(), headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["file"]["name"])


def create(world: World, dataset: str, headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
    body = {"dataset": dataset, "baseModel": BASE, "tunedModelId": "turns"} | fields
    return world.call("POST", "/kastor/v1/jobs", json=body, headers=headers or {})


def on_the_shelf(world: World) -> Path:
    world.shelf.mkdir()
    path = world.shelf / "data.jsonl"
    path.write_text(LINE + "\n")
    return path


def test_an_uploaded_file_makes_a_job_that_is_counted_once_it_is_judged(world: World) -> None:
    answer = create(world, upload(world), hyperparameters={"epoch_count": 3}, profile="vertex-gemini-2.5")
    assert answer.status_code == 200, answer.text
    job = world.jobs.get(answer.json()["id"])
    assert job.spec.file is not None
    assert (job.spec.file.name, job.spec.file.profile, job.spec.file.settled) == (
        "turns.jsonl",
        "vertex-gemini-2.5",
        False,
    )
    assert job.spec.file.asked.num_epochs == 3
    assert world.blobs.workspace(job.id).source.read_text() == LINE + "\n"
    model = world.call("GET", "/v1beta/tunedModels/turns").json()
    assert model["state"] == "CREATING"


def test_a_vision_tower_is_trained_where_the_base_has_one_to_train(world: World) -> None:
    dataset = upload(world)
    assert create(world, dataset).json()["trainTower"] is False
    answer = create(world, dataset, tunedModelId="seeing", baseModel="models/kastor-nano-vl", trainTower=True)
    assert answer.json()["trainTower"] is True, answer.text
    assert world.jobs.get(answer.json()["id"]).spec.train_tower
    refused = create(world, dataset, tunedModelId="reading", trainTower=True)
    assert fields_of(refused) == ["trainTower"]
    assert "reads text only" in refused.text
    pretrained = replace(load_catalog().base("kastor-nano-vl"), family=FAMILIES["gemma3-vl"])
    with pytest.raises(InvalidArgument, match="trained with its language model and stays so"):
        check_tower(pretrained)


def test_which_turns_are_learnt_is_said_and_kept(world: World) -> None:
    dataset = upload(world)
    assert create(world, dataset).json()["supervise"] == "all"
    answer = create(world, dataset, tunedModelId="last", supervise="last")
    assert answer.json()["supervise"] == "last"
    assert world.jobs.get(answer.json()["id"]).spec.supervise is SupervisedTurns.LAST
    assert fields_of(create(world, dataset, tunedModelId="first", supervise="first")) == ["supervise"]


def test_a_file_of_the_servers_disk_is_taken_from_the_operators_folders_only(world: World) -> None:
    path = on_the_shelf(world)
    answer = create(world, str(path))
    assert answer.status_code == 200, answer.text
    spec = world.jobs.get(answer.json()["id"]).spec
    assert spec.file is not None and spec.file.media_base == str(world.shelf.resolve())
    outside = world.folder / "secret.jsonl"
    outside.write_text(LINE)
    (world.shelf / "link.jsonl").symlink_to(outside)
    for name in (str(outside), f"{world.shelf}/../secret.jsonl", str(world.shelf / "link.jsonl")):
        refused = create(world, name, tunedModelId="other")
        assert fields_of(refused) == ["dataset"], name
        assert "lies under none of the folders" in error_of(refused)["message"]
    for name in ("data.jsonl", "/a\0b", "/" + "x" * 5000):
        assert fields_of(create(world, name, tunedModelId="other")) == ["dataset"]
    assert fields_of(create(world, str(world.shelf), tunedModelId="other")) == ["dataset"]
    assert fields_of(create(world, str(path), tunedModelId="other", mediaFolder="/etc")) == ["mediaFolder"]
    assert fields_of(create(world, str(path), tunedModelId="other", mediaFolder="/a\0b")) == ["mediaFolder"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"profile": "vertex"}, "There is no profile 'vertex'; known are open, gemini-api"),
        ({"hyperparameters": {"epochCount": 0}}, "0 is out of range"),
        ({"baseModel": ""}, "name one of GET /v1beta/models"),
        ({"colour": "red"}, 'Unknown name "colour"'),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(world: World, fields: dict[str, Any], said: str) -> None:
    answer = create(world, upload(world), **fields)
    assert answer.status_code == 400
    assert said in error_of(answer)["message"]
    assert not list((world.folder / "jobs").glob("*")) if (world.folder / "jobs").exists() else True


def test_a_strangers_file_is_not_trained_on(world: World) -> None:
    locked = World(world.folder, world.database, keys={"ada@example.org": "a", "bob@example.org": "b"})
    ada, bob = {"x-goog-api-key": "a"}, {"x-goog-api-key": "b"}
    name = upload(locked, **ada)
    assert create(locked, name, bob).status_code == 403
    assert create(locked, name, ada).status_code == 200


def test_the_report_is_there_once_the_file_was_judged(world: World) -> None:
    job = create(world, upload(world)).json()["id"]
    assert "has no report" in error_of(world.call("GET", f"/kastor/v1/jobs/{job}/report"))["message"]
    world.blobs.workspace(job).write(world.blobs.report(job), [b'{"rows": 1}'])
    assert world.call("GET", f"/kastor/v1/jobs/{job}/report").json() == {"rows": 1}


def test_a_refusal_names_the_fields_of_this_api(world: World) -> None:
    answer = create(world, upload(world), hyperparameters={"epochCount": 0})
    assert answer.status_code == 400
    assert fields_of(answer) == ["hyperparameters.epochCount"]

"""Tuning on top of a tuned model: `tunedModelSource`, and `tunedModels/…` where a base is named."""

from typing import Any

import httpx
import pytest

from kastor.store.blobs.manifests import write_manifest
from support.api_world import ALIAS, World, error_of, tuning_body

SOURCE = {"tunedModel": "tunedModels/numbers", "baseModel": ALIAS}


def ready(world: World) -> None:
    """The tuned model `numbers`, with an adapter."""
    folder = world.blobs.adapter(world.active().id)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"learnt")
    write_manifest(folder, {})


def create(world: World, **changes: object) -> httpx.Response:
    body: dict[str, Any] = tuning_body(**changes)
    return world.call("POST", "/v1beta/tunedModels?tunedModelId=more", json=body)


@pytest.mark.parametrize(
    "named",
    [
        {"baseModel": None, "tunedModelSource": SOURCE},  # the legacy SDK
        {"baseModel": None, "tunedModelSource": {"tunedModel": "tunedModels/numbers"}},
        {"baseModel": "tunedModels/numbers"},  # google-genai
    ],
)
def test_a_tuned_model_may_be_tuned_on_and_is_named_as_the_source(world: World, named: dict[str, Any]) -> None:
    ready(world)
    assert create(world, **named).status_code == 200
    made = world.call("GET", "/v1beta/tunedModels/more").json()
    assert made["tunedModelSource"] == SOURCE
    assert "baseModel" not in made
    job = world.jobs.get(world.models.get("more").job_id)
    assert job.spec.from_tuned
    assert (world.blobs.workspace(job.id).initial_adapter / "adapter_model.safetensors").read_bytes() == b"learnt"


def test_the_source_may_be_deleted_afterwards(world: World) -> None:
    ready(world)
    create(world, baseModel="tunedModels/numbers")
    assert world.call("DELETE", "/v1beta/tunedModels/numbers").status_code == 200
    assert world.call("GET", "/v1beta/tunedModels/more").json()["tunedModelSource"] == SOURCE
    job = world.models.get("more").job_id
    assert world.blobs.workspace(job).initial_adapter.is_dir()


def test_a_damaged_source_is_refused_by_the_file(world: World) -> None:
    ready(world)
    (world.blobs.adapter(world.models.get("numbers").job_id) / "adapter_model.safetensors").write_bytes(b"leernt")
    answer = create(world, baseModel="tunedModels/numbers")
    assert answer.status_code == 500
    assert error_of(answer)["status"] == "DATA_LOSS"
    assert "adapter_model.safetensors is damaged" in error_of(answer)["message"]


def test_a_missing_source_is_not_found(world: World) -> None:
    answer = create(world, baseModel="tunedModels/missing")
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "Tuned model tunedModels/missing does not exist."


def test_a_source_that_is_not_ready_is_refused_with_its_state(world: World) -> None:
    world.create()
    answer = create(world, baseModel="tunedModels/numbers")
    assert answer.status_code == 400
    assert "tunedModels/numbers is not ready" in error_of(answer)["message"]


def test_a_source_whose_adapter_is_gone_leaves_nothing_behind(world: World) -> None:
    world.active()
    answer = create(world, baseModel="tunedModels/numbers")
    assert error_of(answer)["status"] == "FAILED_PRECONDITION"
    assert world.call("GET", "/v1beta/tunedModels/more").status_code == 404
    assert len(list((world.folder / "jobs").iterdir())) == 1

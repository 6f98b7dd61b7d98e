"""Operations and cancelling, by all the routes that clients use."""

import pytest

from kastor.domain.errors import Code
from kastor.domain.job import State
from support.api_world import World, error_of

OPERATION_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.CreateTunedModelMetadata"


def poll(world: World, job_id: str) -> dict[str, object]:
    answer = world.call("GET", f"/v1/tunedModels/numbers/operations/{job_id}")
    assert answer.status_code == 200
    return dict(answer.json())


def test_progress_appears_with_the_first_snapshot_never_before(world: World) -> None:
    world.create()
    job = world.start()
    assert poll(world, job.id)["metadata"] == {
        "@type": OPERATION_TYPE,
        "totalSteps": 19,
        "tunedModel": "tunedModels/numbers",
    }
    for number in range(1, 6):
        world.step(job, number)
    metadata = poll(world, job.id)["metadata"]
    assert isinstance(metadata, dict)
    assert (metadata["completedSteps"], metadata["completedPercent"]) == (5, 26.31579)
    assert len(metadata["snapshots"]) == 5
    assert "done" not in poll(world, job.id)


def test_a_finished_operation_holds_the_active_model_and_keeps_its_metadata(world: World) -> None:
    operation = poll(world, world.active().id)
    response, metadata = operation["response"], operation["metadata"]
    assert isinstance(response, dict) and isinstance(metadata, dict)
    assert operation["done"] is True and "error" not in operation
    assert response.pop("@type") == "type.googleapis.com/google.ai.generativelanguage.v1beta.TunedModel"
    assert response == world.call("GET", "/v1/tunedModels/numbers").json()
    assert (response["state"], metadata["completedPercent"], metadata["@type"]) == ("ACTIVE", 100.0, OPERATION_TYPE)


def test_a_failed_job_gives_its_grpc_code_and_message_and_the_model_is_failed(world: World) -> None:
    operation = poll(world, world.failed().id)
    assert operation["done"] is True and "response" not in operation
    assert operation["error"] == {
        "code": Code.RESOURCE_EXHAUSTED.value,
        "message": "No space left on the disk; free some and tune again.",
    }
    assert world.call("GET", "/v1/tunedModels/numbers").json()["state"] == "FAILED"


@pytest.mark.parametrize(
    "route",
    [
        "/v1/tunedModels/numbers/operations/{job}:cancel",
        "/v1beta/tunedModels/numbers/operations/{job}:cancel",
        "/v1/tunedModels/numbers:cancel",
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}"])
def test_every_way_to_cancel_works_and_may_be_repeated(world: World, route: str, body: bytes) -> None:
    job = world.create()
    for _ in range(2):
        assert world.call("POST", route.format(job=job.id), content=body).json() == {}
    operation = poll(world, job.id)
    assert operation["done"] is True
    assert operation["error"] == {"code": 1, "message": "The tuning was cancelled."}
    assert world.call("GET", "/v1/tunedModels/numbers").json()["state"] == "FAILED"


def test_cancelling_a_running_job_is_a_request_and_a_finished_one_stays(world: World) -> None:
    world.create()
    job = world.start()
    world.call("POST", "/v1/tunedModels/numbers:cancel")
    assert world.jobs.get(job.id).state is State.CANCELLING
    assert "done" not in poll(world, job.id)
    done = world.active("other")
    assert world.call("POST", "/v1/tunedModels/other:cancel").json() == {}
    assert world.jobs.get(done.id).state is State.SUCCEEDED


def test_operations_are_listed_by_model_and_all_together(world: World) -> None:
    world.create("one")
    world.create("two")
    (own,) = world.call("GET", "/v1/tunedModels/one/operations").json()["operations"]
    assert own["metadata"]["tunedModel"] == "tunedModels/one"
    first = world.call("GET", "/v1/operations?pageSize=1").json()
    second = world.call("GET", f"/v1/operations?pageSize=1&pageToken={first['nextPageToken']}").json()
    assert second["operations"] == [own]


def test_deleting_an_operation_forgets_nothing_the_model_needs(world: World) -> None:
    job = world.active()
    assert world.call("DELETE", f"/v1beta/tunedModels/numbers/operations/{job.id}").json() == {}
    assert world.call("GET", "/v1/tunedModels/numbers").json()["state"] == "ACTIVE"


@pytest.mark.parametrize("target", ["numbers/operations/nope", "nope/operations/{job}", "nope/operations"])
def test_an_unknown_operation_is_not_found(world: World, target: str) -> None:
    job = world.create()
    answer = world.call("GET", f"/v1/tunedModels/{target.format(job=job.id)}")
    assert answer.status_code == 404
    assert error_of(answer)["status"] == "NOT_FOUND"

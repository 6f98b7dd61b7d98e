"""gRPC, by Google's generated clients: the same answers and refusals as HTTP, as messages and statuses."""

import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import grpc
import pytest
from google.ai import generativelanguage_v1beta as glm
from google.api_core import exceptions
from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2
from google.rpc import status_pb2
from prometheus_client import CollectorRegistry

from kastor.domain.errors import InvalidArgument
from kastor.domain.request_limits import GEMINI_API
from kastor.store.database import Database
from support.api_world import ALIAS, BASE, World, pairs
from support.rpc_calls import HTTP_URL, Callers, speaking

DEADLINE_S = 20
V1BETA = "google.ai.generativelanguage.v1beta."


@pytest.fixture
def rpc(world: World) -> Iterator[Callers]:
    with speaking(world) as callers:
        yield callers


def wanted(**changes: Any) -> glm.TunedModel:
    examples = glm.TuningExamples(
        examples=[glm.TuningExample(text_input=p["textInput"], output=p["output"]) for p in pairs()]
    )
    task = glm.TuningTask(
        training_data=glm.Dataset(examples=examples), hyperparameters=glm.Hyperparameters(epoch_count=2)
    )
    return glm.TunedModel(display_name="numbers", base_model=ALIAS, tuning_task=task, **changes)


def ask(text: str = "7", model: str = BASE, **config: Any) -> dict[str, Any]:
    return {"model": model, "contents": [{"parts": [{"text": text}]}], "generation_config": config}


def operation(rpc: Callers, name: str) -> operations_pb2.Operation:
    found: operations_pb2.Operation = rpc.models.get_operation({"name": name})
    return found


def test_a_tuned_model_from_its_creation_to_its_end(
    world: World, rpc: Callers, logged: list[MutableMapping[str, Any]]
) -> None:
    begun = rpc.models.create_tuned_model(tuned_model=wanted(temperature=0.0), tuned_model_id="numbers")
    metadata = begun.metadata
    assert (metadata.tuned_model, metadata.total_steps) == ("tunedModels/numbers", 8)
    assert rpc.models.get_tuned_model(name="tunedModels/numbers").state is glm.TunedModel.State.CREATING
    job = world.start()
    for number in range(1, 9):
        world.step(job, number)
    world.jobs.move(job, world.jobs.get(job.id).state.SUCCEEDED, at=world.clock())
    done = operation(rpc, f"tunedModels/numbers/operations/{job.id}")
    assert done.done
    made = glm.TunedModel.pb(glm.TunedModel())
    assert done.response.Unpack(made)
    assert (made.state, made.temperature, made.HasField("temperature")) == (2, 0.0, True)
    assert [snapshot.step for snapshot in made.tuning_task.snapshots] == list(range(1, 9))
    assert made.tuning_task.hyperparameters.learning_rate == pytest.approx(0.001)
    rpc.models.delete_tuned_model(name="tunedModels/numbers")
    with pytest.raises(exceptions.NotFound) as gone:
        rpc.models.get_tuned_model(name="tunedModels/numbers")
    assert gone.value.message == "Tuned model tunedModels/numbers does not exist."
    assert not [entry for entry in logged if entry["event"] == "grpc_answer_cut"]


def test_a_taken_id_is_already_exists(world: World, rpc: Callers) -> None:
    world.create("numbers")
    with pytest.raises(exceptions.AlreadyExists):
        rpc.models.create_tuned_model(tuned_model=wanted(), tuned_model_id="numbers")


def test_a_mask_sets_its_fields_and_clears_what_it_names_and_the_message_leaves_out(world: World, rpc: Callers) -> None:
    world.active("numbers", description="old")
    mask = field_mask_pb2.FieldMask(paths=["description", "temperature"])
    changed = glm.TunedModel(name="tunedModels/numbers", display_name="ignored", temperature=0.0)
    said = rpc.models.update_tuned_model(tuned_model=changed, update_mask=mask)
    assert (said.description, said.display_name) == ("", "number generator")
    assert (said.temperature, glm.TunedModel.pb(said).HasField("temperature")) == (0.0, True)


def test_lists_go_page_by_page(world: World, rpc: Callers) -> None:
    for name in ("one", "two", "three"):
        world.create(name)
    pages = rpc.models.list_tuned_models(page_size=2)
    assert [model.name for model in pages] == ["tunedModels/three", "tunedModels/two", "tunedModels/one"]
    assert BASE in [model.name for model in rpc.models.list_models()]
    assert rpc.models.get_model(name=BASE).name == BASE


def test_operations_are_listed_cancelled_and_deleted(world: World, rpc: Callers) -> None:
    job = world.create("numbers")
    name = f"tunedModels/numbers/operations/{job.id}"
    assert [o.name for o in rpc.models.list_operations({"name": ""}).operations] == [name]
    assert [o.name for o in rpc.models.list_operations({"name": "tunedModels/numbers"}).operations] == [name]
    rpc.models.cancel_operation({"name": name})
    ended = operation(rpc, name)
    assert (ended.done, ended.error.code) == (True, grpc.StatusCode.CANCELLED.value[0])
    rpc.raw(
        "google.longrunning.Operations/DeleteOperation",
        operations_pb2.DeleteOperationRequest(name=name).SerializeToString(),
    )


def test_permissions_go_round(world: World, rpc: Callers) -> None:
    world.create("numbers")
    kinds, roles = glm.Permission.GranteeType, glm.Permission.Role
    given = glm.Permission(grantee_type=kinds.USER, email_address="ben@example.org", role=roles.READER)
    made = rpc.sharing.create_permission(parent="tunedModels/numbers", permission=given)
    assert (made.role, made.email_address) == (roles.READER, "ben@example.org")
    changed = glm.Permission(name=made.name, role=roles.WRITER)
    mask = field_mask_pb2.FieldMask(paths=["role"])
    assert rpc.sharing.update_permission(permission=changed, update_mask=mask).role is roles.WRITER
    assert made.name in [p.name for p in rpc.sharing.list_permissions(parent="tunedModels/numbers")]
    rpc.sharing.delete_permission(name=made.name)
    with pytest.raises(exceptions.NotFound):
        rpc.sharing.get_permission(name=made.name)


def test_files_are_read_listed_and_deleted(world: World, rpc: Callers, logged: list[MutableMapping[str, Any]]) -> None:
    headers = {"x-goog-upload-protocol": "raw", "content-type": "text/plain"}
    uploaded = world.call("POST", "/upload/v1beta/files", content=b"hello", headers=headers).json()["file"]
    found = rpc.files.get_file(name=uploaded["name"])
    assert (found.size_bytes, found.mime_type, found.state) == (5, "text/plain", glm.File.State.ACTIVE)
    assert found.uri == f"{HTTP_URL}/v1beta/{found.name}"
    assert [file.name for file in rpc.files.list_files()] == [uploaded["name"]]
    rpc.files.delete_file(name=uploaded["name"])
    with pytest.raises(exceptions.PermissionDenied):
        rpc.files.get_file(name=uploaded["name"])
    assert not [entry for entry in logged if entry["event"] == "grpc_answer_cut"]


def test_an_answer_comes_whole_and_in_pieces(rpc: Callers, logged: list[MutableMapping[str, Any]]) -> None:
    whole = rpc.generation.generate_content(ask(max_output_tokens=8))
    assert whole.candidates[0].content.parts[0].text == "twenty three"
    assert whole.usage_metadata.total_token_count == 9
    pieces = list(rpc.generation.stream_generate_content(ask()))
    assert [piece.candidates[0].content.parts[0].text for piece in pieces] == ["twenty ", "three"]
    assert pieces[-1].candidates[0].finish_reason is glm.Candidate.FinishReason.STOP
    assert rpc.generation.count_tokens(model=BASE, contents=ask("one two three")["contents"]).total_tokens == 3
    assert not [entry for entry in logged if entry["event"] == "grpc_answer_cut"]


def test_a_temperature_of_zero_stays_set(world: World, rpc: Callers) -> None:
    rpc.generation.generate_content(ask(temperature=0.0))
    rpc.generation.generate_content(ask())
    assert [request.sampling.temperature for request in world.generator.requests] == [0.0, 0.2]  # of the base


def test_wrong_fields_are_named_in_the_details(rpc: Callers) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refused:
        rpc.generation.generate_content(ask(temperature=9.0))
    (details,) = refused.value.details
    assert [v.field for v in details.field_violations] == ["generationConfig.temperature"]


@pytest.mark.parametrize("text", ["a" * 100_000, "中%" * 5000], ids=["plain", "encoded"])
def test_a_status_is_cut_to_what_a_trailer_carries(world: World, rpc: Callers, text: str) -> None:
    world.generator.error = InvalidArgument.of("contents", text)
    with pytest.raises(exceptions.InvalidArgument) as refused:
        rpc.generation.generate_content(ask())
    assert refused.value.message.startswith(f"contents: {text[:300]}")
    assert refused.value.message.endswith("…")
    assert not refused.value.details


def test_keys_are_judged_as_over_http(tmp_path: Any, store: Database) -> None:
    world = World(tmp_path, store, keys={"ada@example.org": "key-of-ada"})
    with speaking(world) as rpc:
        for metadata in [("x-goog-api-key", "key-of-ada")], [("authorization", "Bearer key-of-ada")]:
            assert list(rpc.models.list_models(metadata=metadata))
        with pytest.raises(exceptions.InvalidArgument) as wrong:
            rpc.models.list_models(metadata=[("x-goog-api-key", "another")])
        assert wrong.value.reason == "API_KEY_INVALID"
        with pytest.raises(exceptions.PermissionDenied, match="unregistered callers"):
            rpc.models.list_models()
        with pytest.raises(exceptions.Unauthenticated):
            rpc.models.list_models(metadata=[("authorization", "Bearer another")])


def test_a_stream_that_nobody_reads_on_ends(world: World, rpc: Callers) -> None:
    world.generator.words = ("on ",) * 1000
    release = threading.Event()
    world.generator.between = lambda: release.wait(DEADLINE_S)
    stream = rpc.generation.stream_generate_content(ask())
    next(iter(stream))
    stream.cancel()
    release.set()
    assert world.generator.closed.wait(DEADLINE_S)


def test_an_answer_past_its_deadline_is_given_up(world: World, rpc: Callers) -> None:
    world.generator.words = ("on ",) * 1000
    world.generator.between = lambda: threading.Event().wait(0.05)
    for timeout in (0.5, 2.0, 8.0):  # a busy machine may reach a short deadline before it begins to generate
        with pytest.raises(exceptions.DeadlineExceeded):
            rpc.generation.generate_content(ask(), timeout=timeout, retry=None)
        if world.generator.requests:
            break
    assert world.generator.closed.wait(DEADLINE_S)


def test_a_server_that_ends_ends_streams_as_unavailable(world: World, rpc: Callers) -> None:
    world.generator.between = world.closing.set
    stream = iter(rpc.generation.stream_generate_content(ask(), retry=None))
    next(stream)
    with pytest.raises(exceptions.ServiceUnavailable, match="shutting down"):
        list(stream)


def test_an_error_in_mid_stream_is_the_streams_status(world: World, rpc: Callers) -> None:
    world.generator.error, world.generator.fails_at = RuntimeError("a secret of ours"), 1
    stream = iter(rpc.generation.stream_generate_content(ask()))
    assert next(stream).candidates[0].content.parts[0].text == "twenty "
    with pytest.raises(exceptions.InternalServerError) as failed:
        next(stream)
    assert "secret" not in failed.value.message


def test_a_bug_is_told_by_a_request_id_that_the_log_has(
    world: World, rpc: Callers, logged: list[MutableMapping[str, Any]]
) -> None:
    world.generator.error = RuntimeError("a secret of ours")
    with pytest.raises(exceptions.InternalServerError) as failed:
        rpc.generation.generate_content(ask())
    (entry,) = [entry for entry in logged if entry["event"] == "request_failed"]
    assert "secret" not in failed.value.message
    assert "request_id" in failed.value.message
    assert entry["path"] == f"/{V1BETA}GenerativeService/GenerateContent"


def test_a_request_above_the_limit_is_refused_in_https_words(rpc: Callers) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=f"exceeds the limit: {GEMINI_API.max_body_bytes} bytes"):
        rpc.generation.generate_content(ask("x" * GEMINI_API.max_body_bytes))
    with pytest.raises(exceptions.ResourceExhausted):
        rpc.generation.generate_content(ask("x" * (GEMINI_API.max_body_bytes + 2 * 1024 * 1024)))


def test_bytes_that_are_no_message_are_refused(rpc: Callers) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        rpc.raw(f"{V1BETA}ModelService/GetModel", b"\xff\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "GetModelRequest" in refused.value.details()


@pytest.mark.parametrize(
    "method",
    [
        f"{V1BETA}GenerativeService/EmbedContent",
        "google.longrunning.Operations/WaitOperation",
        "google.ai.generativelanguage.v1.ModelService/GetTunedModel",
        "some.Other/Method",
    ],
)
def test_what_is_not_offered_is_unimplemented(rpc: Callers, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        rpc.raw(method, b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_other_versions_answer_what_their_messages_can_say(rpc: Callers, version: str) -> None:
    request = glm.GenerateContentRequest.serialize(glm.GenerateContentRequest(ask()))
    data = rpc.raw(f"google.ai.generativelanguage.{version}.GenerativeService/GenerateContent", request)
    answer = glm.GenerateContentResponse.deserialize(data)
    assert answer.candidates[0].content.parts[0].text == "twenty three"


def test_calls_are_logged_and_counted(world: World, logged: list[MutableMapping[str, Any]]) -> None:
    registry = CollectorRegistry()
    with speaking(world, registry) as rpc:
        list(rpc.models.list_models())
        with pytest.raises(exceptions.NotFound):
            rpc.models.get_model(name="models/none")
        world.active()
        rpc.models.delete_tuned_model(name="tunedModels/numbers")
    said = [
        (entry["path"].rpartition("/")[2], entry["status"], entry["log_level"])
        for entry in logged
        if entry["event"] == "request" and entry["method"] == "gRPC"
    ]
    assert said == [
        ("ListModels", "OK", "debug"),
        ("GetModel", "NOT_FOUND", "info"),
        ("DeleteTunedModel", "OK", "info"),
    ]
    labels = {"method": f"/{V1BETA}ModelService/GetModel", "code": "NOT_FOUND"}
    assert registry.get_sample_value("kastor_grpc_calls_total", labels) == 1


def test_a_status_says_the_same_as_its_trailer(rpc: Callers) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        rpc.raw(f"{V1BETA}ModelService/GetTunedModel", b"")
    packed = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (refused.value.code().value[0], refused.value.details())


def test_more_answers_at_a_time_than_there_are_places_are_put_off(world: World) -> None:
    release = threading.Event()
    world.generator.between = lambda: release.wait(DEADLINE_S)
    with speaking(world, max_generating=1) as rpc:
        begun = iter(rpc.generation.stream_generate_content(ask()))
        next(begun)
        with pytest.raises(exceptions.ServiceUnavailable, match="1 answers are under way"):
            rpc.generation.generate_content(ask(), retry=None)
        assert list(rpc.models.list_models())
        release.set()
        assert len(list(begun)) == 1
        assert rpc.generation.generate_content(ask()).candidates

"""The table of errors (gemini-api.md §4), row by row: the situation, the status, and the message that clients know."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from google.rpc import error_details_pb2

from kastor.domain.errors import ResourceExhausted, Unavailable
from support.api_world import ALIAS, World, tuning_body
from support.capture_replay import OWNER, add_model, finish, train
from support.google_messages import strict_error

KEY = "a-key"
CREATE = "/v1beta/tunedModels"
ONE_TURN = {"contents": [{"parts": [{"text": "1"}]}]}
OTHERS = "somebody@else.example"


def ask(world: World, method: str, target: str, **options: Any) -> httpx.Response:
    """The answer to the owner of the key."""
    return world.call(method, target, headers={"x-goog-api-key": KEY}, **options)


def generate(world: World, model: str, **changes: object) -> httpx.Response:
    return ask(world, "POST", f"/v1beta/{model}:generateContent", json=ONE_TURN | changes)


def generate_on_ready(world: World, **changes: object) -> httpx.Response:
    finish(world, add_model(world, "mine", "job1"))
    return generate(world, "tunedModels/mine", **changes)


def missing_file_of_another(world: World) -> httpx.Response:
    return ask(world, "GET", "/v1beta/files/none")


def model_of_another(world: World) -> httpx.Response:
    add_model(world, "theirs", "job1", owner=OTHERS)
    return ask(world, "GET", "/v1beta/tunedModels/theirs")


def taken_id(world: World) -> httpx.Response:
    add_model(world, "mine", "job1")
    return ask(world, "POST", f"{CREATE}?tunedModelId=mine", json=tuning_body())


def while_creating(world: World) -> httpx.Response:
    train(world, add_model(world, "mine", "job1"))
    return generate(world, "tunedModels/mine")


def engine_error(error: Exception) -> Callable[[World], httpx.Response]:
    def asked(world: World) -> httpx.Response:
        world.generator.error = error
        return generate(world, ALIAS)

    return asked


def with_credential(**headers: str) -> Callable[[World], httpx.Response]:
    return lambda world: world.call("GET", CREATE, headers=headers)


def create(**changes: object) -> Callable[[World], httpx.Response]:
    return lambda world: ask(world, "POST", CREATE, json=tuning_body(**changes))


def created_with(text: str) -> Callable[[World], httpx.Response]:
    return lambda world: ask(world, "POST", CREATE, content=text.encode("utf-8"))


def unknown_operation(world: World) -> httpx.Response:
    add_model(world, "mine", "job1")
    return ask(world, "GET", f"{CREATE}/mine/operations/nothing")


@dataclass(frozen=True, slots=True)
class Row:
    """A situation, and what the answer to it must say; `message` is a regular expression for its beginning."""

    situation: str
    asked: Callable[[World], httpx.Response]
    http: int
    status: str
    message: str
    field: str = ""  # that the BadRequest names
    reason: str = ""  # of the ErrorInfo


BAD, DENIED, MISSING = "INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND"
MANY = "x" * 4_194_305
JSON_MODE = {"generationConfig": {"responseMimeType": "application/json"}}
SYSTEM = {"systemInstruction": {"parts": [{"text": "s"}]}}
PAIRS = {"trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}]}}}
UNREGISTERED = r"Method doesn't allow unregistered callers \(callers without established identity\)"
UNKNOWN_FIELD = r"""Invalid JSON payload received\. Unknown name "x" at 'tuned_model': Cannot find field\.$"""

ROWS = (
    Row(
        "tuned model missing",
        lambda world: ask(world, "GET", f"{CREATE}/x"),
        *(404, MISSING, r"Tuned model tunedModels/x does not exist\.$"),
    ),
    Row(
        "base model missing",
        lambda world: generate(world, "models/x"),
        *(404, MISSING, r"There is no base model 'x' here\. There are: models/smollm2"),
    ),
    Row(
        "no right to a tuned model",
        model_of_another,
        *(403, DENIED, r"You do not have permission to access tuned model tunedModels/theirs"),
    ),
    Row(
        "file missing or foreign",
        missing_file_of_another,
        *(403, DENIED, r"You do not have permission to access the File none or it may not exist\.$"),
    ),
    Row("tunedModelId taken", taken_id, 409, "ALREADY_EXISTS", r"Tuned model tunedModels/mine already exists"),
    Row(
        "bad id",
        lambda world: ask(world, "POST", f"{CREATE}?tunedModelId=Bad!", json=tuning_body()),
        *(400, BAD, "tunedModelId: "),
        field="tunedModelId",
    ),
    Row("display name over 40", create(displayName="x" * 41), 400, BAD, "displayName: ", field="displayName"),
    Row(
        "no examples",
        create(tuningTask={}),
        *(400, BAD, "tuningTask.trainingData.examples.examples: there are no training examples"),
        field="tuningTask.trainingData.examples.examples",
    ),
    Row(
        "bad hyperparameter",
        create(tuningTask=PAIRS | {"hyperparameters": {"epochCount": 0}}),
        *(400, BAD, "tuningTask.hyperparameters.epochCount: "),
        field="tuningTask.hyperparameters.epochCount",
    ),
    Row(
        "example too long",
        create(examples=[{"textInput": "1", "output": "x" * 5_001}]),
        *(400, BAD, r"tuningTask.trainingData.examples.examples\[0\].output: "),
        field="tuningTask.trainingData.examples.examples[0].output",
    ),
    Row("body over 4 MiB", created_with(MANY), 400, BAD, r"Request payload size exceeds the limit: 4194304 bytes\.$"),
    Row("malformed JSON", created_with("{oops"), 400, BAD, r"Invalid JSON payload received\. "),
    Row("unknown field", create(x=1), 400, BAD, UNKNOWN_FIELD, field="tuned_model"),
    Row(
        "wrong API key",
        with_credential(**{"x-goog-api-key": "wrong"}),
        *(400, BAD, r"API key not valid\. Please pass a valid API key\.$"),
        reason="API_KEY_INVALID",
    ),
    Row("no credentials", with_credential(), 403, DENIED, UNREGISTERED),
    Row(
        "bad bearer token", with_credential(authorization="Bearer wrong"), 401, "UNAUTHENTICATED", "Request had invalid"
    ),
    Row(
        "generate while CREATING",
        while_creating,
        400,
        "FAILED_PRECONDITION",
        "Tuned model tunedModels/mine is not ready",
    ),
    Row(
        "JSON mode on a tuned model",
        lambda world: generate_on_ready(world, **JSON_MODE),
        *(400, BAD, "Json mode is not enabled for tunedModels/mine"),
        field="generationConfig.responseMimeType",
    ),
    Row(
        "systemInstruction where unsupported",
        lambda world: generate_on_ready(world, **SYSTEM),
        *(400, BAD, "Developer instruction is not enabled for tunedModels/mine"),
        field="systemInstruction",
    ),
    Row("quota", engine_error(ResourceExhausted("No memory left.")), 429, "RESOURCE_EXHAUSTED", "No memory left"),
    Row("overload", engine_error(Unavailable("Busy; try again.")), 503, "UNAVAILABLE", "Busy; try again"),
    Row("unknown operation", unknown_operation, 404, MISSING, "Operation tunedModels/mine/operations/nothing does not"),
    Row(
        "method not offered",
        lambda world: ask(world, "POST", "/v1beta/tunedModels/mine:generateText"),
        *(501, "UNIMPLEMENTED", "The method generateText is not offered"),
    ),
    Row(
        "no such route",
        lambda world: ask(world, "GET", "/v1beta/nothing"),
        404,
        MISSING,
        "There is no GET /v1beta/nothing",
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.situation.replace(" ", "-"))
def test_a_situation_of_the_table_has_its_status_and_message(row: Row, world_of: Callable[[str, str], World]) -> None:
    answer = row.asked(world_of("gemini-api", KEY))
    assert (answer.status_code, answer.json()["error"]["status"]) == (row.http, row.status), answer.text
    status = strict_error(answer.json(), row.http)
    assert re.match(row.message, status.message), status.message
    assert row.field in fields(status) if row.field else not fields(status)
    assert (row.reason in reasons(status)) if row.reason else True


def fields(status: Any) -> list[str]:
    """What the BadRequest among the details names."""
    found = error_details_pb2.BadRequest()
    return [v.field for detail in status.details if detail.Unpack(found) for v in found.field_violations]


def reasons(status: Any) -> list[str]:
    """What the ErrorInfos among the details say, which are all of Google's domain and name its service."""
    found = error_details_pb2.ErrorInfo()
    said = []
    for detail in status.details:
        if detail.Unpack(found):
            assert (found.domain, found.metadata["service"]) == ("googleapis.com", "generativelanguage.googleapis.com")
            said.append(found.reason)
    return said


def test_an_error_body_is_json_that_people_can_read(world_of: Callable[[str, str], World]) -> None:
    answer = ask(world_of("gemini-api", KEY), "GET", f"{CREATE}/x")
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    assert answer.text == json.dumps(answer.json(), indent=2) + "\n"


def test_the_owner_of_the_key_is_let_in(world_of: Callable[[str, str], World]) -> None:
    world = world_of("gemini-api", KEY)
    assert ask(world, "GET", CREATE).json() == {}
    assert world.keys == {OWNER: KEY}

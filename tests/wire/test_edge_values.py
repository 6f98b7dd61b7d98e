"""No number, text or nesting at an edge ends in a 5xx: in every field of every body, every query and every path."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kastor.api.http.openapi import openapi_document
from kastor.domain.request_limits import OPEN
from kastor.security.auth import Authenticator
from kastor.store.database import open_database
from support.api_world import BASE, World
from support.capture_replay import add_model, finish, train
from support.edge_values import VALUES, places, values, with_edge, words

VARIABLE = re.compile(r"\{(\w+)\}")
KNOWN = {"model": "ready", "operation": "job1", "job": "job1", "permission": "owner", "file": "seen"}
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 1, "maximum": 5},
        "b": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["a"],
    "minProperties": 1,
}
GOOGLE_SCHEMA = {
    "type": "OBJECT",
    "properties": {
        "a": {"type": "NUMBER", "minimum": 1},
        "b": {"type": "ARRAY", "minItems": 1, "items": {"type": "STRING", "enum": ["x"]}},
    },
}
CALL = {"name": "f", "args": {"a": 1}}
TURNS = [
    {"role": "user", "parts": [{"text": "x"}]},
    {"role": "model", "parts": [{"functionCall": CALL}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"b": [1.5]}}}]},
]
GENERATE: dict[str, Any] = {
    "contents": TURNS,
    "systemInstruction": {"parts": [{"text": "s"}]},
    "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": GOOGLE_SCHEMA}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
}
CONFIG = {
    "candidateCount": 1,
    "maxOutputTokens": 5,
    "temperature": 1,
    "topP": 0.5,
    "topK": 3,
    "seed": 7,
    "stopSequences": ["z"],
    "presencePenalty": 0.1,
    "frequencyPenalty": 0.1,
}
MEDIA = {
    "parts": [
        {
            "fileData": {"mimeType": "video/mp4", "fileUri": "files/x"},
            "videoMetadata": {"startOffset": "1s", "endOffset": "2.5s", "fps": 1},
        }
    ]
}
TUNING = {
    "displayName": "d", "description": "d", "baseModel": BASE, "temperature": 0.5, "topP": 0.5, "topK": 3,
    "tuningTask": {
        "hyperparameters": {"epochCount": 1, "batchSize": 2, "learningRate": 0.001},
        "trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}]}},
    },
}  # fmt: skip
BODIES: dict[str, list[Any]] = {
    "GenerateIn": [
        GENERATE | {"generationConfig": CONFIG},
        {
            "contents": TURNS[:1],
            "generationConfig": CONFIG | {"responseMimeType": "application/json", "responseSchema": GOOGLE_SCHEMA},
        },
        {
            "contents": TURNS[:1],
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        },
        {"contents": [MEDIA], "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}},
    ],
    "CountIn": [{"contents": TURNS}, {"generateContentRequest": GENERATE | {"model": BASE}}],
    "TunedModelIn": [
        TUNING,
        {"tunedModelSource": {"tunedModel": "tunedModels/ready"}} | {"tuningTask": TUNING["tuningTask"]},
    ],
    "NewJobIn": [
        {
            "dataset": "files/x",
            "baseModel": BASE,
            "profile": "open",
            "displayName": "d",
            "hyperparameters": {"epochCount": 1},
        }
    ],
    "TransferIn": [{"emailAddress": "ben@example.org"}],
    "Empty": [{}],
    "PermissionIn": [{"granteeType": "USER", "emailAddress": "ben@example.org", "role": "READER"}],
}
"""Requests that are right, by their messages: an edge in one field of them comes further than one in nonsense."""
RUN = settings(
    deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[World]:
    """A world with something in it, open to everybody, whose limits refuse little."""
    database = open_database(f"sqlite:///{migrated}")
    made = World(tmp_path_factory.mktemp("edges"), database, authenticator=Authenticator(no_auth=True), limits=OPEN)
    finish(made, add_model(made, "ready", "job1"))
    made.blobs.log("job1").parent.mkdir(parents=True, exist_ok=True)
    made.blobs.log("job1").write_text("{}\n")
    train(made, add_model(made, "training", "job2"))
    yield made
    database.close()


def operations(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every route, the versions that are the same left out."""
    found = openapi_document(world.app.routes)["paths"]
    assert isinstance(found, dict)
    return [
        (method.upper(), path, said)
        for path, methods in found.items()
        if not path.startswith(("/v1/", "/v1alpha/"))
        for method, said in methods.items()
    ]


def known_path(path: str) -> str:
    base = path.startswith("/v1beta/models/")
    return VARIABLE.sub(lambda name: "smollm2-135m-instruct" if base else KNOWN.get(name[1], "x"), path)


def check(world: World, method: str, target: str, body: str | None = None) -> None:
    content = None if body is None else body.encode("utf-8", "surrogatepass")
    answer = world.call(method, f"http://127.0.0.1{target}", content=content)
    told = answer.status_code < 500 or answer.json()["error"]["status"] in ("UNIMPLEMENTED", "UNAVAILABLE", "DATA_LOSS")
    assert told, (  # the last: this world's models have no files
        method,
        target,
        body and body[:300],
        answer.text[:500],
    )


def test_edges_in_paths_and_queries(world: World) -> None:
    for method, path, said in operations(world):
        ask_target(world, method, path, said)


def ask_target(world: World, method: str, path: str, said: dict[str, Any]) -> None:
    names = [one["name"] for one in said["parameters"] if one["in"] == "query"]

    @settings(RUN, max_examples=30)
    @given(word=words, in_path=st.booleans(), name=st.sampled_from([*names, "key", "alt", "\0"]))
    def ask(word: str, in_path: bool, name: str) -> None:
        written = quote(word.encode("utf-8"), safe="")
        if in_path and VARIABLE.search(path) and method != "DELETE":
            check(world, method, VARIABLE.sub(lambda _: written or "%20", path))
        else:
            check(world, method, f"{known_path(path)}?{quote(name)}={written}") if method == "GET" else None

    ask()
    for word in ("999999999999999999", "9" * 19, "9" * 400, "-1", "1e400"):  # each number in each parameter
        for name in names:
            if method == "GET":
                check(world, method, f"{known_path(path)}?{name}={word}")


def test_edges_in_every_field_of_every_body(world: World) -> None:
    asked = 0
    for method, path, said in operations(world):
        schema = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for body in BODIES.get(schema.get("$ref", "").rpartition("/")[2], ()):
            asked += ask_body(world, method, known_path(path), body, each=60)
    assert asked > 1000


@pytest.mark.slow
def test_every_edge_in_every_field(world: World) -> None:
    for method, path, said in operations(world):
        schema = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for body in BODIES.get(schema.get("$ref", "").rpartition("/")[2], ()):
            for place in places(body):
                for raw in VALUES:
                    check(world, method, known_path(path), with_edge(body, place, raw))


def ask_body(world: World, method: str, target: str, body: Any, *, each: int) -> int:
    all_places = list(places(body))
    count = 0

    @settings(RUN, max_examples=each)
    @given(place=st.sampled_from(all_places), raw=values)
    def ask(place: tuple[str | int, ...], raw: str) -> None:
        nonlocal count
        count += 1
        check(world, method, target, with_edge(body, place, raw))

    ask()
    return count


def test_the_bodies_are_right_as_they_are_and_every_message_has_one(world: World) -> None:
    takers = set()
    for *_, said in operations(world):
        schema = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if schema:
            takers.add(schema["$ref"].rpartition("/")[2])
    assert takers <= BODIES.keys() | {"UploadIn"}  # a file in parts, which is no JSON

"""Requests made up from the description of the API: none ends in a 5xx, and every answer is one that was promised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kastor.api.http.openapi import openapi_document
from kastor.security.auth import Authenticator
from kastor.store.database import open_database
from support.api_world import World
from support.capture_replay import add_model, finish, train
from support.google_messages import strict_error

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
VERSION = ("/v1beta/", "/kastor/v1/")  # the other versions are the same handlers
KNOWN = {
    "model": "ready",
    "tunedModels": "ready",
    "operation": "job1",
    "models": "smollm2-135m-instruct",
    "job": "job1",
}
"""What is there, so that not every made-up request ends at a name that nothing has."""
PARALLEL = settings(
    deadline=None,
    derandomize=True,  # the same requests in each run
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[World]:
    """A world with something in it, open to everybody."""
    database = open_database(f"sqlite:///{migrated}")
    made = World(tmp_path_factory.mktemp("data"), database, authenticator=Authenticator(no_auth=True))
    finish(made, add_model(made, "ready", "job1"))
    train(made, add_model(made, "training", "job2"))
    assert made.call("GET", "http://127.0.0.1/v1beta/tunedModels/ready/operations/job1").json()["done"]
    yield made
    database.close()


def test_no_made_up_request_ends_in_a_server_error_or_an_answer_that_is_not_promised(world: World) -> None:
    assert asked_all(world, each=8) > 250


@pytest.mark.slow
def test_nor_does_one_of_very_many(world: World) -> None:
    assert asked_all(world, each=300) > 15_000


def asked_all(world: World, *, each: int) -> int:
    """How many requests were asked: up to `each` right and as many wrong ones of every method."""
    schema = schemathesis.openapi.from_dict(openapi_document(world.app.routes))
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if not operation.path.startswith(VERSION):
            continue
        for mode in MODES if operation.body else MODES[:1]:  # any text is right for a query
            count += asked_some(world, operation, mode, each)
    return count


def asked_some(world: World, operation: Any, mode: schemathesis.GenerationMode, each: int) -> int:
    """The same for one method and one kind of requests."""
    count = 0

    @settings(PARALLEL, max_examples=each)
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def ask(case: schemathesis.Case, known: bool) -> None:
        nonlocal count
        count += 1
        if known and operation.method != "delete":
            case.path_parameters |= {name: KNOWN[name] for name in case.path_parameters if name in KNOWN}
        answer = sent(world, case)
        note(f"{answer.request.method} {answer.request.url} {answer.request.content!r}: {answer.text}")
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            strict_error(answer.json(), answer.status_code)

    try:
        ask()
    except Unsatisfiable:  # of a method that any text is right for, no wrong request can be made
        assert mode is schemathesis.GenerationMode.NEGATIVE
    return count


def sent(world: World, case: schemathesis.Case) -> httpx.Response:
    """The answer to the case, through our own client: the same bytes that `requests` would send."""
    request = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1")).prepare()
    headers = [(name.encode("latin-1"), _bytes(value)) for name, value in request.headers.items()]
    body = request.body.encode("utf-8") if isinstance(request.body, str) else request.body
    return world.call(str(request.method), str(request.url), headers=headers, content=body)


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1", "replace") if isinstance(value, str) else value

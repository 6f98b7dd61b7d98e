"""The description of the API is whole, agrees with the routes, and what it promises is kept."""

import json
import re
from typing import Any

import pytest
from starlette.routing import Route

from kastor.api.http.openapi import documented_routes, openapi_document
from kastor.domain.errors import Code
from support.api_world import World

TOLD_ELSEWHERE = ("/healthz", "/metrics", "/openapi.json", "/$discovery/rest", "/upload/", "/resumable/")


@pytest.fixture
def told(world: World) -> dict[str, Any]:
    """The document, as JSON says it."""
    answer = world.call("GET", "/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def test_every_route_is_told_of_but_those_with_a_description_of_their_own(world: World) -> None:
    known = {route.path for route, _ in documented_routes(world.app.routes)}
    others = {route.path for route in world.app.routes if isinstance(route, Route)} - known
    assert [path for path in sorted(others) if not path.startswith(TOLD_ELSEWHERE)] == []


def test_every_method_has_a_name_of_its_own(told: dict[str, Any]) -> None:
    ids = [method["operationId"] for path in told["paths"].values() for method in path.values()]
    assert len(ids) == len(set(ids))
    assert {"v1beta.tunedModels.create", "v1.operations.get", "v1alpha.models.streamGenerateContent"} <= set(ids)


def test_every_message_that_is_named_is_there(told: dict[str, Any]) -> None:
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(told)))
    assert named == told["components"]["schemas"].keys()


def test_the_versions_say_the_same(told: dict[str, Any]) -> None:
    def of(version: str) -> str:
        paths = {path: value for path, value in told["paths"].items() if path.startswith(f"/{version}/")}
        return json.dumps(paths).replace(f"/{version}/", "/v/").replace(f'"{version}', '"v')

    assert of("v1") == of("v1beta") == of("v1alpha")


def test_it_asks_for_no_key(world: World) -> None:
    locked = World(world.folder, world.database, keys={"ada@example.org": "secret"})
    assert locked.call("GET", "/openapi.json").status_code == 200


def test_every_code_of_the_error_table_is_a_status_of_every_method(world: World) -> None:
    paths: Any = openapi_document(world.app.routes)["paths"]
    statuses = {"200", "400", "401", "403", "404", "409", "429", "501", "503"}
    assert len(Code) == 12
    assert all(method["responses"].keys() == statuses for path in paths.values() for method in path.values())

"""What pages of other sites may do: nothing, unless the operator named them."""

import httpx
import pytest

from kastor.store.database import Database
from support.api_world import World

APP = "https://app.example"
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-goog-api-key,x-goog-upload-command",
}
KEY = {"x-goog-api-key": "key-of-ada"}


def with_origins(world: World, store: Database, *origins: str) -> World:
    return World(world.folder, store, keys={"ada@example.org": "key-of-ada"}, cors_origins=origins)


def allowed(answer: httpx.Response) -> str | None:
    """The pages that a browser lets read this answer."""
    return answer.headers.get("access-control-allow-origin")


def test_no_page_is_allowed_by_default(world: World, store: Database) -> None:
    locked = with_origins(world, store)
    assert allowed(locked.call("GET", "/v1/tunedModels", headers=KEY | {"Origin": APP})) is None
    assert allowed(locked.call("OPTIONS", "/v1/tunedModels", headers=PREFLIGHT)) is None


@pytest.mark.parametrize("origins", [(APP,), ("http://other.example", APP), ("*",)])
def test_a_named_page_asks_beforehand_without_a_key(world: World, store: Database, origins: tuple[str, ...]) -> None:
    answer = with_origins(world, store, *origins).call("OPTIONS", "/v1/tunedModels", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert allowed(answer) in (APP, "*")
    assert set(answer.headers["access-control-allow-methods"].split(", ")) >= {"GET", "POST", "PATCH", "DELETE", "PUT"}
    listed = answer.headers["access-control-allow-headers"].lower()
    assert "x-goog-api-key" in listed and "x-goog-upload-command" in listed


def test_a_page_reads_the_headers_of_uploads_and_logs(world: World, store: Database) -> None:
    answer = with_origins(world, store, APP).call("GET", "/v1/tunedModels", headers=KEY | {"Origin": APP})
    assert (answer.status_code, allowed(answer)) == (200, APP)
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert exposed >= {"x-goog-upload-url", "x-goog-upload-status", "x-kastor-next-offset"}


def test_a_page_reads_refusals_too(world: World, store: Database) -> None:
    answer = with_origins(world, store, APP).call("GET", "/v1/tunedModels", headers={"Origin": APP})
    assert (answer.status_code, allowed(answer)) == (403, APP)


def test_a_page_that_is_not_named_is_not_allowed(world: World, store: Database) -> None:
    locked = with_origins(world, store, APP)
    answer = locked.call("GET", "/v1/tunedModels", headers=KEY | {"Origin": "https://evil.example"})
    assert allowed(answer) is None
    refused = locked.call("OPTIONS", "/v1/tunedModels", headers=PREFLIGHT | {"Origin": "https://evil.example"})
    assert refused.status_code == 400 and allowed(refused) is None


def test_without_keys_a_named_page_may_use_the_server_and_others_may_not(world: World, store: Database) -> None:
    door = World(world.folder, store, cors_origins=(APP,))
    assert allowed(door.call("GET", "/v1/tunedModels", headers={"Origin": APP})) == APP
    assert door.call("OPTIONS", "/v1/tunedModels", headers=PREFLIGHT).status_code == 200
    assert door.call("GET", "/v1/tunedModels", headers={"Origin": "https://evil.example"}).status_code == 403


def test_cookies_are_never_asked_for(world: World, store: Database) -> None:
    answer = with_origins(world, store, "*").call("OPTIONS", "/v1/tunedModels", headers=PREFLIGHT)
    assert "access-control-allow-credentials" not in answer.headers

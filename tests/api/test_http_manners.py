"""What every route shares: credentials, limits, unknown routes, bugs, logs, metrics."""

import gzip
import json
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Route

from kastor.api.http.endpoint import RouteFactory
from kastor.api.http.observability import healthz
from kastor.domain.errors import Unavailable
from kastor.security.auth import Authenticator
from kastor.store.database import Database
from support.api_world import BASE, Client, World, error_of, fields_of, listening, raised, tuning_body

LIMIT = 4 * 1024 * 1024
BODY = {"contents": [{"parts": [{"text": "x"}]}]}
SAID = "Request payload size exceeds the limit: 4194304 bytes."


@pytest.fixture
def locked(world: World, store: Database) -> World:
    return World(world.folder, store, keys={"ada@example.org": "key-of-ada"})


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1/tunedModels", {"x-goog-api-key": "key-of-ada"}),
        ("/v1/tunedModels?key=key-of-ada", {}),
        ("/v1/tunedModels", {"Authorization": "Bearer key-of-ada", "x-goog-user-project": "p"}),
        ("/v1/tunedModels?access_token=key-of-ada", {}),
        ("/kastor/v1/jobs", {"x-goog-api-key": "key-of-ada"}),
        ("/healthz", {}),
    ],
)
def test_a_key_in_any_place_lets_in(locked: World, target: str, headers: dict[str, str]) -> None:
    assert locked.call("GET", target, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("target", "headers", "status", "reason"),
    [
        ("/v1/tunedModels", {}, 403, "PERMISSION_DENIED"),
        ("/v1/tunedModels?key=wrong", {}, 400, "INVALID_ARGUMENT"),
        ("/v1/tunedModels", {"Authorization": "Bearer wrong"}, 401, "UNAUTHENTICATED"),
        ("/kastor/v1/jobs", {}, 403, "PERMISSION_DENIED"),
    ],
)
def test_a_wrong_or_missing_key_gets_googles_answer(
    locked: World, target: str, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = locked.call("GET", target, headers=headers)
    assert (answer.status_code, error_of(answer)["status"]) == (status, reason)
    if "key=wrong" in target:
        (detail,) = error_of(answer)["details"]
        assert (detail["reason"], detail["domain"]) == ("API_KEY_INVALID", "googleapis.com")


def test_a_key_is_checked_before_a_body_is_read(locked: World) -> None:
    assert locked.call("POST", "/v1/tunedModels", content=b"x" * (LIMIT + 1)).status_code == 403


def test_keys_never_reach_the_log(locked: World, logged: list[MutableMapping[str, Any]]) -> None:
    locked.generator.error = ValueError("a bug")
    locked.call("GET", "/v1/tunedModels?pageToken=zz?key=key-of-ada")
    locked.call("POST", f"/v1/{BASE}:generateContent?key=key-of-ada", json={"contents": [{"parts": [{"text": "x"}]}]})
    assert {entry["event"] for entry in logged} == {"request", "request_failed"}
    assert "key-of-ada" not in str(logged)


def test_a_request_is_logged_with_what_an_operator_needs(world: World, logged: list[MutableMapping[str, Any]]) -> None:
    answer = world.call("POST", "/v1/tunedModels", json=tuning_body())
    (entry,) = logged
    said = (entry["event"], entry["log_level"], entry["method"], entry["path"], entry["status"])
    assert said == ("request", "info", "POST", "/v1/tunedModels", 200)
    assert entry["ms"] > 0
    assert len(answer.headers["x-request-id"]) == 16


def test_what_polling_clients_ask_is_logged_at_debug_and_at_info_where_it_fails(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    operation = world.call("POST", "/v1beta/tunedModels", json=tuning_body()).json()
    job = operation["name"].rpartition("/")[2]
    logged.clear()
    polled = [f"/v1beta/{operation['name']}", f"/v1/{operation['metadata']['tunedModel']}", f"/kastor/v1/jobs/{job}"]
    for path in (*polled, "/kastor/v1/jobs", f"/kastor/v1/jobs/{job}/log", "/healthz", "/v1beta/tunedModels/none"):
        world.call("GET", path)
    levels = [(entry["log_level"], entry["status"]) for entry in logged]
    assert levels == [("debug", 200)] * 6 + [("info", 404)]


def test_the_owner_is_whose_key_it_was(locked: World) -> None:
    locked.call("POST", "/v1/tunedModels?tunedModelId=mine&key=key-of-ada", json=tuning_body())
    assert locked.models.get("mine").owner == "ada@example.org"


def test_a_body_at_the_limit_passes_and_one_above_is_refused(world: World) -> None:
    def body(size: int) -> bytes:
        filler = size - len(json.dumps(tuning_body(description="")))
        return json.dumps(tuning_body(description="x" * filler)).encode()

    assert world.call("POST", "/v1/tunedModels", content=body(LIMIT)).status_code == 200
    answer = world.call("POST", "/v1/tunedModels", content=body(LIMIT + 1))
    assert (answer.status_code, error_of(answer)["message"]) == (400, SAID)


def encoded(world: World, content: bytes, encoding: str, path: str = "/v1/tunedModels") -> httpx.Response:
    return world.call("POST", path, content=content, headers={"Content-Encoding": encoding})


PACKED = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", ["identity", "", *PACKED])
def test_an_encoded_body_is_read(world: World, encoding: str) -> None:
    body = json.dumps(tuning_body(description="packed")).encode()
    answer = encoded(world, PACKED.get(encoding, bytes)(body), encoding)
    assert answer.status_code == 200, answer.text
    (model,) = world.call("GET", "/v1/tunedModels").json()["tunedModels"]
    assert model["description"] == "packed"


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "x" * 500])
@pytest.mark.parametrize("path", ["/v1/tunedModels", "/upload/v1beta/files"])
def test_an_encoding_that_is_not_offered_is_named(world: World, encoding: str, path: str) -> None:
    answer = encoded(world, b"x", encoding, path)
    assert (answer.status_code, error_of(answer)["status"]) == (400, "INVALID_ARGUMENT")
    assert f"Content-Encoding '{encoding[:40]}' is not offered" in error_of(answer)["message"]


def test_an_upload_is_kept_as_it_is_so_none_is_encoded(world: World) -> None:
    said = error_of(encoded(world, gzip.compress(b"x"), "gzip", "/upload/v1beta/files"))["message"]
    assert said == "Content-Encoding 'gzip' is not offered for uploads; send the file as it is."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "is not in gzip"),
        (gzip.compress(b"{}")[:-3], "ends too early"),
        (gzip.compress(b"{}" * 1000)[:20], "ends too early"),
        (gzip.compress(b"{}") + b"x", "goes on after its end"),
        (gzip.compress(b"{}") * 1000, "goes on after its end"),
    ],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused_at_once(world: World, content: bytes, said: str) -> None:
    with listening(world) as url:
        headers, began = {"Content-Encoding": "gzip"}, time.monotonic()
        answer = httpx.post(f"{url}/v1/tunedModels", content=content, headers=headers)
        assert (answer.status_code, time.monotonic() - began < 4) == (400, True)
    assert said in error_of(answer)["message"]


def test_a_small_body_that_unpacks_to_a_large_one_is_held_to_the_limit(world: World) -> None:
    content = gzip.compress(b" " * (64 * LIMIT))
    tracemalloc.start()
    answer = encoded(world, content, "gzip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (answer.status_code, error_of(answer)["message"]) == (400, SAID)
    assert peak < 4 * LIMIT, f"{peak:,} bytes"


def test_a_body_of_untold_length_is_refused_over_a_socket_and_the_answer_arrives(world: World) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            yield b"x" * (1024 * 1024)

    with listening(world) as url:
        for content in (pieces(), b"x" * (12 * 1024 * 1024)):
            answer = httpx.post(f"{url}/v1/tunedModels", content=content, timeout=20)
            assert (answer.status_code, error_of(answer)["message"]) == (400, SAID)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", None])
def test_the_content_type_does_not_matter(world: World, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = world.call("POST", "/v1/tunedModels", content=json.dumps(tuning_body()).encode(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v2/tunedModels", 404),
        ("POST", "/v1/models/x:embedContent", 404),
        ("POST", "/v1/tunedModels/x:embedContent", 501),
        ("POST", "/v1/tunedModels/x/operations/y:wait", 501),
        ("GET", "/v1/tunedModels/", 404),
        ("POST", "/v1/tunedModels/:cancel", 404),
        ("PUT", "/v1/tunedModels", 404),
        ("POST", "/healthz", 404),
        ("GET", "/kastor/v1/nothing", 404),
        ("GET", "/v1/tunedModels/x/permissions", 404),
        ("GET", "/v1/" + "%00" * 9, 404),
        ("GET", "/v1/tunedModels/..%2f..%2fetc", 404),
    ],
)
def test_an_unknown_route_is_refused_in_googles_shape(world: World, method: str, target: str, status: int) -> None:
    answer = world.call(method, target)
    assert answer.status_code == status
    error_of(answer)


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_is_told_in_words_what_is_here(world: World) -> None:
    for path, status in (("/", 200), ("/index.html", 404), ("/v1/projects/p/locations/l/tuningJobs", 404)):
        answer = world.call("GET", path, headers=BROWSER)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
        assert answer.text.startswith("This is Kastor: it tunes open models") and "/v1beta/models" in answer.text
    assert world.call("GET", "/v1beta/models", headers=BROWSER).json()["models"], "what has a route is answered by it"


def test_a_client_is_told_what_is_here_in_googles_shape(world: World) -> None:
    for path in ("/", "/favicon.ico", "/v2/tunedModels"):
        answer = world.call("GET", path)
        assert answer.status_code == 404
        assert f"There is no GET {path} here. This is Kastor" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/projects/p/locations/us-central1/tuningJobs",
        "/v1beta1/projects/p/locations/l/publishers/google/models/gemini-2.0-flash-001:generateContent",
        "/v1beta1/publishers/google/models/gemini-2.0-flash-001:generateContent",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_vertex_path_is_told_what_to_do_instead(world: World, method: str, path: str) -> None:
    answer = world.call(method, path)
    assert (answer.status_code, error_of(answer)["status"]) == (404, "NOT_FOUND")
    assert "a path of Vertex AI; this server speaks the Gemini API" in error_of(answer)["message"]
    assert "without vertexai=True" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models/gemini-2.5-flash", "aliases of open bases"),
        ("Qwen/Qwen3-0.6B", 'kind = "hub", repo = '),
        ("models/smollm2-135-instruct", "Near names: models/smollm2-135m-instruct"),
        ("SmolLM2-135M-Instruct", "Near names: models/smollm2-135m-instruct"),
        ("~/models/mine", 'kind = "folder", path = '),
        ("x" * 5000, "There are: models/smollm2"),
    ],
)
def test_a_base_that_is_not_here_is_told_how_it_gets_here(world: World, name: str, said: str) -> None:
    answers = [world.call("POST", "/v1beta/tunedModels", json=tuning_body(baseModel=name))]
    if not name.startswith("~"):
        path = f"/v1beta/models/{name.removeprefix('models/')}"
        answers += [world.call("GET", path), world.call("POST", f"{path}:generateContent", json=BODY)]
        if "/" in name:
            answers.append(world.call("POST", f"/v1beta/{name}:generateContent", json=BODY))
    for answer in answers:
        message = error_of(answer)["message"]
        assert answer.status_code in (400, 404) and said in message and len(message) < 800
        assert "KASTOR_CATALOG_FILE" in message and "API version" not in message


@pytest.mark.parametrize(
    "path", ["cachedContents/abc", "batches/123", "chat/completions", "fine_tuning/jobs", "corpora/a:query"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_of_another_collection_is_not_taken_for_the_name_of_a_base(world: World, method: str, path: str) -> None:
    answer = world.call(method, f"/v1beta/{path}")
    assert answer.status_code in (404, 501)
    assert "base model" not in error_of(answer)["message"]
    assert path.partition(":")[0] in error_of(answer)["message"]


def test_a_method_that_models_do_not_have_is_refused_as_google_does(world: World) -> None:
    message = error_of(world.call("POST", "/v1beta/models/x:batchEmbedContents"))["message"]
    assert message.startswith(
        "models/x is not found for API version v1beta, or is not supported for batchEmbedContents."
    )


@pytest.mark.parametrize("query", ["colour=blue", "fields=name", "callback=f", "view=full"])
def test_a_parameter_that_is_not_honoured_is_refused_by_name(world: World, query: str) -> None:
    answer = world.call("GET", f"/v1/tunedModels?{query}")
    assert answer.status_code == 400
    assert fields_of(answer) == [query.partition("=")[0]]


def test_parameters_of_googles_front_end_are_let_through(world: World) -> None:
    query = "quotaUser=u&%24.xgafv=2&alt=json&%24alt=json%3Benum-encoding%3Dint&uploadType=x&prettyPrint=true"
    assert world.call("GET", f"/v1/tunedModels?{query}").status_code == 200


def test_a_bug_is_a_500_that_says_nothing_but_where_to_look(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    world.generator.error = ValueError("secret detail")
    answer = world.call("POST", f"/v1/{BASE}:generateContent", json={"contents": [{"parts": [{"text": "x"}]}]})
    assert (answer.status_code, error_of(answer)["status"]) == (500, "INTERNAL")
    assert answer.headers["x-request-id"] in error_of(answer)["message"]
    assert "secret" not in answer.text
    (failure,) = (entry for entry in logged if entry["event"] == "request_failed")
    assert failure["log_level"] == "error" and failure["exc_info"]
    assert world.call("GET", "/v1/tunedModels").status_code == 200


def test_a_database_that_cannot_be_used_is_unavailable_and_says_so(world: World) -> None:
    def broken(*_: object, **__: object) -> None:
        raise raised(Unavailable)

    world.jobs.add = broken  # type: ignore[method-assign]
    answer = world.call("POST", "/v1/tunedModels", json=tuning_body())
    assert (answer.status_code, error_of(answer)["status"]) == (503, "UNAVAILABLE")
    assert list((world.folder / "jobs").iterdir()) == []


def test_metrics_count_jobs_steps_and_requests_by_route_not_by_name(world: World) -> None:
    world.active("one")
    world.create("two")
    text = world.call("GET", "/metrics").text
    assert 'kastor_jobs{state="SUCCEEDED"} 1.0' in text and 'kastor_jobs{state="QUEUED"} 1.0' in text
    assert "kastor_steps 19.0" in text
    assert 'kastor_http_requests_total{method="POST",route="/v1beta/tunedModels",status="200"} 2.0' in text
    assert 'kastor_http_request_seconds_count{method="POST",route="/v1beta/tunedModels"} 2.0' in text
    world.call("GET", "/v1/tunedModels/one")
    assert 'route="/v1/tunedModels/{model}"' in world.call("GET", "/metrics").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), ({"x-goog-api-key": "wrong"}, 400), ({"x-goog-api-key": "key-of-ada"}, 403)],
)
def test_metrics_are_closed_to_all_but_operators(locked: World, headers: dict[str, str], status: int) -> None:
    refused = locked.call("GET", "/metrics", headers=headers)
    assert refused.status_code == status
    assert error_of(refused)["code"] == status


def test_metrics_open_to_an_operators_key_in_any_place(world: World, store: Database) -> None:
    doors = Authenticator({"ada@example.org": "key-of-ada"}, operators=["ada@example.org"])
    watched = World(world.folder, store, authenticator=doors)
    for target, headers in (
        ("/metrics", {"x-goog-api-key": "key-of-ada"}),
        ("/metrics", {"Authorization": "Bearer key-of-ada"}),
        ("/metrics?key=key-of-ada", {}),
    ):
        assert "kastor_jobs{" in watched.call("GET", target, headers=headers).text


def test_metrics_open_to_everybody_where_the_operator_says_so(world: World, store: Database) -> None:
    public = World(world.folder, store, keys={"ada@example.org": "key-of-ada"}, public_metrics=True)
    assert "kastor_jobs{" in public.call("GET", "/metrics").text


def test_health_tells_version_and_instance(world: World) -> None:
    assert world.call("GET", "/healthz").json() == {"status": "ok", "version": "0.1.0", "instance": "this-one"}


def test_health_tells_what_does_not_answer_and_stays_an_answer(world: World) -> None:
    faults: list[str] = []
    tell = healthz("this-one", lambda: faults)
    client = Client(Starlette(routes=[Route("/healthz", tell)]))
    assert client("GET", "/healthz").json()["status"] == "ok"
    faults.append("The database does not answer.")
    told = client("GET", "/healthz")
    assert told.status_code == 200
    assert told.json() == {"status": "degraded", "version": "0.1.0", "instance": "this-one", "faults": faults}


def test_many_slow_answers_leave_room_for_quick_ones(world: World) -> None:
    release = threading.Event()
    world.generator.between = lambda: release.wait(20)
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    with listening(world) as url, httpx.Client(timeout=30) as client:
        target = f"{url}/v1/{BASE}:generateContent"
        threads = [threading.Thread(target=client.post, args=(target,), kwargs={"json": body}) for _ in range(50)]
        for thread in threads:
            thread.start()
        while len(world.generator.requests) < 50:
            time.sleep(0.01)
        assert client.get(f"{url}/v1/tunedModels").status_code == 200
        release.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1", 200)]
)
def test_without_keys_a_page_of_another_site_may_not_use_the_server(world: World, origin: str, status: int) -> None:
    answer = world.call("GET", "/v1/tunedModels", headers={"Origin": origin, "Host": "127.0.0.1:8080"})
    assert answer.status_code == status


def test_with_keys_the_key_decides_whatever_the_page(locked: World) -> None:
    headers = {"Origin": "https://app.example", "x-goog-api-key": "key-of-ada"}
    assert locked.call("GET", "/v1/tunedModels", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/tunedModels", "/healthz", "/metrics", "/nothing"])
def test_without_keys_a_name_pointed_here_by_somebody_gets_nothing(world: World, path: str) -> None:
    refused = world.call("GET", path, headers={"Host": "evil.example:8080"})
    assert refused.status_code == 403
    assert "kastor keys create" in error_of(refused)["message"]
    assert world.call("GET", path, headers={"Host": "127.0.0.1:8080"}).status_code != 403


def test_with_keys_any_name_of_the_server_will_do(locked: World) -> None:
    headers = {"Host": "kastor.example", "x-goog-api-key": "key-of-ada"}
    assert locked.call("GET", "/v1/tunedModels", headers=headers).status_code == 200


def test_other_requests_are_answered_while_a_packed_body_is_unpacked() -> None:
    shared = RouteFactory(Authenticator({}, no_auth=True), 128 << 20, threading.Event())
    packed, turns = gzip.compress(bytes(100 << 20)), 0

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": packed, "more_body": False}

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.001)
            turns += 1

    async def unpack() -> bytes:
        async with anyio.create_task_group() as group:
            group.start_soon(others)
            await anyio.sleep(0.005)
            before = turns
            body = await shared.body(Headers({"content-encoding": "gzip"}), receive)
            assert turns - before > 3
            group.cancel_scope.cancel()
        return body

    assert len(anyio.run(unpack)) == 100 << 20

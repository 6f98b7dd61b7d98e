"""What comes before a request is read is bounded: an endless header ends its connection, and nobody else's."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from kastor.server.http_protocol import MAX_HEAD_BYTES, LimitedHttpProtocol
from support.api_world import World, tuning_body

UPGRADES = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",  # curl --http2, Java
    "Connection: Upgrade\r\nUpgrade: websocket\r\n",
)


@pytest.fixture
def address(world: World) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(world.app, port=0, log_config=None, lifespan="off", ws="none", http=LimitedHttpProtocol)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def received(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def test_an_endless_header_is_refused_and_the_connection_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                connection.sendall(b"a" * 65536)
        assert received(connection)[:13] in (b"HTTP/1.1 431 ", b"")  # a reset may overtake the answer
    assert httpx.get(f"http://localhost:{address[1]}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"speaks HTTP/1.1, not HTTP/2. gRPC has a port of its own"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"speaks HTTP without TLS: write http:// for https://"),
        (b"\x00\x01\x02", b"Invalid HTTP request received"),
    ],
)
def test_a_client_of_another_protocol_is_told_which_port_it_met(
    address: tuple[str, int], start: bytes, said: bytes
) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(start)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") and said in answer
    assert httpx.get(f"http://localhost:{address[1]}/healthz").status_code == 200


def test_a_grpc_client_that_meets_the_http_port_is_told_so(address: tuple[str, int]) -> None:
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(f"localhost:{address[1]}") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/google.ai.generativelanguage.v1beta.ModelService/ListModels")(b"", timeout=10)
    assert "http1" in refused.value.details().lower()


def test_long_heads_and_large_bodies_on_one_connection_are_read(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://localhost:{address[1]}") as client:
        for _ in range(3):
            assert client.get("/healthz", headers={"X-Long": "a" * (MAX_HEAD_BYTES // 2)}).status_code == 200
            answer = client.post("/v1beta/tunedModels", content=b" " * 1_000_000)
            assert answer.status_code == 400
            assert "The body is empty" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "start", [b"GET /", b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
def test_neither_a_request_line_nor_trailers_are_without_end(address: tuple[str, int], start: bytes) -> None:
    with socket.create_connection(address) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for piece in [start, *([b"a" * 65536] * 200)]:
            connection.sendall(piece)


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_wish_to_upgrade_is_passed_over_and_the_body_read(
    address: tuple[str, int], upgrade: str, at_once: bool
) -> None:
    body = json.dumps(tuning_body()).encode()
    head = f"POST /v1/tunedModels HTTP/1.1\r\nHost: localhost\r\n{upgrade}Content-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(address) as connection:
        for piece in [head + body] if at_once else [head, body]:
            connection.sendall(piece)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = received(connection)
    assert said.startswith(b"HTTP/1.1 200"), said
    assert b'"totalSteps"' in said
    assert b'"instance"' in said  # the connection goes on

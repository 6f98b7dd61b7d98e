"""What comes before a request is read is bounded: an endless header ends its connection, and nobody else's."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from api_world import World
from kastor.api.http_protocol import MAX_HEAD_BYTES, BoundedHttp


@pytest.fixture
def address(world: World) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(world.app, port=0, log_config=None, lifespan="off", ws="none", http=BoundedHttp)
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


def test_long_heads_and_large_bodies_on_one_connection_are_read(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://localhost:{address[1]}") as client:
        for _ in range(3):
            assert client.get("/healthz", headers={"X-Long": "a" * (MAX_HEAD_BYTES // 2)}).status_code == 200
            answer = client.post("/v1beta/tunedModels", content=b" " * 1_000_000)
            assert answer.status_code == 400
            assert "The body is empty" in answer.json()["error"]["message"]

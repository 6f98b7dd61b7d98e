"""The parser under the application, on a socket: heads are bounded, and a wish to upgrade is passed over."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from api_world import World, listening, tuning_body
from kastor.api.protocol import MAX_HEAD_BYTES

UPGRADES = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",  # curl --http2, Java
    "Connection: Upgrade\r\nUpgrade: websocket\r\n",
)


@pytest.fixture
def connection(world: World) -> Iterator[socket.socket]:
    with listening(world) as url:
        parsed = urlsplit(url)
        with socket.create_connection((parsed.hostname, parsed.port), timeout=20) as made:
            yield made


def answer(connection: socket.socket) -> str:
    """All that comes until the server closes the connection."""
    said = b""
    try:
        while piece := connection.recv(65536):
            said += piece
    except ConnectionResetError:  # it closed with something of ours unread
        pass
    return said.decode()


@pytest.mark.parametrize(
    "head", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;"]
)
def test_a_head_without_end_is_given_up(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    sent = 0
    try:
        while sent < 64 * MAX_HEAD_BYTES:
            connection.sendall(b"a" * 4096)
            sent += 4096
    except (ConnectionResetError, BrokenPipeError):
        pass
    assert sent < 64 * MAX_HEAD_BYTES or answer(connection).startswith("HTTP/1.1 400")


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_wish_to_upgrade_is_passed_over_and_the_body_read(
    connection: socket.socket, upgrade: str, at_once: bool
) -> None:
    body = json.dumps(tuning_body()).encode()
    head = f"POST /v1/tunedModels HTTP/1.1\r\nHost: localhost\r\n{upgrade}Content-Length: {len(body)}\r\n\r\n".encode()
    for piece in [head + body] if at_once else [head, body]:
        connection.sendall(piece)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    said = answer(connection)
    assert said.startswith("HTTP/1.1 200"), said
    assert '"totalSteps"' in said
    assert '"instance"' in said  # the connection goes on


def test_a_large_body_is_no_head(connection: socket.socket) -> None:
    body = json.dumps(tuning_body(description="x" * (8 * MAX_HEAD_BYTES))).encode()
    head = f"POST /v1/tunedModels HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    assert answer(connection).startswith("HTTP/1.1 200")

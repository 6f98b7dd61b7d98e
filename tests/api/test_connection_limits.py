"""Silent and slow clients are ended, and keep nobody else out: over real sockets of a server with small bounds."""

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from kastor.api.http.streamed_body import StreamedBodyRoutes
from kastor.domain.errors import KastorError
from kastor.server.connection_limits import ACCEPT_ERROR, ConnectionLimits, connection_limits, throttle_accept_errors
from kastor.server.http_protocol import limited_http_protocol
from support.api_world import BASE, World

BOUNDS = ConnectionLimits(max_connections=8, head_s=0.4, body_s=0.6, write_s=0.6)
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
POST = b"POST /v1beta/tunedModels HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 1000\r\n\r\n"
Address = tuple[str, int]


@pytest.fixture
def address(world: World) -> Iterator[Address]:
    with served(world.app) as address:
        yield address


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[Address]:
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        lifespan="off",
        ws="none",
        http=limited_http_protocol(BOUNDS),
        timeout_keep_alive=30,
    )  # type: ignore[arg-type]  # called as a class is
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def ended_after(connection: socket.socket, *, at_most_s: float = 10) -> float:
    """Seconds until the server ends the connection."""
    began = time.monotonic()
    connection.settimeout(at_most_s)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def healthy(address: Address) -> bool:
    return httpx.get(f"http://localhost:{address[1]}/healthz", timeout=10).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /heal", HEAD[:-2], HEAD + HEAD[:-2]])
def test_a_request_that_is_not_whole_in_time_ends_its_connection(address: Address, sent: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert ended_after(connection) < 5


def test_line_ends_after_an_answer_do_not_keep_a_connection(address: Address) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert ended_after(connection) < 5


@pytest.mark.parametrize("sent", [HEAD[:-2], HEAD[:-2] + b"X-Slow: "])
def test_a_byte_now_and_then_does_not_prolong_it(address: Address, sent: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < 10:
                connection.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_nor_does_it_after_a_request_that_wished_to_upgrade(address: Address) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD[:-2] + UPGRADE + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in HEAD[:-2] + b"X-Slow: " + b"a" * 200:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_a_server_that_reads_late_does_not_blame_the_client() -> None:
    received = []

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3 * BOUNDS.body_s)
        while (await receive())["more_body"]:
            received.append(time.monotonic())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    body = b"x" * 100_000  # more than is read ahead
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 * len(body)}\r\n\r\n".encode()
    with served(late) as address, socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head + body)
        while not received:
            time.sleep(0.01)
        time.sleep(1.5 * BOUNDS.tick_s)  # the client needs a moment, too, before it goes on
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("upgrade", [b"", UPGRADE])
@pytest.mark.parametrize("pause_s", [None, 0.05])
def test_a_body_that_stops_or_trickles_ends_its_connection(
    address: Address, upgrade: bytes, pause_s: float | None
) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(POST % upgrade)
        began = time.monotonic()
        if pause_s is None:
            assert ended_after(connection) < 5
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < 10:
                connection.sendall(b" ")
                time.sleep(pause_s)
        assert time.monotonic() - began < 5


class HeldSink:
    """Where an upload goes; tells when it was let go."""

    def __init__(self) -> None:
        self.held = b""
        self.closed = threading.Event()

    def write(self, piece: bytes) -> None:
        self.held += piece

    def finish(self) -> Response:
        return Response()

    def refused(self, error: KastorError) -> Response:
        return Response()

    def close(self) -> None:
        self.closed.set()


def test_an_upload_that_stops_lets_go_of_its_file(world: World) -> None:
    sink = HeldSink()
    route = StreamedBodyRoutes(world.app.endpoints).route("/upload", ["POST"], lambda call: sink, keyless=True)
    with served(Starlette(routes=[route])) as address, socket.create_connection(address) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
        assert sink.closed.wait(10)
    assert sink.held == b"half"


def test_an_answer_that_takes_longer_than_all_deadlines_is_given(address: Address, world: World) -> None:
    world.generator.between = lambda: time.sleep(1.5)
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    for headers in ({}, {"Connection": "Upgrade", "Upgrade": "h2c"}):
        answer = httpx.post(
            f"http://localhost:{address[1]}/v1/{BASE}:generateContent", json=body, headers=headers, timeout=30
        )
        assert answer.status_code == 200


def test_a_connection_that_is_used_stays(address: Address) -> None:
    with httpx.Client(base_url=f"http://localhost:{address[1]}") as client:
        for _ in range(5):
            assert client.get("/healthz").status_code == 200
            time.sleep(0.3)


def test_a_client_that_takes_no_answer_is_ended(address: Address, world: World) -> None:
    world.generator.words = ("x" * 1_000_000,) * 60
    body = b'{"contents":[{"parts":[{"text":"x"}]}]}'
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        head = (
            f"POST /v1/{BASE}:streamGenerateContent HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert world.generator.closed.wait(20)


def test_silent_connections_give_way_to_one_that_asks(address: Address) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
        assert healthy(address)
        assert ended_after(silent[0], at_most_s=0.3) < 0.3  # the oldest went first


def test_idle_connections_that_wished_to_upgrade_give_way_as_well(address: Address) -> None:
    with ExitStack() as stack:
        for _ in range(BOUNDS.max_connections):
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(HEAD[:-2] + UPGRADE + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert healthy(address)


def test_idle_connections_give_way_too_and_busy_ones_do_not(address: Address, world: World) -> None:
    release = threading.Event()
    world.generator.between = lambda: release.wait(20)
    body = b'{"contents":[{"parts":[{"text":"x"}]}]}'
    head = (
        f"POST /v1/{BASE}:generateContent HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with ExitStack() as stack:
        stack.callback(release.set)
        for _ in range(4):
            stack.enter_context(socket.create_connection(address)).sendall(HEAD)
        busy = [stack.enter_context(socket.create_connection(address)) for _ in range(8)]
        for connection in busy:
            connection.sendall(head + body)
        while len(world.generator.requests) < 8:
            time.sleep(0.01)
        refused = httpx.get(f"http://localhost:{address[1]}/healthz", timeout=10)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["status"] == "UNAVAILABLE"
        release.set()
        for connection in busy:
            connection.settimeout(10)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


SERVE = """
import resource, sys
from pathlib import Path
from kastor.server.main import serve
from kastor.settings import Settings
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
settings = Settings(data_dir=Path(sys.argv[1]), port=0, no_auth=True, request_head_timeout_s=600)
serve(settings, run_scheduler=False, on_listening=lambda url: print(url, flush=True))
"""


def test_more_silent_connections_than_files_neither_deafen_a_server_nor_fill_its_log(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10))
            for _ in range(10):
                assert httpx.get(f"{url}/v1/tunedModels", timeout=10).status_code == 200
    finally:
        process.kill()
        process.communicate()
    said = (tmp_path / "stderr").read_text()
    assert len(said) < 20_000
    assert "Traceback" not in said


def test_the_bound_lies_below_the_limit_of_files_which_is_raised_where_it_may_be() -> None:
    said = "import resource; from kastor.server.connection_limits import connection_limits; "
    shown = "print(connection_limits(2048), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    for limits, found in (((256, 256), "128 256"), ((256, 4096), "2048 2560"), ((64, 1000), "500 1000")):
        setting = f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits}); "
        ran = subprocess.run([sys.executable, "-c", said + setting + shown], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == found
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connection_limits(8) == 8
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == before[1]


def test_accepting_that_fails_is_said_once_a_minute() -> None:
    now = [0.0]
    loop = asyncio.new_event_loop()
    throttle_accept_errors(loop, lambda: now[0])
    with capture_logs() as said:
        for _ in range(1000):
            loop.call_exception_handler({"message": ACCEPT_ERROR, "exception": OSError(24, "Too many open files")})
            now[0] += 0.1
    loop.close()
    assert [line["event"] for line in said] == ["no_connection_accepted"] * 2
    assert said[1]["repeated"] > 500

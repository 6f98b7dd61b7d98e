"""A server that says what a test wants, in the CLI's contract with the real one."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

JOB_ID = "bvl8dymw0fhw"
MODEL = "tunedModels/numbers-q1w2"
INSTANCE = "fake-instance"


def make_job(state: str = "RUNNING", step: int = 0, **changes: object) -> Json:
    """A job as the admin wire gives it."""
    job: Json = {
        "id": JOB_ID,
        "tunedModel": MODEL,
        "operation": f"{MODEL}/operations/{JOB_ID}",
        "state": state,
        "baseModel": "smollm2-135m-instruct",
        "numExamples": 15,
        "totalSteps": 19,
        "completedSteps": step,
        "hyperparameters": {"epochCount": 5, "batchSize": 4, "learningRate": 0.001},
        "adapter": {"rank": 8, "alpha": 16},
        "createTime": "2026-01-02T03:04:05.000000Z",
        "startTime": "2026-01-02T03:04:06Z",
        "attempt": 1,
    }
    if step:
        job["lastSnapshot"] = snapshot(step)
        job["etaSeconds"] = 2.0 * (19 - step)
    if state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        job["endTime"] = "2026-01-02T03:05:06Z"
    return job | changes


def snapshot(step: int) -> Json:
    """A step whose loss falls."""
    return {
        "step": step,
        "epoch": 1 + (step - 1) * 4 // 15,
        "meanLoss": 2.5 / step,
        "numTokens": 200,
        "tokensPerSecond": 321.0,
        "computeTime": "2026-01-02T03:04:10Z",
    }


def error_body(code: int, status: str, message: str) -> Json:
    """Google's error shape."""
    return {"error": {"code": code, "status": status, "message": message}}


@dataclass
class Seen:
    """A request that the fake got."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


@dataclass
class Reply:
    """An answer of the fake; a `bytes` body goes out as it is."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeServer:
    """`replies[method, path]` are given one after another, the last one for ever."""

    url: str
    replies: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    seen_all: threading.Condition = field(default_factory=threading.Condition)

    def on(self, method: str, path: str, *replies: Reply | Json) -> None:
        """Say what to answer."""
        self.replies[method, path] = [r if isinstance(r, Reply) else Reply(r) for r in replies]

    def on_job(self, *jobs: Json) -> None:
        """The job goes through these states, one per look."""
        self.on("GET", f"/kastor/v1/jobs/{JOB_ID}", *jobs)

    def answer(self, seen: Seen) -> Reply:
        """The next reply."""
        with self.seen_all:
            self.seen.append(seen)
            self.seen_all.notify_all()
            replies = self.replies.get((seen.method, seen.path))
            if not replies:
                return Reply(error_body(404, "NOT_FOUND", f"nothing at {seen.path}"), 404)
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def wait_for(self, path: str, count: int = 1, timeout_s: float = 20.0) -> None:
        """Block until `path` has been asked for `count` times."""
        with self.seen_all:
            came = self.seen_all.wait_for(lambda: sum(s.path == path for s in self.seen) >= count, timeout_s)
            assert came, f"{path} was not asked for"


def _handler(server_of: Callable[[], FakeServer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_json = headers.get("content-type", "").startswith("application/json")
            body_seen = json.loads(raw) if raw and is_json else raw or None
            seen = Seen(self.command, parts.path, parse_qs(parts.query), body_seen, headers)
            reply = server_of().answer(seen)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PATCH = _handle

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A fake Kastor on a free port."""
    fakes: list[FakeServer] = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: fakes[0]))
    http.daemon_threads = True
    fake = FakeServer(f"http://127.0.0.1:{http.server_address[1]}")
    fakes.append(fake)
    fake.on("GET", "/healthz", {"status": "ok", "version": "0.1.0", "instance": INSTANCE})
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield fake
    http.shutdown()
    thread.join()
    http.server_close()

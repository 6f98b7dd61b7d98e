"""Cost of large hostile request bodies: the server's memory, and the latency of `/healthz` meanwhile.

    python -m bench.hostile_bodies [NAME…]

Each body is sent to a fresh server (profile `open`, which accepts the largest). Prints a JSON line for each.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

GENERATE = "/v1beta/models/smollm2-135m-instruct:generateContent"
COUNT = "/v1beta/models/smollm2-135m-instruct:countTokens"
CREATE = "/v1beta/tunedModels"
MB = 1_000_000


def _names(num_bytes: int) -> bytes:
    return b"{" + b",".join(b'"a%d":1' % number for number in range(num_bytes // 11)) + b"}"


def _examples(one: bytes, num_bytes: int) -> bytes:
    listed = b",".join([one] * (num_bytes // (len(one) + 1)))
    return b'{"tuningTask":{"trainingData":{"examples":{"examples":[' + listed + b"]}}}}"


BODIES = {
    "4 MB of empty parts": (GENERATE, b'{"contents":[{"parts":[' + b",".join([b"{}"] * (4 * MB // 3)) + b"]}]}"),
    "4 MB of empty contents": (GENERATE, b'{"contents":[' + b",".join([b"{}"] * (4 * MB // 3)) + b"]}"),
    "4 MB of wrong parts": (
        GENERATE,
        b'{"contents":[' + b",".join([b'{"parts":[' + b",".join([b"1"] * 1000) + b"]}"] * 1900) + b"]}",
    ),
    "4 MB of lists in lists": (GENERATE, b'{"contents":' + b"[" * 2 * MB + b"]" * 2 * MB + b"}"),
    "4 MB of unknown names": (GENERATE, _names(4 * MB)),
    "40 MB of unknown names": (GENERATE, _names(40 * MB)),
    "40 MB of examples": (CREATE, _examples(b'{"textInput":"1","output":"2"}', 40 * MB)),
    "40 MB of wrong examples": (CREATE, _examples(b'{"a":"1","b":"2"}', 40 * MB)),
    "40 MB of numbers": (CREATE, b'{"readerProjectNumbers":[' + b",".join([b"0.5"] * (10 * MB)) + b"]}"),
    "40 MB of text": (GENERATE, b'{"contents":[{"parts":[{"text":"' + b"word " * (8 * MB) + b'"}]}]}'),
    "4 MB of text to count": (COUNT, b'{"contents":[{"parts":[{"text":"' + b"word " * (MB * 4 // 5) + b'"}]}]}'),
    "0.6 MB of text to count": (COUNT, b'{"contents":[{"parts":[{"text":"' + b"word " * (MB * 3 // 25) + b'"}]}]}'),
    "4 MB of braces in a text": (CREATE, _examples(b'{"textInput":"' + b"{}[]," * 200 + b'","output":"2"}', 4 * MB)),
}


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server without keys and jobs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")}
    command = [sys.executable, "-m", "kastor.cli", "serve", "--no-auth", "--port", "0", "--json", "--no-scheduler"]
    settings = {"KASTOR_PROFILE": "open", "KASTOR_DATA_DIR": str(folder)}
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment | settings)  # noqa: S603
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cost(target: str, body: bytes) -> dict[str, object]:
    """One body against one server."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as (url, process):
        small = b'{"contents":[{"parts":[{}]}]}'
        httpx.post(url + target, content=small, timeout=60)  # what the first request builds is there
        before, done, waits, peak = process.memory_info().rss, threading.Event(), [0.0], [0]

        def watch() -> None:
            with httpx.Client(timeout=300) as client:
                while not done.is_set():
                    began = time.perf_counter()
                    client.get(url + "/healthz")
                    waits.append(time.perf_counter() - began)

        def weigh() -> None:
            while not done.wait(0.005):
                peak[0] = max(peak[0], process.memory_info().rss)

        threads = [threading.Thread(target=watch), threading.Thread(target=weigh)]
        for thread in threads:
            thread.start()
        began = time.perf_counter()
        answer = httpx.post(url + target, content=body, timeout=300)
        took = time.perf_counter() - began
        done.set()
        for thread in threads:
            thread.join()
        return {
            "status": answer.status_code,
            "seconds": round(took, 2),
            "healthz_max_s": round(max(waits), 2),
            "mb": round((peak[0] - before) / MB),
            "said": answer.text[:160],
        }


def main() -> None:
    """All of them, or those named."""
    for name in sys.argv[1:] or BODIES:
        target, body = BODIES[name]
        print(json.dumps({"body": name, "bytes": len(body)} | cost(target, body)), flush=True)


if __name__ == "__main__":
    main()

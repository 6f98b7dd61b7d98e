"""Latency of the HTTP API: `python -m bench.operations [--seconds 20] [--clients 8] [--models 10000] [--idle]`.

Starts a real server (`kastor serve`) in a temporary folder and measures over its socket:

1. GET operation by several client processes without any delay, while a job of 375 steps trains on the embedded base
   (`--idle` polls a finished job instead);
2. create with 500 examples at the same time;
3. all pages of a list of very many tuned models on a second server.

Clients are bare sockets, so that they take little of the cores they share with the server and the training. Their own
CPU time is printed with the figures, and so is the load of the machine, without which the figures mean nothing.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from sqlalchemy import insert

from kastor.domain.job import AdapterShape, Hyperparameters, State, StepMetrics, TuningJob, TuningSpec
from kastor.domain.tuned_model import TunedModel
from kastor.runtime.server_record import running_server
from kastor.settings import load_settings
from kastor.store import tables
from kastor.store.database import migrate, open_database

BASE = "smollm2-135m-instruct"
MANY_STEPS = 375  # 15 examples, 100 epochs, batches of 4: the notebook's job
CREATE_EXAMPLES = 500
CREATE_REPEATS = 10
SNAPSHOTS_A_MODEL = 19
PAGE_SIZE = 50
PAGE_REPEATS = 20
START_TIMEOUT_S = 60.0
TRAIN_TIMEOUT_S = 600.0
WARM_STEPS = 5


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server on the folder: the host and port it listens on, and its process."""
    environment = os.environ | {
        "KASTOR_DATA_DIR": str(folder),
        "KASTOR_CACHE_DIR": str(load_settings().cache_dir),
        "KASTOR_NO_AUTH": "true",
        "KASTOR_PORT": "0",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kastor.cli", "serve"], env=environment, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while (found := running_server(folder)) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((folder / "server.log").read_text("utf-8"))
                time.sleep(0.05)
            yield urlsplit(found.url).netloc, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def asked(netloc: str, method: str, target: str, body: object = None) -> tuple[dict[str, Any], float]:
    """The JSON answer and the milliseconds it took, over a connection of its own."""
    connection = http.client.HTTPConnection(netloc, timeout=60)
    text = None if body is None else json.dumps(body)
    began = time.perf_counter()
    connection.request(method, target, body=text, headers={"content-type": "application/json"})
    answer = connection.getresponse()
    value = answer.read()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{method} {target}: {answer.status} {value.decode()}")
    return dict(json.loads(value)), took


def tuning(num_examples: int, num_epochs: int) -> dict[str, Any]:
    """A create request for numbers and their successors."""
    pairs = [{"textInput": str(i), "output": str(i + 1)} for i in range(num_examples)]
    task = {
        "trainingData": {"examples": {"examples": pairs}},
        "hyperparameters": {"epochCount": num_epochs, "batchSize": 4, "learningRate": 0.001},
    }
    return {"displayName": "bench", "baseModel": BASE, "tuningTask": task}


def poll(netloc: str, target: str, seconds: float, report: Connection) -> None:
    """Ask again and again on one connection; reports the milliseconds of each answer and the client's own CPU time."""
    host, _, port = netloc.rpartition(":")
    request = f"GET {target} HTTP/1.1\r\nHost: {netloc}\r\nAccept: */*\r\n\r\n".encode("ascii")
    took: list[float] = []
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends, cpu = time.perf_counter() + seconds, time.process_time()
        while (began := time.perf_counter()) < ends:
            connection.sendall(request)
            receive_answer(connection)
            took.append((time.perf_counter() - began) * 1000)
    report.send((took, time.process_time() - cpu))


def receive_answer(connection: socket.socket) -> None:
    """Read one answer to its end."""
    received = connection.recv(1 << 16)
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    missing = length - len(body)
    while missing > 0:
        missing -= len(connection.recv(min(missing, 1 << 20)))


def polled(netloc: str, target: str, clients: int, seconds: float) -> tuple[list[float], float]:
    """All answers' milliseconds, and the CPU seconds of all clients."""
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe(duplex=False) for _ in range(clients)]
    processes = [spawn.Process(target=poll, args=(netloc, target, seconds, give)) for _, give in ends]
    for process in processes:
        process.start()
    found = [take.recv() for take, _ in ends]
    for process in processes:
        process.join()
    return [one for took, _ in found for one in took], sum(cpu for _, cpu in found)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def load() -> str:
    """What else the machine does."""
    return "load " + "/".join(f"{one:.1f}" for one in os.getloadavg()) + f" on {os.cpu_count()} cores"


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds that the process took so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def trained(netloc: str, target: str, *, to_the_end: bool) -> int:
    """The steps of the operation, once it has some, or all."""
    deadline = time.monotonic() + TRAIN_TIMEOUT_S
    while True:
        state = asked(netloc, "GET", target)[0]
        steps = int(state["metadata"].get("completedSteps", 0))
        if state.get("done") if to_the_end else steps >= WARM_STEPS:
            return steps
        if state.get("error") or time.monotonic() > deadline:
            raise SystemExit(json.dumps(state))
        time.sleep(0.2)


def measure_operation(netloc: str, server: psutil.Process, clients: int, seconds: float, *, idle: bool) -> None:
    """Print the percentiles of GET operation."""
    operation = str(asked(netloc, "POST", "/v1beta/tunedModels", tuning(15, 1 if idle else 100))[0]["name"])
    target = f"/v1beta/{operation}"
    steps = trained(netloc, target, to_the_end=idle)
    alone = [asked(netloc, "GET", target)[1] for _ in range(50)]
    server_cpu = cpu_s(server)
    took, client_cpu = polled(netloc, target, clients, seconds)
    server_cpu = cpu_s(server) - server_cpu
    steps = trained(netloc, target, to_the_end=idle) - steps
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    doing = "idle" if idle else f"training ({steps} steps meanwhile)"
    print(f"GET operation, {clients} clients without delay, {seconds:.0f} s, {doing}; {load()}")
    print(f"  {len(took) / seconds:.0f} answers/s; ms: p50 {p50:.2f}, p99 {p99:.2f}, max {max(took):.1f}")
    print(f"  CPU us an answer: server {server_cpu / len(took) * 1e6:.0f}, client {client_cpu / len(took) * 1e6:.0f}")
    print(f"  one client alone, with new connections: ms p50 {statistics.median(alone):.2f}")


def measure_create(netloc: str) -> None:
    """Print what a create with many examples takes."""
    took = [asked(netloc, "POST", "/v1beta/tunedModels", tuning(CREATE_EXAMPLES, 1))[1] for _ in range(CREATE_REPEATS)]
    print(f"create with {CREATE_EXAMPLES} examples; {load()}")
    print(f"  ms p50 {statistics.median(took):.1f}, max {max(took):.1f}")


def fill(folder: Path, count: int) -> None:
    """Put finished tuned models into the folder's database."""
    database = open_database(f"sqlite:///{folder / 'kastor.db'}")
    migrate(database)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    shape = AdapterShape(rank=8, alpha=16.0, targets=("q_proj", "v_proj"))
    spec = TuningSpec(BASE, Hyperparameters(5, 4, 0.001), shape, 15)
    jobs, models, snapshots = [], [], []
    for number in range(count):
        at = start + timedelta(seconds=number)
        job = TuningJob(f"job{number:08d}", f"model-{number:08d}", spec, State.SUCCEEDED, at, at, "bench@example.org")
        row = asdict(job)
        row.pop("error")
        jobs.append(row | {"error_code": None, "error_message": None})
        models.append(asdict(TunedModel(job.tuned_model_id, job.id, BASE, "local@kastor", at, at)))
        steps = (StepMetrics(n, 1 + n // 4, 2.5 / n, 120, 14, 0.5, at) for n in range(1, SNAPSHOTS_A_MODEL + 1))
        snapshots += [asdict(step) | {"job_id": job.id} for step in steps]
    with database.write() as connection:
        connection.execute(insert(tables.jobs), jobs)
        connection.execute(insert(tables.tuned_models), models)
        connection.execute(insert(tables.snapshots), snapshots)
    database.close()


def measure_pages(folder: Path, count: int) -> None:
    """Print what the first, the middle and the last page of the list take."""
    fill(folder, count)
    with serving(folder) as (netloc, _):
        targets, token, listed = [], "", 0
        while True:
            target = f"/v1beta/tunedModels?pageSize={PAGE_SIZE}" + (f"&pageToken={token}" if token else "")
            targets.append(target)
            page = asked(netloc, "GET", target)[0]
            listed += len(page["tunedModels"])
            token = page.get("nextPageToken", "")
            if not token:
                break
        if listed != count:
            raise SystemExit(f"{listed} models listed of {count}")
        print(f"pages of {PAGE_SIZE} of {count} tuned models with {SNAPSHOTS_A_MODEL} snapshots each; {load()}")
        for name, target in (("first", targets[0]), ("middle", targets[len(targets) // 2]), ("last", targets[-1])):
            took = [asked(netloc, "GET", target)[1] for _ in range(PAGE_REPEATS)]
            print(f"  {name} page: ms p50 {statistics.median(took):.1f}, max {max(took):.1f}")


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(prog="bench.operations", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--idle", action="store_true", help="without a training job beside the polling")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as (netloc, server):
        measure_operation(netloc, server, given.clients, given.seconds, idle=given.idle)
        measure_create(netloc)
    if given.models:
        with tempfile.TemporaryDirectory() as name:
            measure_pages(Path(name), given.models)


if __name__ == "__main__":
    main()

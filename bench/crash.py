"""Seeded fault injection against a real server: `python -m bench.crash [--kills 20] [--seed 1] [--folder DIR]`.

A client creates, cancels and deletes tuned models on a tiny base while server, worker, or all of them are killed with
SIGKILL, workers are frozen, and the database is locked by another process. Afterwards an audit checks from outside:

- every model whose create was answered, and that was not deleted, exists, and its job has ended;
- a succeeded job has the same adapter as an undisturbed one, byte for byte; failed jobs are reported with their reason;
- no process of the installation is left, and no file without a job.

Prints the actions and every violation; the exit code is 1 if there is one. The same seed gives the same plan, but not
the same timing, which depends on the machine.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_base

KINDS = {"short": (8, 20), "long": (24, 60)}  # examples, epochs
FAULTS = ("worker", "worker", "server", "all", "freeze", "lock")
KILLS = frozenset({"worker", "server", "all"})
LOCK_S = 12.0  # longer than the heartbeat timeout
WAIT_S = 900.0
LEFT_OVERS = ("**/*.partial", "**/.step-*", "**/*.removed", ".removed-*")


@dataclass
class Installation:
    """A data folder with a server that is restarted after it was killed."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        own = {
            "DATA_DIR": self.data,
            "CACHE_DIR": self.folder / "cache",
            "CATALOG_FILE": self.folder / "catalog.toml",
            "NO_AUTH": "true",
            "NUM_THREADS": 1,
            "SPARE_WORKER_TIMEOUT_S": 0,
            "HEARTBEAT_TIMEOUT_S": 4,
            "MAX_RUNNING_JOBS": 2,
            "MAX_WORKER_DEATHS": 20,
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")}
        environment = clean | {f"KASTOR_{name}": str(value) for name, value in own.items()}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-m", "kastor.cli", "serve", "--port", str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while self.ask("GET", "/healthz") is None:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"The server does not start; see {self.folder / 'server.log'}.")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server gracefully."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def ask(self, method: str, target: str, body: object = None) -> httpx.Response | None:
        """The answer; `None` if the connection was refused or lost."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.request(method, f"http://127.0.0.1:{self.port}{target}", json=body, timeout=60)
        return None

    def processes(self) -> list[psutil.Process]:
        """All processes on the data folder, identified by their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("KASTOR_DATA_DIR") == str(self.data) and process.status() != "zombie":
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The workers among them."""
        return [process for process in self.processes() if "kastor.worker" in process.cmdline()]


@dataclass
class Client:
    """A client that records its requests and the answers."""

    installation: Installation
    chance: random.Random
    kinds: dict[str, str] = field(default_factory=dict)  # model -> kind, of creates that were answered
    unanswered: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    count: int = 0

    def create(self, kind: str) -> str | None:
        """Create a tuned model; returns its id if the request was answered."""
        self.count += 1
        model, (examples, epochs) = f"m{self.count}", KINDS[kind]
        pairs = [{"textInput": str(n), "output": str(n + 1)} for n in range(examples)]
        task = {
            "hyperparameters": {"epochCount": epochs, "batchSize": 4, "learningRate": 0.01},
            "trainingData": {"examples": {"examples": pairs}},
        }
        body = {"displayName": model, "baseModel": "models/tiny", "tuningTask": task}
        answer = self.installation.ask("POST", f"/v1beta/tunedModels?tunedModelId={model}", body)
        if answer is None or answer.status_code != 200:
            self.unanswered.add(model)
            return None
        self.kinds[model] = kind
        return model

    def act(self) -> None:
        """One random action: usually a create, as long as few jobs are queued."""
        known = sorted(self.kinds.keys() - self.cancelled - self.deleted)
        action = self.chance.choices(("create", "cancel", "delete", "nothing"), (5, 1, 1, 3))[0]
        if action == "create" and len(known) < 12:
            self.create(self.chance.choice(sorted(KINDS)))
        elif action in ("cancel", "delete") and len(known) > 3:
            model = self.chance.choice(known)
            (self.cancelled if action == "cancel" else self.deleted).add(model)  # asked for, whether answered or not
            method, target = ("POST", f"{model}:cancel") if action == "cancel" else ("DELETE", model)
            self.installation.ask(method, f"/v1beta/tunedModels/{target}", {} if action == "cancel" else None)

    def job(self, model: str) -> dict[str, object] | None:
        """The model's job; `None` if there is no such model."""
        found = self.installation.ask("GET", f"/v1beta/tunedModels/{model}/operations")
        if found is None or found.status_code != 200:
            return None
        job_id = found.json()["operations"][0]["name"].rsplit("/", 1)[1]
        answer = self.installation.ask("GET", f"/kastor/v1/jobs/{job_id}")
        return None if answer is None else dict(answer.json())


def strike(installation: Installation, fault: str, chance: random.Random) -> bool:
    """Inject the fault; returns whether there was a target."""
    if fault == "lock":
        connection = sqlite3.connect(installation.data / "kastor.db", timeout=30, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCK_S)
        connection.close()
        return True
    workers = installation.workers()
    if fault in ("worker", "freeze"):
        if not workers:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(workers).send_signal(signal.SIGKILL if fault == "worker" else signal.SIGSTOP)
        return True
    assert installation.process is not None
    installation.process.kill()
    for process in installation.processes() if fault == "all" else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    installation.process.wait()
    time.sleep(chance.choice((0, 0, 2)))
    installation.start()
    return True


def adapter_hash(installation: Installation, job_id: object) -> str:
    """The hash of a published adapter."""
    file = installation.data / "jobs" / str(job_id) / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def ended_jobs(client: Client, models: list[str]) -> dict[str, dict[str, object]]:
    """The jobs of the models once all have ended, or the time is up."""
    deadline = time.monotonic() + WAIT_S
    while True:
        jobs = {model: client.job(model) for model in models}
        open_ = [m for m, job in jobs.items() if job and job["state"] not in ("SUCCEEDED", "FAILED", "CANCELLED")]
        if not open_ or time.monotonic() > deadline:
            return {model: job for model, job in jobs.items() if job is not None}
        time.sleep(1)


def audit(client: Client, expected: dict[str, str]) -> Iterator[str]:
    """Each violation in a sentence."""
    installation = client.installation
    wanted = sorted(client.kinds.keys() - client.deleted)
    jobs = ended_jobs(client, [*wanted, *sorted(client.unanswered), *sorted(client.deleted)])
    for model in wanted:
        job = jobs.get(model)
        if job is None:
            yield f"{model} was created and is not there"
        elif job["state"] == "SUCCEEDED":
            if adapter_hash(installation, job["id"]) != expected[client.kinds[model]]:
                yield f"{model} (job {job['id']}) has another adapter than an undisturbed job"
        elif job["state"] != "CANCELLED" or model not in client.cancelled:
            yield f"{model} (job {job['id']}) is {job['state']}: {job.get('error')}"
    answer = installation.ask("GET", "/kastor/v1/jobs?pageSize=1000")
    listed = {str(one["id"]) for one in answer.json()["jobs"]} if answer is not None else set()
    time.sleep(5)  # what was deleted goes within seconds
    installation.stop()
    for process in installation.processes():
        yield f"process {process.pid} is left: {' '.join(process.cmdline()[:5])}"
    root = installation.data / "jobs"
    stray = {entry.name for entry in root.iterdir() if not entry.name.startswith(".")} - listed
    if len(stray) > len(client.unanswered) + len(client.deleted):  # a create that was cut short goes after an hour
        yield f"folders of no job: {sorted(stray)}"
    for pattern in LEFT_OVERS:
        yield from (f"left over: {path.relative_to(root)}" for path in root.glob(pattern))


def main() -> None:
    """Run the plan and print the violations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    chance = random.Random(given.seed)  # noqa: S311  # a plan
    folder = given.folder or Path(tempfile.mkdtemp(prefix="crash-"))
    folder.mkdir(parents=True, exist_ok=True)
    tiny_catalog(folder / "catalog.toml", {"tiny": tiny_base(folder / "base")})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    client = Client(Installation(folder, port), chance)
    client.installation.start()
    undisturbed = {kind: client.create(kind) for kind in KINDS}
    jobs = ended_jobs(client, [model for model in undisturbed.values() if model])
    expected = {kind: adapter_hash(client.installation, jobs[str(m)]["id"]) for kind, m in undisturbed.items()}
    print(f"Undisturbed jobs have ended; {given.kills} kills begin, in {folder}.", flush=True)
    done: Counter[str] = Counter()
    while sum(done[fault] for fault in KILLS) < given.kills:
        client.act()
        time.sleep(chance.uniform(0.2, 4.0))
        fault = chance.choice(FAULTS)
        if strike(client.installation, fault, chance):
            done[fault] += 1
            print(f"{fault}: {sum(done[one] for one in KILLS)} kills so far", flush=True)
    found = list(audit(client, expected))
    told = ", ".join(f"{number} × {fault}" for fault, number in sorted(done.items()))
    print(f"{told}; {len(client.kinds)} jobs, {len(client.cancelled)} cancels, {len(client.deleted)} deletes.")
    print("\n".join(found) if found else "Nothing is wrong.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

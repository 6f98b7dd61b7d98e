"""The server process: quick to start, without torch, in order at the end."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import uvicorn

from kastor.domain.errors import FailedPrecondition
from kastor.runtime.server_record import running_server
from kastor.server import main
from kastor.server.http_server import ShutdownSignals
from kastor.settings import Settings
from support.server_process import environment, serving

START_CPU_S = 2.0  # measured 0.8; a core shared with other tests counts slower
STREAM = "/v1/models/smollm2-135m-instruct:streamGenerateContent?alt=sse"


def test_importing_the_server_brings_in_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "peft", "numpy", "tokenizers", "alembic", "httpx", "jwt", "cryptography"}
    said = f"import sys, kastor.server.main; print(*sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, env=environment())
    assert found.stdout.split() == []


def test_it_starts_with_little_computing_and_says_where(tmp_path: Path) -> None:
    with serving(tmp_path):
        pass  # once, so that byte code and database are there
    with serving(tmp_path) as (process, url):
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        # processor time, not the clock's: a test machine does other things as well
        used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        assert sum(map(int, used)) / os.sysconf("SC_CLK_TCK") < START_CPU_S
        announced = json.loads((tmp_path / "server.json").read_bytes())
        instance = httpx.get(f"{url}/healthz").json()["instance"]
        assert announced == {"url": url, "pid": process.pid, "version": "0.1.0", "instance": instance}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (process, url):
        httpx.get(f"{url}/v1/tunedModels")
        process.send_signal(number)
        out, _ = process.communicate(timeout=15)
        assert (process.returncode, out) == (0, "ended in order\n")
        assert not (tmp_path / "server.json").exists()
        assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_a_second_signal_interrupts_what_comes_after_serving() -> None:
    with ShutdownSignals() as signals:
        with signals.serving(uvicorn.Server(uvicorn.Config("kastor:none"))):
            signal.raise_signal(signal.SIGINT)  # the first: in order
            assert signals.closing.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_taken_port_is_told_with_who_has_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        port = int(url.rpartition(":")[2])
        with pytest.raises(FailedPrecondition, match=f"taken by the Kastor server of process {process.pid} .*--port"):
            main.serve(Settings(data_dir=tmp_path, port=port, no_auth=True))
    another = pytest.raises(FailedPrecondition, match="taken by another program. Choose another --port")
    with socket.create_server(("127.0.0.1", 0)) as other, another:
        main.serve(Settings(data_dir=tmp_path, port=other.getsockname()[1], no_auth=True))


def test_a_host_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="--host"):
        main.serve(Settings(data_dir=tmp_path, host="256.1.1.1", port=0, api_keys={"ada@example.org": "key"}))


def test_a_dead_servers_file_is_not_believed(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _):
        assert running_server(tmp_path) is not None
        process.kill()
        process.wait()
    assert (tmp_path / "server.json").exists()
    assert running_server(tmp_path) is None
    (tmp_path / "server.json").write_text("{")
    assert running_server(tmp_path) is None


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    task = {"trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}]}}}
    body = {"baseModel": "models/smollm2-135m-instruct", "tuningTask": task}
    with serving(tmp_path, jobs=False) as (process, url):
        made = httpx.post(f"{url}/v1/tunedModels", json=body).json()["metadata"]["tunedModel"]
        process.kill()
        process.wait()
    with serving(tmp_path, jobs=False) as (_, url):
        assert httpx.get(f"{url}/v1/{made}").json()["state"] == "CREATING"

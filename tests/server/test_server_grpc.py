"""The server's gRPC port: behind TLS that it made itself, in order at the end, and nothing of it where nobody asked."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.ai import generativelanguage_v1beta as glm

from kastor.domain.errors import FailedPrecondition, InvalidArgument
from kastor.server import main
from kastor.settings import Settings
from support.polling import wait_until
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_base

DEADLINE_S = 120
SERVE = """
import json, sys
from pathlib import Path
from kastor.settings import Settings
from kastor.server.main import serve
settings = Settings(data_dir=Path(sys.argv[1]), port=0, log_format="json", no_auth=True, **json.loads(sys.argv[2]))
said = {}
def on_grpc(endpoint, authority):
    said.update(endpoint=endpoint, authority=str(authority or ""))
def on_listening(url):
    print(json.dumps(said), flush=True)
serve(settings, run_scheduler=False, on_grpc=on_grpc, on_listening=on_listening)
print("ended in order", flush=True)
"""


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    endpoint: str
    authority: Path
    folder: Path

    def channel(self) -> grpc.Channel:
        """A channel as a client makes it that trusts the authority."""
        return grpc.secure_channel(self.endpoint, grpc.ssl_channel_credentials(self.authority.read_bytes()))

    def errors(self) -> str:
        """What the process wrote to stderr."""
        return (self.folder / "stderr").read_text()


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Running]:
    command = [sys.executable, "-c", SERVE, str(folder), json.dumps({"grpc_port": 0} | settings)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KASTOR_")}
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "stderr").read_text()
        said = json.loads(line)
        yield Running(process, said["endpoint"], Path(said["authority"]), folder)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def models(channel: grpc.Channel) -> list[str]:
    transport = glm.ModelServiceClient.get_transport_class("grpc")(channel=channel)
    return [model.name for model in glm.ModelServiceClient(transport=transport).list_models(timeout=20, retry=None)]


def test_a_client_that_trusts_the_authority_is_answered_and_no_other(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        assert running.authority == tmp_path / "tls" / "ca.pem"
        with running.channel() as channel:
            assert "models/smollm2-135m-instruct" in models(channel)
        with grpc.secure_channel(running.endpoint, grpc.ssl_channel_credentials()) as stranger:
            waiting = grpc.channel_ready_future(stranger)
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=1)
            waiting.cancel()


def test_callers_go_on_trusting_it_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        trusted = running.authority.read_bytes()
    with serving(tmp_path, grpc_hosts=["kastor.example"]) as again:
        credentials = grpc.ssl_channel_credentials(trusted)
        as_named = (("grpc.ssl_target_name_override", "kastor.example"),)
        with grpc.secure_channel(again.endpoint, credentials, options=as_named) as channel:
            assert models(channel)


def test_it_speaks_in_plain_text_when_told_to(tmp_path: Path) -> None:
    with serving(tmp_path, grpc_insecure=True) as running:
        assert not (tmp_path / "tls").exists()
        with grpc.insecure_channel(running.endpoint) as channel:
            assert models(channel)


def test_a_signal_ends_answers_under_way_as_unavailable(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "tiny")
    catalog = tiny_catalog(tmp_path / "catalog.toml", {"tiny": base})
    request = glm.GenerateContentRequest(model="models/tiny", contents=[{"parts": [{"text": "on and on"}]}])
    with serving(tmp_path, catalog_file=str(catalog)) as running, running.channel() as channel:
        stream = channel.unary_stream(
            "/google.ai.generativelanguage.v1beta.GenerativeService/StreamGenerateContent",
            request_serializer=glm.GenerateContentRequest.serialize,
        )(request, timeout=DEADLINE_S)
        wait_until(lambda: any((tmp_path / "logs").glob("engine-*.log")))  # the engine starts, the caller waits
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        out, _ = running.process.communicate(timeout=DEADLINE_S)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (running.process.returncode, out) == (0, "ended in order\n")
        assert "Traceback" not in running.errors()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=f"gRPC on 127.0.0.1:{port}: taken .* --grpc-port"):
            main.serve(Settings(data_dir=tmp_path, port=0, no_auth=True, grpc_port=port))


def test_two_servers_never_share_a_port(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        port = int(running.endpoint.rpartition(":")[2])
        with pytest.raises(FailedPrecondition, match="taken"):
            main.serve(Settings(data_dir=tmp_path / "other", port=0, no_auth=True, grpc_port=port))


def test_settings_that_contradict_one_another_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="grpc_hosts has no effect without grpc_port"):
        main.serve(Settings(data_dir=tmp_path / "data", port=0, no_auth=True, grpc_hosts=["a.example"]))
    assert not (tmp_path / "data").exists()


def test_without_the_extra_the_missing_package_is_named(tmp_path: Path) -> None:
    said = (
        f"import sys; sys.modules['grpc'] = None; sys.argv = ['-', {str(tmp_path)!r}, '{{\"grpc_port\": 0}}']\n{SERVE}"
    )
    ended = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert "gRPC needs the package grpc. In Kastor's checkout: pip install '.[grpc]'; or leave --grpc-port out." in last


def test_nothing_of_it_is_imported_where_nobody_asked() -> None:
    said = "import sys, kastor.server.main, kastor.cli.serve; print(*sorted({'grpc', 'google'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []

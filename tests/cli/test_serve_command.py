"""`kastor serve` as an operator starts it: who is let in, what is said at the start, and what never is."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.command_result import Kastor
from support.kastor_process import Serve
from support.oidc_issuer import RSA, Issuer
from support.oidc_issuer import serving as little_issuer
from support.polling import wait_until

KEY_OF_SETTINGS = "AIza-secret-of-ada"
BODY = {"contents": [{"parts": [{"text": "x"}]}]}
EVERYWHERE = "0.0.0.0"  # noqa: S104  # said, or listened on for a moment


def test_it_does_not_start_when_nobody_could_come_in(kastor: Kastor, home: Path) -> None:
    ran = kastor("serve", "--port", "0")
    assert (ran.code, ran.out) == (1, "")
    assert f"kastor keys create --data-dir {home / 'data'} --email you@example.com" in ran.err
    assert "kastor serve --no-auth" in ran.err
    assert "Traceback" not in ran.err


def test_a_revoked_key_is_no_way_in(kastor: Kastor) -> None:
    made = kastor("keys", "create", "--email", "ada@example.org", "--json").json
    kastor("keys", "revoke", made["id"])
    assert kastor("serve", "--port", "0").code == 1


def test_no_auth_beyond_this_machine_is_refused(kastor: Kastor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = kastor("serve", "--no-auth", "--host", EVERYWHERE, "--port", "0")
    assert ran.code == 1 and "everybody in who reaches 0.0.0.0" in ran.err
    monkeypatch.setenv("KASTOR_NO_AUTH", "true")
    assert "everybody in who reaches ::" in kastor("serve", "--host", "::", "--port", "0").err


def test_no_auth_is_said_at_the_start_and_lets_this_machine_in(kastor: Kastor, serve: Serve) -> None:
    url, said = serve("--no-auth")
    warnings = [line for line in said.read_text().splitlines() if "warning" in line]
    assert len(warnings) == 1 and "every program on this machine may do everything (--no-auth)" in warnings[0]
    assert httpx.get(f"{url}/v1/tunedModels").status_code == 200
    assert kastor("jobs", "list", "--json").json == []


def test_listening_for_others_without_tls_is_warned_of(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASTOR_API_KEYS", f'{{"ada@example.org": "{KEY_OF_SETTINGS}"}}')
    _, said = serve("--host", EVERYWHERE)
    assert "over plain HTTP" in said.read_text()
    assert "warning" not in serve("--data-dir", str(home / "other"))[1].read_text().partition("plain HTTP")[2]


def test_two_servers_on_one_data_folder_are_told_by_the_second(kastor: Kastor, serve: Serve, home: Path) -> None:
    url, _ = serve("--no-auth")
    pid = json.loads((home / "data" / "server.json").read_text())["pid"]
    ran = kastor("serve", "--no-auth", "--port", "0")
    assert (ran.code, ran.out) == (1, "")
    said = f"{home / 'data'} is in use by the Kastor server of process {pid} ({url}). Use that server, end it first, or"
    assert said in ran.err and "--data-dir" in ran.err
    assert httpx.get(f"{url}/healthz").status_code == 200, "the first one goes on"


def test_polling_is_told_only_where_the_log_level_is_debug(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for level, told in (("info", False), ("debug", True)):
        monkeypatch.setenv("KASTOR_LOG_LEVEL", level)
        url, said = serve("--no-auth", "--data-dir", str(home / level))
        assert httpx.get(f"{url}/kastor/v1/jobs").status_code == 200
        httpx.post(f"{url}/afterwards")  # logged in any case, and later; a line may come after its answer
        wait_until(lambda said=said: "/afterwards" in said.read_text())
        assert ("/kastor/v1/jobs" in said.read_text()) is told


@pytest.mark.usefixtures("without_fork_server")
def test_a_killed_server_leaves_its_data_folder_free(home: Path) -> None:
    for _ in range(2):
        command = [sys.executable, "-m", "kastor.cli", "serve", "--no-auth", "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None and "url" in json.loads(process.stdout.readline())
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_that_it_stops_and_what_becomes_of_jobs(home: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "kastor.cli", "serve", "--no-auth", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(word for line in process.stderr for word in line.split() if word.startswith("http://"))
        task = {"trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}] * 300}}}
        task |= {"hyperparameters": {"epochCount": 1000}}  # a job that has not ended by then, whatever becomes of it
        body = {"baseModel": "models/smollm2-135m-instruct", "tuningTask": task}
        assert httpx.post(f"{url}/v1beta/tunedModels", json=body).status_code == 200
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == 0
    assert "Kastor is stopping. 1 job will go on at the next start." in said
    assert "Traceback" not in said


def test_what_it_keeps_is_closed_to_others_whatever_the_umask(kastor: Kastor, serve: Serve, home: Path) -> None:
    before = os.umask(0o022)
    try:
        key = kastor("keys", "create", "--email", "ada@example.org", "--operator").out.strip()
        (home / "data" / "logs" / "old").mkdir(parents=True)
        (home / "data" / "logs" / "old" / "engine.log").write_text("of an older release")
        url, _ = serve()
        task = {"trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}]}}}
        body = {"baseModel": "models/smollm2-135m-instruct", "tuningTask": task}
        assert httpx.post(f"{url}/v1beta/tunedModels", json=body, headers={"x-goog-api-key": key}).status_code == 200
    finally:
        os.umask(before)
    kept = [home / "data", *(home / "data").rglob("*")]
    assert {"kastor.db", "kastor.db-wal", "server.json", "dataset.jsonl"} <= {path.name for path in kept}
    open_to_others = [path for path in kept if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


def test_a_command_without_a_key_is_told_how_to_get_one(kastor: Kastor, serve: Serve) -> None:
    key = kastor("keys", "create", "--email", "ada@example.org").out.strip()
    url, _ = serve()
    ran = kastor("jobs", "list")
    assert ran.code == 1 and f"The server at {url} needs a key" in ran.err and "kastor keys create" in ran.err
    wrong = kastor("jobs", "list", "--api-key", key[:-1] + "~")
    assert wrong.code == 1 and "rejects this key" in wrong.err and key[:-1] not in wrong.err
    assert kastor("jobs", "list", "--api-key", key, "--json").json == []


def test_no_key_in_any_place_ever_reaches_the_output(
    kastor: Kastor, serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASTOR_API_KEYS", f'{{"ada@example.org": "{KEY_OF_SETTINGS}"}}')
    key = kastor("keys", "create", "--email", "bo@example.org").out.strip()
    wrong = f"kastor_{'a' * 10}_{'b' * 43}"
    url, said = serve()
    answers = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for secret in (KEY_OF_SETTINGS, key, wrong, "AIza-of-nobody"):
            bearer = {"Authorization": f"Bearer {secret}"}
            for path in ("/v1/tunedModels", "/v1/nothing", "/v1/tunedModels/none"):
                for name in ("key", "access_token", "oauth_token"):
                    answers.append(client.get(path, params={name: secret}))
                    answers.append(client.get(f"{path}%3F{name}={secret}", headers=bearer))
                    answers.append(client.get(path, params={"pageSize": f"x?{name}={secret}"}, headers=bearer))
                answers.append(client.get(path, headers=bearer))
                answers.append(client.get(path, headers={"x-goog-api-key": secret}))
            answers.append(client.post(f"/v1/models/none:generateContent?key={secret}", json=BODY))
            answers.append(client.request("BREW", f"/v1/tunedModels?key={secret}"))
            answers.append(client.get("/v1/tunedModels", params={f"filter?key={secret}": "", "key": secret}))
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404}
    told = said.read_text()
    assert "request" in told and "/v1/tunedModels" in told
    everything = told + "".join(answer.text + str(answer.headers) for answer in answers)
    for secret in (KEY_OF_SETTINGS, key.rpartition("_")[2], "b" * 43, "AIza-of-nobody"):
        assert secret not in everything
    assert not any(key.encode() in path.read_bytes() for path in (home / "data").rglob("*") if path.is_file())


def test_a_token_of_the_provider_lets_in(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    issuer = Issuer()
    with little_issuer(issuer):
        issuer.publish(("one", RSA))
        monkeypatch.setenv("KASTOR_OIDC_ISSUER", issuer.url)
        monkeypatch.setenv("KASTOR_OIDC_AUDIENCE", "kastor")
        url, said = serve()
        token = issuer.token()
        statuses = [
            httpx.get(f"{url}/v1/tunedModels", headers={"Authorization": f"Bearer {sent}"}).status_code
            for sent in (token, issuer.token(aud="another"), "nonsense")
        ]
    assert statuses == [200, 401, 401]
    assert token.rpartition(".")[2] not in said.read_text()


def test_a_provider_that_is_down_makes_it_unavailable_not_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    issuer = Issuer()
    with little_issuer(issuer):
        pass
    monkeypatch.setenv("KASTOR_OIDC_ISSUER", issuer.url)
    monkeypatch.setenv("KASTOR_OIDC_AUDIENCE", "kastor")
    url, _ = serve()
    answer = httpx.get(f"{url}/v1/tunedModels", headers={"Authorization": f"Bearer {issuer.token()}"})
    assert answer.status_code == 503 and issuer.url in answer.json()["error"]["message"]


def test_a_private_server_lets_in_nobody_but_its_command(home: Path, pairs_file: Path) -> None:
    asked = (
        "import httpx\n"
        "from kastor.cli.client.connection import private_connection\n"
        "from kastor.cli.console.output import Output\n"
        "from kastor.settings import load_settings\n"
        "with private_connection(load_settings(), Output.of(False), scheduler=False) as link:\n"
        "    print(httpx.get(link.client.url + '/v1/tunedModels').status_code, link.client.jobs(1))\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("403 []\n", 0), done.stderr


@pytest.mark.parametrize("setting", ["NO_AUTH", "API_KEYS"])
def test_a_private_server_starts_whatever_the_users_way_in_is(
    setting: str, kastor: Kastor, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "true" if setting == "NO_AUTH" else f'{{"ada@example.org": "{KEY_OF_SETTINGS}"}}'
    monkeypatch.setenv(f"KASTOR_{setting}", value)
    assert kastor("jobs", "list", "--json").json == []

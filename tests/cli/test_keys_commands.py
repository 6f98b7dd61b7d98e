"""`kastor keys`: made once, listed without what lets in, revoked; on the database, beside a running server too."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from kastor.security.api_keys import KEY_PATTERN
from support.command_result import Kastor
from support.kastor_process import Serve


def test_a_key_is_printed_alone_and_nowhere_kept(kastor: Kastor, home: Path) -> None:
    ran = kastor("keys", "create", "--email", "Ada@example.org", "--label", "mine")
    key = ran.out.strip()
    assert ran.code == 0 and KEY_PATTERN.fullmatch(key)
    assert key not in ran.err and "not shown again" in ran.err
    assert all(key.encode() not in path.read_bytes() for path in (home / "data").iterdir() if path.is_file())


def test_json_tells_all_there_is(kastor: Kastor) -> None:
    made = kastor("keys", "create", "--email", "ada@example.org", "--operator", "--expires", "90d", "--json").json
    assert KEY_PATTERN.fullmatch(made.pop("key"))
    assert (made["email"], made["operator"], made["label"], made["revokeTime"]) == ("ada@example.org", True, "", None)
    assert kastor("keys", "list", "--json").json == [made]


def test_the_list_shows_whose_and_never_the_key(kastor: Kastor) -> None:
    key = kastor("keys", "create", "--email", "ada@example.org", "--label", "nightly").out.strip()
    listed = kastor("keys", "list")
    assert "ada@example.org" in listed.out and "nightly" in listed.out
    assert key.rpartition("_")[2] not in listed.out


def test_an_empty_list_says_how_to_make_one(kastor: Kastor) -> None:
    ran = kastor("keys", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "kastor keys create --email" in ran.err
    assert kastor("keys", "list", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--email", "ada"), "not an e-mail address"),
        (("create", "--email", "ada@example.org", "--expires", "soon"), "90d"),
        (("revoke", "nobody"), "There is no key 'nobody'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], said: str, kastor: Kastor) -> None:
    ran = kastor("keys", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err


def test_another_data_folder_has_other_keys(kastor: Kastor, tmp_path: Path) -> None:
    kastor("keys", "create", "--email", "ada@example.org", "--data-dir", str(tmp_path / "other"))
    assert kastor("keys", "list", "--json").json == []
    assert len(kastor("keys", "list", "--data-dir", str(tmp_path / "other"), "--json").json) == 1


def test_a_running_server_takes_a_new_key_and_refuses_a_revoked_one_at_once(kastor: Kastor, serve: Serve) -> None:
    first = kastor("keys", "create", "--email", "ada@example.org").out.strip()
    url, _ = serve()
    made = kastor("keys", "create", "--email", "bo@example.org", "--json").json
    models = f"{url}/v1/tunedModels"
    assert httpx.get(models, headers={"x-goog-api-key": made["key"]}).status_code == 200
    assert kastor("keys", "revoke", made["id"], "--json").json["revokeTime"]
    refused = httpx.get(models, headers={"x-goog-api-key": made["key"]})
    assert refused.status_code == 400
    assert json.dumps(refused.json()).count("API_KEY_INVALID") == 1
    assert httpx.get(models, params={"key": first}).status_code == 200


def test_a_locked_database_is_waited_for_as_long_as_the_settings_say(
    kastor: Kastor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kastor("keys", "create", "--email", "ada@example.org").code == 0
    monkeypatch.setenv("KASTOR_DATABASE_TIMEOUT_S", "1")
    with closing(sqlite3.connect(home / "data" / "kastor.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        refused = kastor("keys", "create", "--email", "bob@example.org")
    assert refused.code == 1 and "database" in refused.err
    assert time.monotonic() - began < 15

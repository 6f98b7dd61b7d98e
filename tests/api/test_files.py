"""Files that are there: list, get, download, delete, expire; who sees what."""

import base64
import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from google.ai.generativelanguage_v1beta import types as proto
from google.protobuf import json_format

from kastor.domain.errors import PermissionDenied
from kastor.domain.permission import Principal
from kastor.security.auth import LOCAL, Authenticator
from kastor.services.files import NewFile
from kastor.store.database import Database
from support.api_world import World, error_of, fields_of
from support.upload_calls import sent, started, uploaded

DENIED = "You do not have permission to access the File {} or it may not exist."
ADA, BOB = {"x-goog-api-key": "key-of-ada"}, {"x-goog-api-key": "key-of-bob"}
KEYS = {"ada@example.org": "key-of-ada", "bob@example.org": "key-of-bob"}


@pytest.fixture
def shared(world: World, store: Database) -> World:
    return World(world.folder, store, keys=KEYS)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (folder / "files" / "content").rglob("*") if path.is_file()]


def test_a_file_is_a_message_that_googles_proto_reads_strictly(world: World) -> None:
    name = uploaded(world, b"hello file")["name"]
    answer = world.call("GET", f"/v1/{name}")
    read = json_format.ParseDict(answer.json(), proto.File.pb(proto.File()))
    digest = hashlib.sha256(b"hello file").hexdigest()
    assert (read.name, read.mime_type, read.size_bytes, read.state) == (name, "text/plain", 10, proto.File.State.ACTIVE)
    assert read.sha256_hash.decode() == digest
    assert answer.json()["sha256Hash"] == base64.b64encode(digest.encode()).decode()
    assert read.uri == f"http://localhost/v1beta/{name}"
    assert read.download_uri == f"http://localhost/v1beta/{name}:download?alt=media"
    assert read.expiration_time.ToDatetime() - read.create_time.ToDatetime() == timedelta(hours=48)
    assert "displayName" not in answer.json()


def test_lists_are_newest_first_and_page_by_page(world: World) -> None:
    assert world.call("GET", "/v1beta/files").json() == {}
    names = [uploaded(world, b"x%d" % i)["name"] for i in range(12)]
    first = world.call("GET", "/v1beta/files").json()
    assert [file["name"] for file in first["files"]] == names[:1:-1]
    second = world.call("GET", f"/v1beta/files?page_size=200&pageToken={first['nextPageToken']}").json()
    assert [file["name"] for file in second["files"]] == names[1::-1]
    assert "nextPageToken" not in second
    json_format.ParseDict(first, proto.ListFilesResponse.pb(proto.ListFilesResponse()))


def test_a_page_has_at_most_a_hundred(world: World) -> None:
    for _ in range(101):
        world.files.finish(world.files.begin(NewFile(), LOCAL))
    assert len(world.call("GET", "/v1beta/files?pageSize=1000").json()["files"]) == 100


def test_a_file_is_its_uploaders_alone(shared: World) -> None:
    name = uploaded(shared, b"hello", ADA)["name"]
    assert shared.call("GET", f"/v1/{name}", headers=ADA).status_code == 200
    assert shared.call("GET", "/v1/files", headers=BOB).json() == {}
    file_id = name.removeprefix("files/")
    for method, target in (("GET", name), ("GET", f"{name}:download?alt=media"), ("DELETE", name)):
        answer = shared.call(method, f"/v1beta/{target}", headers=BOB)
        assert (answer.status_code, error_of(answer)["message"]) == (403, DENIED.format(file_id))
    assert contents(shared.folder) == [b"hello"]


def test_an_operator_sees_every_file(world: World, store: Database) -> None:
    watched = World(world.folder, store, authenticator=Authenticator(KEYS, operators=["bob@example.org"]))
    name = uploaded(watched, b"hello", ADA)["name"]
    assert [file["name"] for file in watched.call("GET", "/v1/files", headers=BOB).json()["files"]] == [name]
    assert watched.call("GET", f"/v1/{name}:download?alt=media", headers=BOB).content == b"hello"


@pytest.mark.parametrize("file_id", ["missing", "..%2F..%2Fetc", "%00", "A", "a" * 5000])
def test_a_missing_file_reads_like_a_foreign_one(world: World, file_id: str) -> None:
    answer = world.call("GET", f"/v1beta/files/{file_id}")
    assert answer.status_code in (403, 404)
    if file_id == "missing":
        assert error_of(answer)["message"] == DENIED.format("missing")


def test_what_is_downloaded_is_what_was_uploaded_and_cannot_run_here(world: World) -> None:
    page = b"<script>alert(1)</script>"
    url = started(world, len(page), display_name='../e"vil\r\nX: 1.html', mime_type="text/html")
    name = sent(world, url, page).json()["file"]["name"]
    answer = world.call("GET", f"/v1beta/{name}:download?alt=media")
    assert answer.content == page
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-disposition"].startswith("attachment; filename*=")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "x" not in answer.headers


def test_parts_of_a_file_are_served_by_range(world: World) -> None:
    name = uploaded(world, b"0123456789")["name"]
    target = f"/v1beta/{name}:download?alt=media"
    part = world.call("GET", target, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert world.call("GET", target, headers={"Range": "bytes=20-"}).status_code == 416


def test_a_deleted_file_is_gone_with_its_bytes(world: World) -> None:
    name = uploaded(world)["name"]
    assert world.call("DELETE", f"/v1beta/{name}").json() == {}
    assert world.call("GET", f"/v1beta/{name}").status_code == 403
    assert contents(world.folder) == []


def test_the_same_content_lies_there_once_until_its_last_file_goes(shared: World) -> None:
    one, two = uploaded(shared, b"same", ADA)["name"], uploaded(shared, b"same", BOB)["name"]
    assert contents(shared.folder) == [b"same"]
    shared.call("DELETE", f"/v1/{one}", headers=ADA)
    assert shared.call("GET", f"/v1/{two}:download", headers=BOB).content == b"same"
    shared.call("DELETE", f"/v1/{two}", headers=BOB)
    assert contents(shared.folder) == []


def test_an_expired_file_is_gone_at_once_its_bytes_with_the_next_tidying_and_its_name_is_free(world: World) -> None:
    name = sent(world, started(world, name="files/x"), b"old").json()["file"]["name"]
    world.now += timedelta(hours=49)
    assert world.call("GET", f"/v1/{name}").status_code == 403
    assert world.call("GET", "/v1/files").json() == {}
    assert sent(world, started(world, name="files/x"), b"new").status_code == 200
    assert contents(world.folder) == [b"new"]
    world.now += timedelta(hours=49)
    world.files.delete_orphans()
    assert contents(world.folder) == []


def test_metadata_alone_make_no_file_and_the_way_is_told(world: World) -> None:
    answer = world.call("POST", "/v1/files", json={"file": {"displayName": "x"}})
    assert fields_of(answer) == ["file"]
    assert "/upload/v1beta/files" in error_of(answer)["message"]


def test_the_bytes_are_found_for_who_may_see_them(shared: World) -> None:
    name = uploaded(shared, b"hello", ADA)["name"]
    assert shared.files.path_of(name, Principal("ada@example.org")).read_bytes() == b"hello"
    with pytest.raises(PermissionDenied):
        shared.files.path_of(name, Principal("bob@example.org"))


def test_urls_are_those_by_which_the_caller_came(world: World) -> None:
    name = uploaded(world)["name"]
    answer = world.call("GET", f"/v1/{name}", headers={"Host": "127.0.0.1:9999"})
    assert answer.json()["uri"] == f"http://127.0.0.1:9999/v1beta/{name}"

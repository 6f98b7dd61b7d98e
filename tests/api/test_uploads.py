"""Google's upload protocols, request by request."""

import errno
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from kastor.domain.permission import Principal
from kastor.store.database import Database
from support.api_world import World, error_of, fields_of, listening
from support.upload_calls import START, multipart, sent, started, uploaded

HELLO = b"hello file"


def status_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    headers = answer.headers
    return answer.status_code, headers.get("x-goog-upload-status"), headers.get("x-goog-upload-size-received")


def stored(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "files")) for path in (folder / "files").rglob("*") if path.is_file())


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "files" / "content").rglob("*")) if path.is_file()]


def partials(folder: Path) -> list[Path]:
    return list((folder / "files" / "partial").iterdir())


@pytest.mark.parametrize(
    "path",
    ["/upload/v1/files", "/upload/v1alpha/files", "/resumable/upload/v1beta/files", "/resumable/upload/v1/files"],
)
def test_every_version_and_prefix_takes_uploads(world: World, path: str) -> None:
    assert world.call("POST", path, headers=START).status_code == 200


def test_a_file_arrives_in_one_request_after_the_start(world: World) -> None:
    url = started(world, 10, display_name="my file", mime_type="text/plain", size_bytes=10)
    answer = sent(world, url, HELLO)
    assert status_of(answer) == (200, "final", "10")
    file = answer.json()["file"]
    assert (file["displayName"], file["mimeType"], file["sizeBytes"]) == ("my file", "text/plain", "10")
    assert contents(world.folder) == [HELLO]


def test_a_file_arrives_in_chunks_of_any_size(world: World) -> None:
    content = os.urandom(300_000)
    url = started(world, len(content))
    assert status_of(sent(world, url, content[:7], command="upload")) == (200, "active", "7")
    assert status_of(sent(world, url, content[7:200_001], offset=7, command="upload")) == (200, "active", "200001")
    assert status_of(sent(world, url, content[200_001:], offset=200_001)) == (200, "final", "300000")
    assert contents(world.folder) == [content]


def test_finalize_may_come_alone_and_again(world: World) -> None:
    url = started(world)
    sent(world, url, HELLO, command="upload")
    first = sent(world, url, b"", command="finalize")
    assert status_of(first) == (200, "final", "10")
    again = sent(world, url, b"", command="finalize")
    assert again.json() == first.json() == sent(world, url, b"", command="query").json()


def test_a_wrong_offset_is_answered_by_the_right_one(world: World) -> None:
    url = started(world, 10)
    sent(world, url, HELLO[:4], command="upload")
    for offset in (0, 3, 5, 10**15):
        answer = sent(world, url, HELLO[4:], offset=offset)
        assert status_of(answer) == (400, "active", "4")
        assert "4 bytes" in error_of(answer)["message"]
    assert status_of(sent(world, url, HELLO[4:], offset=4)) == (200, "final", "10")


@pytest.mark.parametrize("offset", ["-1", "1.5", "", "x", "٣", "9" * 30, "0x10"])
def test_an_offset_that_is_no_number_is_refused(world: World, offset: str) -> None:
    url = started(world, 10).encode()
    headers = {b"X-Goog-Upload-Command": b"upload", b"X-Goog-Upload-Offset": offset.encode()}
    answer = world.call("POST", url.decode(), content=HELLO, headers=headers)
    assert status_of(answer) == (400, "active", "0")
    assert "X-Goog-Upload-Offset" in error_of(answer)["message"]


def test_an_upload_goes_on_after_a_restart_of_the_server(world: World, store: Database) -> None:
    url = started(world, 10)
    sent(world, url, HELLO[:6], command="upload")
    later = World(world.folder, store)
    assert status_of(sent(later, url, b"", command="query")) == (200, "active", "6")
    assert sent(later, url, HELLO[6:], offset=6).status_code == 200
    assert contents(world.folder) == [HELLO]


def test_a_cancelled_upload_is_gone(world: World) -> None:
    url = started(world, 10)
    sent(world, url, HELLO[:6], command="upload")
    assert status_of(sent(world, url, b"", command="cancel"))[:2] == (200, "cancelled")
    assert status_of(sent(world, url, b"", command="query"))[:2] == (404, "final")
    assert partials(world.folder) == []


def test_what_was_announced_must_arrive(world: World) -> None:
    url = started(world, 10)
    short = sent(world, url, HELLO[:6])
    assert status_of(short) == (400, "active", "6")
    assert "10 bytes were announced, and 6 arrived" in error_of(short)["message"]
    assert status_of(sent(world, url, HELLO[6:], offset=6)) == (200, "final", "10")


def test_more_than_announced_ends_the_upload(world: World) -> None:
    url = started(world, 10)
    assert status_of(sent(world, url, HELLO + b"!"))[:2] == (400, "final")
    assert status_of(sent(world, url, b"", command="query"))[:2] == (404, "final")
    assert stored(world.folder) == []


def test_a_size_above_the_limit_is_refused_at_the_start_or_when_it_shows(tmp_path: Path, store: Database) -> None:
    world = World(tmp_path, store, max_file_bytes=100)
    asked = START | {"X-Goog-Upload-Header-Content-Length": str(10**17)}
    assert fields_of(world.call("POST", "/upload/v1/files", headers=asked)) == ["file.sizeBytes"]
    answer = world.call("POST", "/upload/v1/files", headers=START, json={"file": {"sizeBytes": "101"}})
    assert fields_of(answer) == ["file.sizeBytes"]
    url = started(world)
    assert status_of(sent(world, url, b"x" * 101))[:2] == (400, "final")
    raw = world.call("POST", "/upload/v1/files?uploadType=media", content=b"x" * 101)
    assert fields_of(raw) == ["file.sizeBytes"]
    assert stored(world.folder) == ["lock"] or stored(world.folder) == []


@pytest.mark.parametrize("command", ["start", "upload, cancel", "sing", ""])
def test_a_command_that_is_none_is_refused(world: World, command: str) -> None:
    url = started(world, 10)
    answer = sent(world, url, b"", command=command)
    assert status_of(answer) == (400, "active", "0")


def test_a_session_needs_its_secret_and_no_key(world: World, store: Database) -> None:
    locked = World(world.folder, store, keys={"ada@example.org": "key-of-ada"})
    assert locked.call("POST", "/upload/v1/files", headers=START).status_code == 403
    url = started(locked, 10, headers={"x-goog-api-key": "key-of-ada"})
    wrong = url[:-1] + ("a" if url[-1] != "a" else "b")
    assert sent(locked, wrong, HELLO).status_code == 404
    assert sent(locked, url.partition("?")[0], HELLO).status_code == 404
    answer = sent(locked, url, HELLO)
    assert answer.status_code == 200
    assert locked.files.get(answer.json()["file"]["name"], Principal("ada@example.org")).owner == "ada@example.org"


def test_the_secret_is_stored_nowhere_and_never_logged(world: World, logged: list[Any]) -> None:
    url = started(world, 10)
    secret = url.rpartition("=")[2]
    sent(world, url, HELLO[:4], command="upload")
    assert len(secret) >= 40
    assert secret not in str(logged)
    assert not any(secret in name for name in stored(world.folder))
    for path in world.folder.glob("kastor.db*"):
        assert secret.encode() not in path.read_bytes()


def test_a_session_ends_after_a_day(world: World) -> None:
    url = started(world, 10)
    sent(world, url, HELLO[:4], command="upload")
    world.now += timedelta(hours=25)
    assert status_of(sent(world, url, b"", command="query"))[:2] == (404, "final")
    world.files.delete_orphans()
    assert partials(world.folder) == []


def test_a_client_chooses_the_name(world: World) -> None:
    file = sent(world, started(world, name="files/my-named-file"), HELLO).json()["file"]
    assert file["name"] == "files/my-named-file"
    answer = world.call("POST", "/upload/v1/files", headers=START, json={"file": {"name": "files/my-named-file"}})
    assert (answer.status_code, error_of(answer)["status"]) == (409, "ALREADY_EXISTS")


def test_of_two_uploads_to_one_name_the_first_to_end_gets_it(world: World) -> None:
    one, two = started(world, name="files/x"), started(world, name="files/x")
    assert sent(world, one, b"one").status_code == 200
    assert status_of(sent(world, two, b"two"))[:2] == (409, "final")
    assert contents(world.folder) == [b"one"]


@pytest.mark.parametrize(
    "name", ["files/../../etc/passwd", "files/a/b", "files/-a", "files/A", "files/", "files/" + "a" * 41, "files/a\x00"]
)
def test_a_name_that_may_not_be_one_is_refused(world: World, name: str) -> None:
    answer = world.call("POST", "/upload/v1/files", headers=START, json={"file": {"name": name}})
    assert fields_of(answer) == ["file.name"]


def test_the_name_on_the_clients_disk_leads_nowhere(world: World) -> None:
    file = uploaded(world, HELLO, {"X-Goog-Upload-File-Name": "../../../x.csv", "Content-Type": ""})
    assert file["mimeType"] == "text/csv"
    assert all(name.startswith(("content/", "lock")) for name in stored(world.folder))


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ({"mimeType": "text/html\r\nX-Evil: 1"}, "file.mimeType"),
        ({"mimeType": "html"}, "file.mimeType"),
        ({"displayName": "x" * 513}, "file.displayName"),
        ({"displayName": "a\x00b"}, "file.displayName"),
        ({"sizeBytes": -1}, "file.sizeBytes"),
        ({"sizeBytes": 1.5}, "file.sizeBytes"),
        ({"sizeBytes": "9" * 40}, "file.sizeBytes"),
    ],
)
def test_what_a_file_may_not_be_is_named(world: World, file: dict[str, object], field: str) -> None:
    answer = world.call("POST", "/upload/v1/files", headers=START, json={"file": file})
    assert fields_of(answer) == [field]


def test_a_description_is_small(world: World) -> None:
    answer = world.call("POST", "/upload/v1/files", headers=START, content=b" " * 100_000)
    assert answer.status_code == 400


def test_one_request_carries_description_and_bytes(world: World) -> None:
    body = (
        b'--==5==\nContent-Type: application/json\nMIME-Version: 1.0\n\n{"file": {"displayName": "legacy file"}}\n'
        b"--==5==\nContent-Type: text/plain\nMIME-Version: 1.0\nContent-Transfer-Encoding: binary\n\n"
        b"hello legacy file\r\n--==5==--\n"
    )
    answer = multipart(world, body, 'multipart/related; boundary="==5=="')
    file = answer.json()["file"]
    assert (file["displayName"], file["mimeType"], file["sizeBytes"]) == ("legacy file", "text/plain", "18")
    assert contents(world.folder) == [b"hello legacy file\r"]
    assert partials(world.folder) == []


def test_a_body_that_is_cut_leaves_nothing(world: World) -> None:
    body = b"--b\r\n\r\n{}\r\n--b\r\n\r\nhello"
    assert multipart(world, body, "multipart/related; boundary=b").status_code == 400
    assert partials(world.folder) == [] and contents(world.folder) == []


def test_raw_bytes_become_a_file(world: World) -> None:
    file = uploaded(world, b"", {"Content-Type": "application/x-www-form-urlencoded"})
    assert (file["sizeBytes"], file["mimeType"]) == ("0", "application/octet-stream")


def test_an_upload_in_no_protocol_is_told_them(world: World) -> None:
    answer = world.call("POST", "/upload/v1beta/files", content=HELLO)
    assert "resumable" in error_of(answer)["message"]


def put(world: World, url: str, content: bytes, content_range: str | None) -> httpx.Response:
    headers = {} if content_range is None else {"Content-Range": content_range}
    return world.call("PUT", url, content=content, headers=headers)


def legacy(world: World, size: int = 10) -> str:
    headers = {"X-Upload-Content-Type": "text/plain", "X-Upload-Content-Length": str(size)}
    target = "/upload/v1beta/files?alt=json&uploadType=resumable"
    answer = world.call("POST", target, json={"file": {"displayName": "legacy file"}}, headers=headers)
    return str(answer.headers["location"]).removeprefix("http://localhost")


def test_content_range_says_where_bytes_go_and_308_how_far_they_came(world: World) -> None:
    url = legacy(world)
    nothing = put(world, url, b"", "bytes */10")
    assert (nothing.status_code, nothing.headers.get("range")) == (308, None)
    first = put(world, url, HELLO[:4], "bytes 0-3/10")
    assert (first.status_code, first.headers["range"]) == (308, "bytes=0-3")
    again = put(world, url, HELLO[:4], "bytes 0-3/10")
    assert (again.status_code, again.headers["range"]) == (308, "bytes=0-3")
    assert put(world, url, b"", "bytes */*").headers["range"] == "bytes=0-3"
    last = put(world, url, HELLO[4:], "bytes 4-9/10")
    assert last.json()["file"]["mimeType"] == "text/plain"
    assert put(world, url, b"", "bytes */10").json() == last.json()
    assert contents(world.folder) == [HELLO]


def test_without_content_range_the_body_is_the_file(world: World) -> None:
    assert put(world, legacy(world), HELLO, None).json()["file"]["sizeBytes"] == "10"
    assert put(world, legacy(world, 0), b"", None).json()["file"]["displayName"] == "legacy file"


@pytest.mark.parametrize(
    "said", ["bytes 3-1/10", "bytes 0-10/10", "bytes -5-1/10", "0-3/10", "bytes 0-3/x", "bytes 0-5/10", "bytes a-b/10"]
)
def test_a_content_range_that_is_none_is_refused(world: World, said: str) -> None:
    assert put(world, legacy(world), HELLO[:4], said).status_code == 400


def test_two_requests_to_one_upload_mix_no_bytes(world: World) -> None:
    ones, twos = b"1" * 3_000_000, b"2" * 3_000_000
    with listening(world) as base:
        answer = httpx.post(f"{base}/upload/v1/files", headers=START)
        url, answers = answer.headers["x-goog-upload-url"], []
        headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}

        def send(content: bytes) -> None:
            answers.append(httpx.post(url, content=content, headers=headers, timeout=20))

        threads = [threading.Thread(target=send, args=(content,)) for content in (ones, twos)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answer.status_code for answer in answers)[0] == 200
    (content,) = contents(world.folder)
    assert content in (ones, twos)


def test_a_full_disk_takes_back_the_chunk_and_the_same_may_be_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = started(world, 200_010)
    sent(world, url, HELLO, command="upload")
    real = os.pwrite

    def full(descriptor: int, piece: Any, position: int) -> int:
        if position > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, piece[:1000], position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        answer = sent(world, url, b"x" * 200_000, offset=10)
    assert status_of(answer)[:2] == (429, None)
    assert error_of(answer)["status"] == "RESOURCE_EXHAUSTED"
    assert status_of(sent(world, url, b"", command="query")) == (200, "active", "10")
    assert sent(world, url, b"x" * 200_000, offset=10).status_code == 200
    assert contents(world.folder) == [HELLO + b"x" * 200_000]

"""Rows of files and uploads, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kastor.domain.errors import AlreadyExists
from kastor.domain.file import StoredFile, Upload
from kastor.store.database import Database
from kastor.store.files import FileStore

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def make_file(file_id: str = "x", **changes: object) -> StoredFile:
    sha256 = "a" * 64
    file = StoredFile(file_id, "ada@example.org", "Zahlen ☃", "text/plain", 2**40, sha256, NOON, NOON, NOON + 48 * HOUR)
    return replace(file, **changes)  # type: ignore[arg-type]


def make_upload(upload_id: str = "1" * 64, **changes: object) -> Upload:
    upload = Upload(upload_id, "x", "ada@example.org", "Zahlen", "text/plain", None, NOON)
    return replace(upload, **changes)  # type: ignore[arg-type]


@pytest.fixture
def files(database: Database) -> FileStore:
    return FileStore(database)


def test_a_file_comes_back_as_it_went_in(files: FileStore) -> None:
    files.add(make_file())
    assert files.find("x") == make_file()
    assert files.find("y") is None


def test_an_id_is_given_once(files: FileStore) -> None:
    files.add(make_file())
    with pytest.raises(AlreadyExists, match="files/x already exists"):
        files.add(make_file(owner="bob@example.org"))


def test_pages_hold_what_one_owner_has_and_has_not_expired(files: FileStore) -> None:
    for i in range(5):
        files.add(make_file(f"f{i}", created_at=NOON + i * HOUR))
    files.add(make_file("twin", created_at=NOON))
    files.add(make_file("old", expires_at=NOON))
    files.add(make_file("foreign", owner="bob@example.org"))
    first = files.page(owner="ada@example.org", now=NOON, limit=3)
    assert [file.id for file in first] == ["f4", "f3", "f2"]
    rest = files.page(owner="ada@example.org", now=NOON, limit=9, before=(first[-1].created_at, "f2"))
    assert [file.id for file in rest] == ["f1", "twin", "f0"]
    assert len(files.page(owner=None, now=NOON, limit=99)) == 7


def test_expired_files_are_found_and_removed(files: FileStore) -> None:
    files.add(make_file("old", expires_at=NOON))
    files.add(make_file("young", expires_at=NOON + HOUR))
    assert [file.id for file in files.expired(NOON)] == ["old"]
    assert files.remove("old") and not files.remove("old")
    assert files.holds("a" * 64)
    files.remove("young")
    assert not files.holds("a" * 64)


def test_an_upload_comes_back_until_it_is_forgotten(files: FileStore) -> None:
    upload = make_upload(declared_bytes=2**40)
    files.begin(upload)
    assert files.upload(upload.id) == upload
    files.forget(upload.id)
    files.forget(upload.id)
    assert files.upload(upload.id) is None


def test_uploads_that_became_a_file_are_not_unfinished_and_go_sooner(files: FileStore) -> None:
    files.begin(make_upload("1" * 64, file_id="done", created_at=NOON - 2 * HOUR))
    files.begin(make_upload("2" * 64, file_id="young", created_at=NOON - 2 * HOUR))
    files.begin(make_upload("3" * 64, file_id="old", created_at=NOON - 25 * HOUR))
    files.begin(make_upload("4" * 64, file_id="other", owner="bob@example.org"))
    files.add(make_file("done"))
    assert files.unfinished("ada@example.org") == 2
    old = files.old_uploads(finished_before=NOON - HOUR, before=NOON - 24 * HOUR)
    assert sorted(old) == ["1" * 64, "3" * 64]

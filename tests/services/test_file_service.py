"""Use cases of files that need no wire: bounds, crashes, and many at once."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kastor.domain.errors import AlreadyExists, NotFound, PermissionDenied, ResourceExhausted
from kastor.domain.permission import Principal
from kastor.services.files import MAX_UNFINISHED, FileService, NewFile
from kastor.store.blobs.upload_blobs import UploadBlobs
from kastor.store.database import Database
from kastor.store.files import FileStore

ADA, BOB = Principal("ada@example.org"), Principal("bob@example.org")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, sqlite_database: Database, clock: Clock) -> FileService:
    return made(tmp_path, sqlite_database, clock)


def made(folder: Path, database: Database, clock: Clock) -> FileService:
    ttl = timedelta(hours=48)
    return FileService(files=FileStore(database), blobs=UploadBlobs(folder), clock=clock, max_file_bytes=10**6, ttl=ttl)


def filled(service: FileService, content: bytes, caller: Principal = ADA, name: str = "") -> str:
    """The secret of an upload that has all its bytes."""
    secret = service.begin(NewFile(name), caller)
    appending = service.append(secret, 0)
    appending.write(content)
    appending.close()
    return secret


def on_disk(folder: Path) -> Iterator[str]:
    return (path.name for path in (folder / "files").rglob("*") if path.is_file() and path.name != "lock")


def test_unfinished_uploads_are_bounded_by_caller_and_finished_ones_are_not(
    service: FileService, tmp_path: Path
) -> None:
    for _ in range(3):
        service.finish(filled(service, b"x"))
    secrets = [service.begin(NewFile(), ADA) for _ in range(MAX_UNFINISHED)]
    with pytest.raises(ResourceExhausted, match="1000 uploads of ada@example.org are unfinished"):
        service.begin(NewFile(), ADA)
    service.begin(NewFile(), BOB)
    service.cancel(secrets[0])
    service.begin(NewFile(), ADA)


def test_an_upload_is_dropped_after_a_day_and_its_state_after_an_hour_if_it_ended(
    service: FileService, clock: Clock, tmp_path: Path
) -> None:
    open_one, ended = filled(service, b"open"), filled(service, b"ended")
    file = service.finish(ended)
    clock.now += timedelta(hours=2)
    service.delete_orphans()
    assert service.progress(open_one).received == 4
    with pytest.raises(NotFound):
        service.progress(ended)
    clock.now += timedelta(hours=23)
    service.delete_orphans()
    assert list(on_disk(tmp_path)) == [file.sha256]


def test_old_bytes_without_a_row_go_at_the_first_tidying_and_others_stay(
    service: FileService, sqlite_database: Database, clock: Clock, tmp_path: Path
) -> None:
    file, going_on = service.finish(filled(service, b"kept")), filled(service, b"going on")
    lost = filled(service, b"lost")
    crashed = FileStore(sqlite_database)
    crashed.remove(service.finish(filled(service, b"crashed")).id)
    orphan = tmp_path / "files" / "partial" / ("f" * 64)
    orphan.write_bytes(b"of an upload that was forgotten")
    service.cancel(lost)
    for path in (tmp_path / "files").rglob("*"):
        os.utime(path, (0, 0))
    young = tmp_path / "files" / "content" / "ee" / ("e" * 64)  # its row may be in another database
    young.parent.mkdir(exist_ok=True)
    young.write_bytes(b"young")
    restarted = made(tmp_path, sqlite_database, clock)
    restarted.delete_orphans()
    assert not orphan.exists()
    assert restarted.path_of(file.name, ADA).read_bytes() == b"kept"
    assert restarted.finish(going_on).size_bytes == 8
    assert sorted(path.read_bytes() for path in (tmp_path / "files" / "content").rglob("*") if path.is_file()) == [
        b"going on",
        b"kept",
        b"young",
    ]


def test_content_that_comes_and_goes_at_the_same_time_is_never_lost(service: FileService) -> None:
    def come_and_go(caller: Principal) -> None:
        for _ in range(25):
            file = service.finish(filled(service, b"the same for all", caller))
            assert service.path_of(file.name, caller).read_bytes() == b"the same for all"
            service.delete(file.name, caller)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(come_and_go, (ADA, BOB, ADA))) == [None] * 3


def test_one_upload_finished_by_many_at_once_is_one_file(service: FileService) -> None:
    for _ in range(10):
        secret = filled(service, b"x")
        with ThreadPoolExecutor() as pool:
            assert len({file.name for file in pool.map(service.finish, [secret] * 6)}) == 1


def test_a_foreign_file_of_the_same_name_is_not_what_an_upload_became(service: FileService) -> None:
    mine = filled(service, b"mine", ADA, "files/x")
    service.finish(filled(service, b"theirs", BOB, "files/x"))
    with pytest.raises(AlreadyExists):
        service.finish(mine)
    with pytest.raises(NotFound):
        service.progress(mine)
    with pytest.raises(PermissionDenied):
        service.get("files/x", ADA)

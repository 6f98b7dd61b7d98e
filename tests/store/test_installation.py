"""A data folder and a database know each other; with a stranger nothing is begun, and so nothing is lost."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from kastor.domain.errors import FailedPrecondition
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import Database, migrate, open_database
from kastor.store.installation import ID_FILE, check_installation
from kastor.store.jobs import JobStore
from kastor.store.tables import installation
from support.domain_values import make_job, make_model


@pytest.fixture(name="folder")
def a_data_folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(name="other")
def another_database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'other' / 'kastor.db'}")
    migrate(database)
    yield database
    database.close()


def add_job(database: Database, folder: Path, job_id: str = "job1") -> None:
    job = make_job(job_id)
    JobFiles(folder).write_dataset(job_id, [b"{}"])
    JobStore(database).add(job, make_model(job))


def forget(database: Database, folder: Path) -> None:
    """As releases before the id left them."""
    with database.write() as connection:
        connection.execute(delete(installation))
    (folder / ID_FILE).unlink(missing_ok=True)


def test_at_their_first_contact_both_get_the_same_id_and_know_each_other_from_then_on(
    database: Database, folder: Path
) -> None:
    check_installation(database, folder)
    written = (folder / ID_FILE).read_text()
    assert len(written.strip()) == 32
    add_job(database, folder)
    check_installation(database, folder)
    assert (folder / ID_FILE).read_text() == written


def test_an_installation_of_an_older_release_is_adopted_as_it_is(database: Database, folder: Path) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    assert (folder / ID_FILE).exists()


def test_an_empty_database_beside_a_full_folder_is_refused_with_what_to_do(
    database: Database, folder: Path, other: Database
) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    for ids in ("known", "of an older release"):
        if ids == "of an older release":
            forget(database, folder)
        with pytest.raises(FailedPrecondition, match=r"knows none of them\. Start with the database .* from a backup"):
            check_installation(other, folder)
    assert JobFiles(folder).dataset("job1").exists()
    check_installation(database, folder)  # and the right one is still taken


def test_another_database_with_jobs_of_its_own_is_refused(
    database: Database, folder: Path, other: Database, tmp_path: Path
) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    add_job(other, tmp_path / "elsewhere", "job2")
    check_installation(other, tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition, match="belongs to another database"):
        check_installation(other, folder)
    forget(database, folder)
    with pytest.raises(FailedPrecondition, match="knows none of them"):
        check_installation(other, folder)


def test_a_folder_of_uploaded_files_alone_is_a_full_one(database: Database, folder: Path) -> None:
    content = folder / "files" / "content" / "ab" / ("ab" * 32)
    content.parent.mkdir(parents=True)
    content.write_bytes(b"a row")
    with pytest.raises(FailedPrecondition, match="knows none of them"):
        check_installation(database, folder)


def test_a_database_with_jobs_is_not_begun_on_an_empty_folder(database: Database, folder: Path, tmp_path: Path) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    with pytest.raises(FailedPrecondition, match="holds none of their files"):
        check_installation(database, tmp_path / "unmounted")
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize("harm", [b"", b"\xff\0", b"0123456789abcdef"])
def test_a_damaged_id_is_written_anew_where_folder_and_database_know_each_other(
    database: Database, folder: Path, other: Database, harm: bytes
) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    written = (folder / ID_FILE).read_text()
    (folder / ID_FILE).write_bytes(harm)
    with pytest.raises(FailedPrecondition):
        check_installation(other, folder)
    check_installation(database, folder)
    assert (folder / ID_FILE).read_text() == written


def test_a_backup_of_before_the_id_is_taken_back_by_its_folder(database: Database, folder: Path) -> None:
    add_job(database, folder)
    check_installation(database, folder)
    written = (folder / ID_FILE).read_text()
    with database.write() as connection:
        connection.execute(delete(installation))
    check_installation(database, folder)
    assert (folder / ID_FILE).read_text() == written


@pytest.mark.parametrize("harm", ["text", "header", "page", "cut"])
def test_a_damaged_sqlite_file_is_one_sentence(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "kastor.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    add_job(database, tmp_path)
    database.close()
    content = bytearray(path.read_bytes())
    if harm == "text":
        content = bytearray(b"this is no database" * 500)
    elif harm == "header":
        content[:16] = b"SQLite format 9\0"
    elif harm == "page":
        content[4096:] = os.urandom(len(content) - 4096)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    again = open_database(f"sqlite:///{path}")
    with pytest.raises(FailedPrecondition, match=r"kastor\.db is damaged .*Restore it from a backup") as refused:
        migrate(again)
        check_installation(again, tmp_path)
        JobStore(again).page(limit=9)
    assert "\n" not in refused.value.message
    again.close()

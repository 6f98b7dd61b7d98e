"""Connections, transactions, and what their failures become."""

import ast
import sqlite3
import threading
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

import kastor
from kastor.domain.errors import InvalidArgument, ResourceExhausted, Unavailable
from kastor.domain.job import JobEvent
from kastor.store.database import Database, migrate, open_database
from kastor.store.jobs import JobStore
from support.domain_values import START, make_job, make_model
from support.postgres import fresh_schema


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kastor.db", "not an address of a database"),
        ("nosuch://x/y", "names nosuch; use sqlite:///path or postgresql://"),
        ("mysql://localhost/kastor", "use sqlite:///path or postgresql://"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_an_address_that_cannot_serve_is_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        open_database(url)


@pytest.mark.parametrize("url", ["postgres://u@h/d", "postgresql://u@h/d", "postgresql+psycopg2://u@h/d"])
def test_every_spelling_of_postgresql_means_the_installed_driver(url: str) -> None:
    database = open_database(url)
    assert database.engine.url.drivername == "postgresql+psycopg"
    assert database.postgresql


def test_a_server_that_is_not_there_is_unavailable_and_its_password_not_told(tmp_path: Path) -> None:
    jobs = JobStore(open_database(f"postgresql://ada:secret@/kastor?host={tmp_path}"))
    with pytest.raises(Unavailable, match="cannot be used") as caught:
        jobs.get("job1")
    assert "secret" not in caught.value.message


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    jobs = JobStore(open_database(f"sqlite:///{tmp_path / 'missing' / 'kastor.db'}"))
    with pytest.raises(Unavailable, match="unable to open database file"):
        jobs.get("job1")


def test_sqlite_writes_ahead_so_that_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    migrate(database)
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    with database.write():
        started = time.monotonic()
        JobStore(database).counts()
        assert time.monotonic() - started < 1
    database.close()


def test_a_second_writer_waits_for_the_first_instead_of_failing(database: Database) -> None:
    jobs, holds = JobStore(database), threading.Event()
    job = make_job()
    jobs.add(job, make_model(job))

    def write_slowly() -> None:
        with database.write() as connection:
            connection.execute(text("UPDATE jobs SET deaths = 7"))
            holds.set()
            time.sleep(0.3)

    slow = threading.Thread(target=write_slowly)
    slow.start()
    holds.wait()
    claimed = jobs.claim(at=START, max_active=1)
    slow.join()
    # PostgreSQL skips the row that somebody else holds; SQLite has waited
    assert claimed is None if database.postgresql else claimed is not None and claimed.deaths == 7


def test_a_write_that_reads_first_is_not_overtaken(sqlite_database: Database) -> None:
    jobs, job = JobStore(sqlite_database), make_job()
    jobs.add(job, make_model(job))
    other = threading.Thread(target=jobs.add_event, args=("job1", JobEvent(START, "info", "overtaking")))
    with sqlite_database.write() as connection:
        connection.execute(text("SELECT deaths FROM jobs")).all()
        other.start()
        other.join(0.2)
        connection.execute(text("UPDATE jobs SET deaths = 7"))  # at once "locked" if somebody wrote since the SELECT
    other.join()
    assert jobs.get("job1").deaths == 7


def test_an_error_in_a_transaction_undoes_all_of_it(database: Database) -> None:
    jobs = JobStore(database)
    job = make_job()
    jobs.add(job, make_model(job))
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(text("DELETE FROM jobs"))
        raise RuntimeError
    assert jobs.get("job1") == job


def test_a_full_disk_is_said_to_be_one_and_loses_nothing(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    migrate(database)
    jobs, job, too_much = JobStore(database), make_job(), make_job("job2", tuned_model_id="x" * 1_000_000)
    jobs.add(job, make_model(job))
    with database.read() as connection:  # the pool's only connection so far: the others would have no such limit
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count={pages + 4}"))
    with pytest.raises(ResourceExhausted, match=r"No space left for the database .*kastor\.db"):
        jobs.add(too_much, make_model(too_much, id="m"))
    assert jobs.page(limit=9) == [job]
    database.close()


def test_a_long_lived_foreign_lock_ends_in_a_refusal_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "kastor.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    with database.read() as connection:
        connection.execute(text("PRAGMA busy_timeout=50"))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    job = make_job()
    with pytest.raises(Unavailable, match="was busy"):
        JobStore(database).add(job, make_model(job))
    holder.close()
    database.close()


def test_a_version_is_another_one_after_a_commit_by_anybody(database: Database, database_url: str) -> None:
    before = database.version()
    assert database.version() == before
    with database.write() as connection:
        connection.execute(text("CREATE TABLE first (x INTEGER)"))
    own = database.version()
    other = open_database(database_url)
    with other.write() as connection:
        connection.execute(text("CREATE TABLE second (x INTEGER)"))
    other.close()
    seen = {before, own, database.version()}
    assert seen == {None} if database.postgresql else len(seen) == 3


def test_a_version_is_not_told_where_the_database_cannot_be_asked(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'no-folder' / 'kastor.db'}")
    assert database.version() is None
    database.close()


def frozen(postgres: str) -> list[psutil.Process]:
    """All processes of the PostgreSQL of this socket folder, stopped."""
    pid = int((Path(postgres) / "data" / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    return processes


def test_a_frozen_postgresql_is_told_in_time_and_works_when_it_is_back(postgres: str) -> None:
    with fresh_schema(postgres, "frozen") as url:
        database = open_database(url, timeout_s=2)
        migrate(database)
        assert JobStore(database).page(limit=1) == []  # so that a connection waits in the pool
        processes = frozen(postgres)
        try:
            for _ in range(2):  # with an open connection, and with a new one
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    JobStore(database).page(limit=1)
                assert time.monotonic() - began < 15
                assert database.num_overdue_calls
        finally:
            for process in reversed(processes):
                process.resume()
        assert JobStore(database).page(limit=1) == []
        assert not database.num_overdue_calls
        assert database.deadlines._due == {}
        database.close()


def test_a_locked_sqlite_is_told_after_the_time_that_was_set(tmp_path: Path) -> None:
    first, second = (open_database(f"sqlite:///{tmp_path / 'kastor.db'}", timeout_s=s) for s in (30, 0.5))
    migrate(first)
    with first.write(), pytest.raises(Unavailable, match="was busy for"), second.write():
        pass
    first.close()
    second.close()


def test_every_process_gives_the_database_the_time_that_the_settings_say() -> None:
    opened = [
        (path, call)
        for path in Path(kastor.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "open_database"
    ]
    assert len(opened) > 4
    for path, call in opened:
        assert "timeout_s=settings.database_timeout_s" in ast.unparse(call), path

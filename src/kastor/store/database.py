"""The connection to SQLite or PostgreSQL: how transactions begin, and which errors their failures become.

Knows no table; SQL is in `jobs` and `registry`.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from kastor.domain.errors import FailedPrecondition, InvalidArgument, KastorError, ResourceExhausted, Unavailable
from kastor.security.file_modes import FILE_MODE, private_file, private_folder, restrict
from kastor.store.connection_deadlines import ConnectionDeadlines

BUSY_TIMEOUT_S = 30.0
"""A write waits this long for the writes of other processes (SQLite lets in one at a time)."""
MIGRATION_LOCK = 0x6B6173746F72  # "kastor": key of the advisory lock under which PostgreSQL is migrated
POOL = {"pool_size": 8, "max_overflow": 40}  # more than the threads an HTTP server runs handlers in
WRITE = "kastor_write"
DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """An engine whose transactions say beforehand whether they will write."""

    def __init__(self, engine: Engine, timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.engine = engine
        self.timeout_s = timeout_s
        self._overdue = False
        self.deadlines = ConnectionDeadlines(timeout_s)
        if self.postgresql:
            self.deadlines.listen(engine)
        self._watching: sqlite3.Connection | None = None
        self._watch = threading.Lock()

    @property
    def shown(self) -> str:
        """Its address without a password, for messages."""
        return _shown(self.engine.url)

    @property
    def num_overdue_calls(self) -> bool:
        """Whether the latest transaction failed for want of an answer; tells at once."""
        return self._overdue

    @property
    def postgresql(self) -> bool:
        """PostgreSQL, not SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view on SQLite, one per statement on PostgreSQL."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception.

        Keep everything slow outside: SQLite has one writer at a time.
        """
        with (
            self._translated(),
            self.engine.connect().execution_options(**{WRITE: True}) as connection,
            connection.begin(),
        ):
            yield connection

    def version(self) -> int | None:
        """A number that is another one after any commit, whoever made it; `None` where the database keeps no count.

        Takes some microseconds on SQLite. PostgreSQL has no such number, and a SQLite that cannot be asked has none.
        """
        if self.postgresql:
            return None
        try:
            with self._watch:
                if self._watching is None:
                    self._watching = self._watcher()
                return int(self._watching.execute("PRAGMA data_version").fetchone()[0])
        except (sqlite3.Error, DBAPIError):
            return None

    def _watcher(self) -> sqlite3.Connection:
        """A connection that never writes, as its own commits would not be counted."""
        pooled = self.engine.raw_connection()
        connection = cast(sqlite3.Connection, pooled.driver_connection)
        pooled.detach()  # from the pool, which would hand it to writers
        return connection

    def close(self) -> None:
        """Give all connections back."""
        with self._watch:
            if self._watching is not None:
                self._watching.close()
                self._watching = None
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Failures of the database as ours. Broken constraints pass: what they mean, the statement's author knows."""
        try:
            yield
            self._overdue = False
        except IntegrityError:
            raise
        except DBAPIError as error:
            told = _domain_error(error, self.engine.url, self.timeout_s)
            self._overdue = isinstance(told, Unavailable)
            raise told from error
        except (PoolTimeout, InvalidRequestError) as error:  # all connections are in use, or none was there when asked
            if isinstance(error, InvalidRequestError) and "connection is closed" not in str(error):
                raise
            self._overdue = True
            raise Unavailable(f"The database did not answer for {self.timeout_s:.0f} s; try again.") from error


def open_database(url: str, *, timeout_s: float = BUSY_TIMEOUT_S) -> Database:
    """The database at `url`; nothing is created or migrated (see `migrate`). It has `timeout_s` for each transaction.

    Raises:
        InvalidArgument: `url` is not one of a SQLite file or of PostgreSQL.

    """
    parsed = _checked(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": timeout_s}, pool_timeout=timeout_s, **POOL)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return Database(engine, timeout_s)
    try:
        connecting = {"connect_timeout": max(2, round(timeout_s))}  # libpq takes 1 for 2
        engine = create_engine(parsed, connect_args=connecting, pool_timeout=timeout_s, **POOL)
        return Database(engine, timeout_s)
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"database_url {_shown(parsed)} needs a driver that is not installed; "
            "in Kastor's checkout: pip install '.[postgres]'"
        ) from error


def migrate(database: Database) -> None:
    """Bring the database to the present tables. Safe when several processes do it at once; creates a SQLite file.

    Raises:
        FailedPrecondition: a newer Kastor wrote the database, or its folder cannot be made.
        Unavailable: it cannot be reached or opened.

    """
    if database.postgresql:
        _upgrade(database)
        return
    path = Path(str(database.engine.url.database))
    try:
        private_folder(path.parent)
        # the change to WAL needs the file for itself and does not wait for it
        with FileLock(f"{path}.lock", mode=FILE_MODE):
            private_file(path)  # SQLite gives the files beside it the same mode
            for beside in ("-wal", "-shm"):
                restrict(path.with_name(path.name + beside))
            with database.read() as connection:
                connection.rollback()
                _autocommit(connection, "PRAGMA journal_mode=WAL")
            _upgrade(database)
    except OSError as error:
        raise FailedPrecondition(f"Cannot use {path.parent} for the database: {error.strerror or error}.") from error


def _upgrade(database: Database) -> None:
    with database.read() as connection:
        if _revision(connection) == newest_revision():
            return  # as at every start but the first
    # Alembic doubles the time to import this module, and only a process that migrates needs it: workers do not
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with database.deadlines.without_deadline():  # another process may be migrating, or have much to change
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with database.write() as connection:
            if database.postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise FailedPrecondition(
                    f"The database {database.shown} was written by a newer Kastor: {error}. Upgrade Kastor."
                ) from error


def newest_revision() -> str:
    """The revision that a migrated database has: the last by name of the files in `migrations/versions`."""
    return max(path.name[1:5] for path in (MIGRATIONS / "versions").glob("v[0-9]*.py"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _checked(url: str) -> URL:
    try:
        parsed = make_url("postgresql" + url.removeprefix("postgres") if url.startswith("postgres:") else url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidArgument(f"database_url is not an address of a database: {error}") from error
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InvalidArgument(f"database_url names {backend}; use sqlite:///path or postgresql://user@host/name")
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidArgument("database_url names no file; workers are processes of their own and need one")
    return parsed


def _set_up_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # without isolation_level the driver would begin transactions by itself, and late
    connection.isolation_level = None
    connection.create_function("lower", 1, str.lower, deterministic=True)  # SQLite's own knows no letter above ASCII
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL: no corruption at a power cut, at most the last commits lost
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that reads first and asks for the write lock later fails at once when another has written
    # in between, whatever the busy timeout; BEGIN IMMEDIATE waits
    immediate = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _autocommit(connection: Connection, statement: str) -> None:
    """Run a statement that may not stand in a transaction."""
    cursor = connection.connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _domain_error(error: DBAPIError, url: URL, timeout_s: float) -> KastorError:
    name = getattr(error.orig, "sqlite_errorname", "")  # only some of sqlite3's errors carry one
    sqlstate = getattr(error.orig, "sqlstate", None)  # psycopg's
    said = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if name == "SQLITE_FULL" or sqlstate == "53100":
        return ResourceExhausted(f"No space left for the database {_shown(url)}; free some and try again.")
    if name.startswith("SQLITE_BUSY"):
        return Unavailable(f"The database {_shown(url)} was busy for {timeout_s:.0f} s; try again.")
    if name.startswith(DAMAGED):
        return FailedPrecondition(
            f"The database {_shown(url)} is damaged ({said}). Restore it from a backup; to begin anew, move it and the "
            "folders jobs and files beside it away."
        )
    if isinstance(error, OperationalError):
        return Unavailable(f"The database {_shown(url)} cannot be used: {said}.")
    raise error


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)

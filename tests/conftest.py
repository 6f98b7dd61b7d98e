"""Makes `tests/` importable, so that `from tiny import tiny_base` works in every test (import mode "prepend").

Fixtures that tests of several folders share: a fresh, migrated database of each kind.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.store.database import Database, migrate, open_database
from postgres import drop_database, make_database, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The socket folder of a PostgreSQL that holds a migrated database `migrated`; started when first needed."""
    with running_postgres() as socket_folder:
        database = open_database(make_database(socket_folder, "migrated"))
        migrate(database)
        database.close()
        yield socket_folder


@pytest.fixture(scope="session")
def database_numbers() -> Iterator[int]:
    """Numbers for names of databases."""
    return itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables; the test runs once on SQLite and once on PostgreSQL."""
    yield from _url(request, tmp_path, template="template1")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database with tables; the test runs once on SQLite and once on PostgreSQL."""
    for url in _url(request, tmp_path, template="migrated"):
        if request.param == "sqlite":
            database = open_database(url)
            migrate(database)
            database.close()
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, open."""
    database = open_database(database_url)
    yield database
    database.close()


def _url(request: pytest.FixtureRequest, tmp_path: Path, *, template: str) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'kastor.db'}"
        return
    socket_folder = request.getfixturevalue("postgres")
    name = f"test{next(request.getfixturevalue('database_numbers'))}"
    yield make_database(socket_folder, name, template)
    drop_database(socket_folder, name)

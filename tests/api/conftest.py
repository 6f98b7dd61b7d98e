"""Fixtures of the API's tests."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from kastor.store.database import Database, migrate, open_database
from support.api_world import World


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def world(tmp_path: Path, store: Database) -> World:
    return World(tmp_path, store)

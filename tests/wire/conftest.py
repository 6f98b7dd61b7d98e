"""Fixtures of the wire's tests: a fresh, migrated database for each, without migrating each."""

import shutil
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from kastor.domain.request_limits import PROFILES
from kastor.store.database import migrate, open_database
from support.api_world import World
from support.capture_replay import OWNER


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a migrated database that nobody has open."""
    path = tmp_path_factory.mktemp("migrated") / "kastor.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    return path


@pytest.fixture
def world_of(tmp_path: Path, migrated: Path) -> Iterator[Callable[[str, str], World]]:
    """Makes the test's world: under the profile of a name, with a key for the owner of everything."""
    shutil.copy(migrated, tmp_path / "kastor.db")
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    yield lambda profile, key: World(tmp_path, database, limits=PROFILES[profile], keys={OWNER: key})
    database.close()

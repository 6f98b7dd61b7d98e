"""What an installation keeps is closed to other users of the machine, also what an older release left open."""

import os
import stat
from pathlib import Path

import pytest

from kastor.security.file_modes import private_folder, private_umask, restrict_data
from kastor.store.database import migrate, open_database


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    os.umask(0o022)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> set[int]:
    return {mode(path) for path in folder.rglob("*") if path.is_file()}


def test_an_installation_that_an_older_release_left_open_is_closed(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    for path in ("jobs/a1/adapter/adapter_model.safetensors", "jobs/a1/log.jsonl", "logs/engine-x.log", "files/lock"):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_text("x")
    (cache / "media").mkdir(parents=True)
    restrict_data(data, cache)
    assert modes(data) == {0o600}
    assert {mode(path) for path in (data, *data.rglob("*")) if path.is_dir()} == {0o700}
    assert mode(cache / "media") == 0o700


def test_links_are_not_followed_and_a_folder_of_everybody_stays_one(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o644)
    data = tmp_path / "data"
    (data / "jobs").mkdir(parents=True)
    (data / "jobs" / "link").symlink_to(outside)
    data.chmod(0o1777)
    restrict_data(data, tmp_path / "cache")
    assert mode(outside) == 0o644
    assert mode(data) == 0o1777


def test_the_database_and_the_files_beside_it_are_closed_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kastor.db"
    for _ in range(2):
        database = open_database(f"sqlite:///{path}")
        migrate(database)
        with database.read():
            assert modes(path.parent) == {0o600}
            assert (path.parent / "kastor.db-wal").exists()
        database.close()
        path.chmod(0o644)  # as an older release had it
    assert mode(path.parent) == 0o700


def test_the_umask_is_given_back(tmp_path: Path) -> None:
    with private_umask():
        (tmp_path / "inside").touch()
    (tmp_path / "after").touch()
    assert (mode(tmp_path / "inside"), mode(tmp_path / "after")) == (0o600, 0o644)


def test_parents_of_a_private_folder_are_made_as_usual(tmp_path: Path) -> None:
    private_folder(tmp_path / "share" / "kastor")
    assert (mode(tmp_path / "share"), mode(tmp_path / "share" / "kastor")) == (0o755, 0o700)

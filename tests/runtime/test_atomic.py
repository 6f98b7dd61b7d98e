"""Files and folders appear under their names as a whole or not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.runtime.atomic import rename_folder_synced, rename_synced, write_atomically


def test_a_file_is_written_and_its_sha256_given(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / "a", [b"one ", b"two"]) == hashlib.sha256(b"one two").hexdigest()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one two"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "a", broken())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_finished_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a.part").write_bytes(b"new")
    rename_synced(tmp_path / "a.part", tmp_path / "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_a_finished_folder_takes_an_empty_ones_place_but_not_that_of_one_with_files(tmp_path: Path) -> None:
    part, target = tmp_path / "part", tmp_path / "target"
    target.mkdir()
    for content in (b"new", b"newer"):
        part.mkdir()
        (part / "a").write_bytes(content)
        if content == b"new":
            rename_folder_synced(part, target)
    with pytest.raises(OSError, match="not empty"):
        rename_folder_synced(part, target)
    assert (target / "a").read_bytes() == b"new"

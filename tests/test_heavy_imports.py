"""What `make test-fast` leaves out is told from imports, also from those of shared builders."""

from pathlib import Path

import pytest

from support.heavy_imports import TESTS, is_heavy


@pytest.mark.parametrize("name", ["worker/test_worker.py", "test_fork_server.py", "media/test_chunk.py"])
def test_a_file_that_starts_processes_or_needs_torch_or_films_is_heavy(name: str) -> None:
    assert is_heavy(TESTS / name)


@pytest.mark.parametrize("name", ["domain/test_errors.py", "dataset/test_parse.py"])
def test_a_file_that_computes_in_this_process_is_not(name: str) -> None:
    assert not is_heavy(TESTS / name)


def test_what_a_builder_imports_counts_where_a_test_imports_it_within_itself(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("def test_it():\n    from support.worker_environment import Place\n")
    assert is_heavy(file)

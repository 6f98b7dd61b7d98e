"""How much memory is taken to be free."""

from pathlib import Path

import psutil
import pytest
import torch

from kastor.models.load import free_bytes

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's own memory counts there")


def control_group(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("900000\n")
    (folder / "memory.stat").write_text("anon 700000\nactive_file 50000\ninactive_file 100000\n")
    return folder


def test_a_container_has_no_more_than_its_limit_leaves_and_its_cached_files_would(tmp_path: Path) -> None:
    assert free_bytes(control_group(tmp_path, "1000000")) == 250_000
    assert free_bytes(control_group(tmp_path, "500000")) == 0


def test_without_a_limit_the_machine_has_what_it_has(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    for folder in (control_group(tmp_path, "max"), control_group(tmp_path, str(2 * total)), tmp_path / "none"):
        assert 1_000_000 < free_bytes(folder) <= total

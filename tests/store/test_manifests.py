"""Files of a tuned model are read only as they were written: whatever happened to one is said by its name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import DataLoss
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.manifests import UNREAD, manifest, verify, write_manifest


@pytest.fixture(name="folder")
def a_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs" / "job1" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"lora_alpha": 16}')
    (folder / "adapter_model.safetensors").write_bytes(b"numbers" * 9)
    (folder / "certificate.json").write_text("{}")
    write_manifest(folder, {"job": "job1"})
    return folder


def changed_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        about = json.loads((folder / "manifest.json").read_text())
        change(about)
        (folder / "manifest.json").write_text(json.dumps(about))

    return harm


def test_untouched_files_may_be_read(folder: Path) -> None:
    verify(folder, unread=UNREAD)
    verify(folder)
    assert manifest(folder)["job"] == "job1"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 63), "adapter_model.safetensors is damaged"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"numbers"), "adapter_model.safetensors is damaged"),
        (lambda f: (f / "adapter_config.json").write_text('{"lora_alpha": 32}'), "adapter_config.json is damaged"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda f: (f / "tower.safetensors").write_bytes(b"another"), "tower.safetensors is not listed"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text('{"files": {'), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json lists no files"),
        (changed_manifest(lambda about: about.pop("files")), "manifest.json lists no files"),
        (changed_manifest(lambda about: about.update(files={})), "is not listed"),
        (changed_manifest(lambda about: about["files"].update({"adapter_config.json": 7})), "adapter_config.json is d"),
    ],
)
def test_whatever_is_damaged_is_named(folder: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(folder)
    with pytest.raises(DataLoss, match=said) as caught:
        JobFiles(folder.parents[2]).verified_adapter(AdapterRef("job1"))
    assert "job1/adapter" in caught.value.message and str(folder) not in caught.value.message


def test_a_certificate_may_be_damaged_without_harm_to_answers(folder: Path) -> None:
    (folder / "certificate.json").write_text("{")
    (folder / ".DS_Store").write_bytes(b"")  # left by a file browser
    verify(folder, unread=UNREAD)
    with pytest.raises(DataLoss, match="certificate.json is damaged"):
        verify(folder)

"""Artifacts by keys: the same on a local disk and on a store without paths."""

import uuid
from pathlib import Path

import pytest

from kastor.domain.errors import DataLoss, NotFound
from kastor.store.blobs.artifact_store import ArtifactStore
from kastor.store.blobs.manifests import MANIFEST_FILE, write_manifest


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri() if request.param == "file" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    write_manifest(folder, {"step": 3})
    return folder


def test_a_folder_comes_back_as_it_was_put(url: str, folder: Path, tmp_path: Path) -> None:
    ArtifactStore.from_url(url).put_directory("jobs/job1/adapter", folder)
    copy = ArtifactStore.from_url(url).get_directory("jobs/job1/adapter", tmp_path / "cache")
    assert {f.name: f.read_bytes() for f in copy.iterdir()} == {f.name: f.read_bytes() for f in folder.iterdir()}
    assert [path.name for path in copy.parent.iterdir()] == ["adapter"]


def test_a_sound_local_copy_is_used_without_the_store(url: str, folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore.from_url(url)
    store.put_directory("a", folder)
    copy = store.get_directory("a", tmp_path / "cache")
    assert ArtifactStore.from_url("memory://nothing").get_directory("a", tmp_path / "cache") == copy


def test_a_folder_whose_manifest_never_came_is_not_there(url: str, folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore.from_url(url)
    store.put_directory("a", folder)
    store._filesystem.rm(f"{store._path('a')}/{MANIFEST_FILE}")
    with pytest.raises(NotFound, match="no artifact a"):
        store.get_directory("a", tmp_path / "cache")


def test_damage_is_found_before_a_copy_gets_its_name(url: str, folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore.from_url(url)
    store.put_directory("a", folder)
    store._filesystem.pipe_file(f"{store._path('a')}/adapter_model.safetensors", b"other")
    with pytest.raises(DataLoss, match=r"adapter_model\.safetensors is damaged"):
        store.get_directory("a", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_folder_is_not_put(url: str, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(DataLoss, match="is damaged"):
        ArtifactStore.from_url(url).put_directory("a", folder)


def test_ranges_of_a_file_are_read_and_a_missing_one_is_named(url: str, folder: Path) -> None:
    store = ArtifactStore.from_url(url)
    store.put_directory("a", folder)
    with store.open("a/adapter_model.safetensors") as file:
        file.seek(2)
        assert file.read(3) == b"igh"
    with pytest.raises(FileNotFoundError):
        store.open("a/missing")

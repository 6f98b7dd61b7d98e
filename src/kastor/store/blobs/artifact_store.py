"""What jobs leave behind, by keys instead of paths: folders with a manifest, logs. By fsspec: `file://` or a bucket.

A folder counts as put once its manifest lies there, which is written last; it is read through a local copy.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec  # type: ignore[import-untyped]  # has none
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from kastor.domain.errors import NotFound
from kastor.runtime.atomic import rename_folder_synced
from kastor.store.blobs.manifests import MANIFEST_FILE, verify


class ArtifactStore:
    """A tree of artifacts under one root of a file system."""

    def __init__(self, filesystem: Any, root: str) -> None:  # noqa: ANN401  # fsspec has no types
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def local(cls, root: Path) -> "ArtifactStore":
        """The store in a folder of this machine."""
        return cls(LocalFileSystem(), str(root.absolute()))

    @classmethod
    def from_url(cls, url: str) -> "ArtifactStore":
        """The store at `file://`, `memory://`, `gs://` or `s3://`; the last two need their extras."""
        filesystem, root = fsspec.core.url_to_fs(url)
        return cls(filesystem, root)

    def open(self, key: str) -> BinaryIO:
        """Open a file to read ranges of it.

        Raises:
            OSError: it cannot be read; `FileNotFoundError`: there is none.

        """
        return cast("BinaryIO", self._filesystem.open(self._path(key), "rb"))

    def put_directory(self, key: str, folder: Path) -> None:
        """Copy a folder of files, its manifest last: what was cut short counts as not there.

        Raises:
            DataLoss: a file is not what the folder's manifest says.

        """
        verify(folder)
        target = self._path(key)
        if self._filesystem.exists(f"{target}/{MANIFEST_FILE}"):
            self._filesystem.rm(f"{target}/{MANIFEST_FILE}")
        self._filesystem.makedirs(target, exist_ok=True)
        for file in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST_FILE, path.name)):
            self._filesystem.put_file(str(file), f"{target}/{file.name}")

    def get_directory(self, key: str, cache: Path) -> Path:
        """A local copy of a folder in `cache`, whole and checked; the one that is there if it is sound.

        Raises:
            NotFound: there is no such folder, or it was never put to the end.
            DataLoss: a file is not what the manifest says.

        """
        source, target = self._path(key), cache / key
        if target.is_dir():
            verify(target)
            return target
        if not self._filesystem.exists(f"{source}/{MANIFEST_FILE}"):
            raise NotFound(f"There is no artifact {key}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for path in self._filesystem.ls(source, detail=False):
                self._filesystem.get_file(path, str(temporary / path.rsplit("/", 1)[-1]))
            verify(temporary)
            rename_folder_synced(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

"""The bytes of uploaded files in a local folder: `files/partial/{upload}` grow, `files/content/{sha256}` never change.

The same content lies there once. What grows is locked while a piece is added, never while one is waited for, so a
request that hangs holds up nobody; whoever finds more or less there than they left has lost to another request.
"""

import fcntl
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from kastor.domain.errors import FailedPrecondition, NotFound, Superseded
from kastor.runtime.atomic import fsync
from kastor.runtime.storage_errors import translate_storage_errors

DIGEST = re.compile(r"[0-9a-f]{64}")
READ_BYTES = 1024 * 1024
MAX_HASHES = 256
"""Uploads whose hash is kept up while they grow; a hash that is not there is computed at the end."""
PRIVATE = 0o600


class UploadBlobs:
    """The folder of uploaded files. Knows no rows; ids and hashes are hexadecimal SHA-256."""

    def __init__(self, root: Path) -> None:
        self._root = root / "files"
        self._hashes = IncrementalHashes()

    def content(self, sha256: str) -> Path:
        """Where the content of this hash lies, if it is there."""
        return self._root / "content" / _checked(sha256)[:2] / sha256

    def contents(self, *, before: datetime) -> Iterator[str]:
        """The hashes of the contents that nobody has uploaded since that moment."""
        yield from _older((self._root / "content").glob("??/*"), before)

    def partials(self, *, before: datetime) -> Iterator[str]:
        """The ids of the uploads that have not become a file, and to which nothing was added since that moment."""
        yield from _older((self._root / "partial").glob("*"), before)

    def begin(self, upload_id: str) -> None:
        """Make room for an upload.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: the folder cannot be written to.

        """
        path = self._partial(upload_id)
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))

    def received(self, upload_id: str) -> int | None:
        """How many bytes of an upload are there; `None` if it has become a file, or there is none."""
        try:
            return self._partial(upload_id).stat().st_size
        except FileNotFoundError:
            return None

    def grow(self, upload_id: str, position: int) -> "PartialUpload":
        """Opens an upload to add bytes from `position` on, which must be its end. To be closed.

        Raises:
            NotFound: there is none, any more.
            FailedPrecondition: it cannot be opened.

        """
        path = self._partial(upload_id)
        try:
            with self._errors():
                descriptor = os.open(path, os.O_RDWR)
        except FailedPrecondition:
            if not path.exists():
                raise _gone() from None
            raise
        return PartialUpload(descriptor, path, position, self._hashes)

    @contextmanager
    def sealed(self, upload_id: str) -> Iterator["CompletedUpload"]:
        """The upload with nobody able to add to it.

        Raises:
            NotFound: there is none, any more.

        """
        with self._lease(upload_id) as growing, self._errors():
            yield growing.sealed(self)

    def drop(self, upload_id: str) -> None:
        """Remove an upload; nothing happens if there is none."""
        self._hashes.forget(upload_id)
        with self._errors():
            self._partial(upload_id).unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Remove a content; nothing happens if it is not there. Only in `changing`."""
        with self._errors():
            self.content(sha256).unlink(missing_ok=True)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """In this block nobody else, of any process, adds or removes contents or their last rows."""
        with self._errors():
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root / "lock", os.O_CREAT | os.O_RDWR, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _lease(self, upload_id: str) -> Iterator["PartialUpload"]:
        growing = self.grow(upload_id, 0)
        try:
            with growing.locked():
                yield growing
        finally:
            growing.close()

    def _partial(self, upload_id: str) -> Path:
        return self._root / "partial" / _checked(upload_id)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with translate_storage_errors(self._root):
            yield


class IncrementalHashes:
    """Hashes of uploads as far as they have come, so that most files need not be read again at their end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[str, tuple[int, Any]] = OrderedDict()  # upload -> bytes hashed, the hash

    def add(self, upload_id: str, position: int, piece: bytes) -> None:
        """Take in the piece at `position`; the caller lets in one at a time per upload."""
        with self._lock:
            known, digest = self._known.pop(upload_id, (0, None))
        if digest is None and position == 0:
            digest = hashlib.sha256()
        if digest is None or known != position:
            return
        digest.update(piece)
        with self._lock:
            self._known[upload_id] = (position + len(piece), digest)
            while len(self._known) > MAX_HASHES:
                self._known.popitem(last=False)

    def take(self, upload_id: str, size: int) -> str | None:
        """The hash of an upload of `size` bytes, if it is known; it is forgotten."""
        with self._lock:
            known, digest = self._known.pop(upload_id, (0, None))
        return digest.hexdigest() if digest is not None and known == size else None

    def forget(self, upload_id: str) -> None:
        """Drop what is known of an upload."""
        with self._lock:
            self._known.pop(upload_id, None)


class PartialUpload:
    """One request's hold on an upload that it adds to."""

    def __init__(self, descriptor: int, path: Path, position: int, hashes: IncrementalHashes) -> None:
        self._descriptor = descriptor
        self._path = path
        self._hashes = hashes
        self._began_at = position
        self.position = position

    def write(self, piece: bytes) -> None:
        """Add a piece, as a whole or not at all. On a full disk all that came through this hold is taken back.

        Raises:
            Superseded: the upload does not end where this request left it.
            NotFound: there is none, any more.
            ResourceExhausted: the disk is full.

        """
        with self.locked():
            self._check_end()
            try:
                with translate_storage_errors(self._path.parent):
                    _write_all(self._descriptor, piece, self.position)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._began_at)
                self._hashes.forget(self._path.name)
                raise
            self._hashes.add(self._path.name, self.position, piece)
            self.position += len(piece)

    def check(self) -> None:
        """Nothing, if the upload ends where this request left it.

        Raises:
            Superseded: it does not.
            NotFound: there is none, any more.

        """
        with self.locked():
            self._check_end()

    def settle(self) -> None:
        """See to it that what was written survives a power cut."""
        with translate_storage_errors(self._path.parent):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go; to be called once."""
        os.close(self._descriptor)

    def sealed(self, blobs: UploadBlobs) -> "CompletedUpload":
        """The upload as it is now, on disk and hashed; only while locked."""
        os.fsync(self._descriptor)
        size = os.fstat(self._descriptor).st_size
        sha256 = self._hashes.take(self._path.name, size) or _hash_of(self._descriptor)
        return CompletedUpload(self._path, blobs.content(sha256), sha256, size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """In this block nobody else adds to the upload.

        Raises:
            NotFound: it is not there any more.

        """
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            if not self._in_place():
                raise _gone()
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _in_place(self) -> bool:
        """Whether the file opened is still the upload: it may have become a content meanwhile, or been removed."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def _check_end(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size != self.position:
            raise Superseded(
                f"The upload holds {size} bytes, and these would begin at {self.position}. Ask for its state and go on "
                "from there; one request at a time may add to it."
            )


class CompletedUpload:
    """An upload that is whole."""

    def __init__(self, path: Path, content: Path, sha256: str, size_bytes: int) -> None:
        self._path = path
        self._content = content
        self.sha256 = sha256
        self.size_bytes = size_bytes

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The bytes lie as content from here on; if the block fails, as upload again. Only in `changing`."""
        moved = not self._content.exists()
        if moved:
            self._content.parent.mkdir(parents=True, exist_ok=True)
            self._path.rename(self._content)
            fsync(self._content.parent)
        try:
            yield
        except BaseException:
            if moved:
                self._content.rename(self._path)
            raise
        if not moved:
            os.utime(self._content)
            self._path.unlink(missing_ok=True)


def _older(paths: Iterable[Path], before: datetime) -> Iterator[str]:
    """Names of those that were last written before that moment."""
    for path in paths:
        with suppress(FileNotFoundError):
            if DIGEST.fullmatch(path.name) and path.stat().st_mtime < before.timestamp():
                yield path.name


def _write_all(descriptor: int, piece: bytes, position: int) -> None:
    left = memoryview(piece)
    while left:
        written = os.pwrite(descriptor, left, position)
        left, position = left[written:], position + written


def _hash_of(descriptor: int) -> str:
    digest, position = hashlib.sha256(), 0
    while piece := os.pread(descriptor, READ_BYTES, position):
        digest.update(piece)
        position += len(piece)
    return digest.hexdigest()


def _checked(name: str) -> str:
    if not DIGEST.fullmatch(name):
        raise NotFound(f"{name[:80]!r} names no upload or content.")
    return name


def _gone() -> NotFound:
    return NotFound("This upload is over, or was never begun. Begin a new one.")

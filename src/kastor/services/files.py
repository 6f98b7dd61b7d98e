"""The use cases of uploaded files: upload in one or many requests, look, fetch, delete, expire.

A file is seen by who uploaded it, and by operators. An upload is known by a secret, which is all that it takes to go on
with it; only its hash is stored.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kastor.domain.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from kastor.domain.file import (
    FILES,
    ID_PATTERN,
    StoredFile,
    Upload,
    validated_display_name,
    validated_file_id,
    validated_mime_type,
)
from kastor.domain.permission import Principal
from kastor.domain.tuned_model import random_model_id
from kastor.services.views import Page
from kastor.store.blobs.upload_blobs import CompletedUpload, PartialUpload, UploadBlobs
from kastor.store.files import FileStore, id_is_taken

SESSION_TTL = timedelta(days=1)
FINISHED_TTL = timedelta(hours=1)  # so long it can be asked how an upload ended
MAX_UNFINISHED = 1000  # uploads per caller


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to upload. What is `None` or empty was not said."""

    name: str = ""  # `files/ID`
    display_name: str = ""
    mime_type: str = ""
    file_name: str = ""  # on the client's disk; only its ending is of use
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """How far an upload is."""

    received: int  # bytes
    file: StoredFile | None = None  # what it has become


class UploadWriter:
    """A request that adds to an upload: `write`, then `settle`, and `close` in any case."""

    def __init__(self, growing: PartialUpload, most: int, why: str, drop: Callable[[], None]) -> None:
        self._growing = growing
        self._most = most
        self._why = why
        self._drop = drop

    @property
    def position(self) -> int:
        """How many bytes the upload holds."""
        return self._growing.position

    def write(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            InvalidArgument: it would be too large; the upload is dropped.
            Superseded: another request has added to it, too.
            NotFound: it is over.
            ResourceExhausted: the disk is full; what this request added is taken back.

        """
        if self.position + len(piece) > self._most:
            self._drop()
            raise InvalidArgument(f"More bytes arrived than {self._why}; the upload is dropped.")
        self._growing.write(piece)

    def settle(self) -> None:
        """See to it that what was added stays."""
        self._growing.settle()

    def close(self) -> None:
        """Let go."""
        self._growing.close()


class FileService:
    """Every use case; safe to use from several threads and processes at once."""

    def __init__(
        self,
        *,
        files: FileStore,
        blobs: UploadBlobs,
        clock: Callable[[], datetime],
        max_file_bytes: int,
        ttl: timedelta,
    ) -> None:
        self._files = files
        self._blobs = blobs
        self._clock = clock
        self._ttl = ttl
        self._swept = False
        self.max_file_bytes = max_file_bytes

    # uploads

    def begin(self, new: NewFile, caller: Principal) -> str:
        """The secret of a new upload.

        Raises:
            InvalidArgument: name, type or size are not allowed.
            AlreadyExists: the name is taken.
            ResourceExhausted: the caller has too many unfinished uploads, or the disk is full.

        """
        self._check_size(new.size_bytes)
        file_id = validated_file_id(new.name) if new.name else random_model_id()
        mime_type = validated_mime_type(new.mime_type, new.file_name, new.display_name)
        display_name = validated_display_name(new.display_name)
        self._check_free(file_id)
        if self._files.unfinished(caller.email) >= MAX_UNFINISHED:
            raise ResourceExhausted(
                f"{MAX_UNFINISHED} uploads of {caller.email} are unfinished; finish or cancel some, or wait a day."
            )
        secret = secrets.token_urlsafe(32)
        size, now = new.size_bytes, self._clock()
        upload = Upload(_digest(secret), file_id, caller.email, display_name, mime_type, size, now)
        self._files.begin(upload)
        try:
            self._blobs.begin(upload.id)
        except BaseException:
            self._files.forget(upload.id)
            raise
        return secret

    def progress(self, secret: str) -> UploadStatus:
        """How far the upload is.

        Raises:
            NotFound: there is no such upload.

        """
        upload = self._upload(secret)
        received = self._blobs.received(upload.id)
        if received is not None:
            return UploadStatus(received)
        with self._blobs.changing():  # it may be about to become a file
            made = self._made(upload)
        return UploadStatus(made.size_bytes, made)

    def append(self, secret: str, offset: int) -> UploadWriter:
        """The upload, to be added to from byte `offset` on, which must be where it ends. To be closed.

        Raises:
            NotFound: there is no such upload, or it is over.
            Superseded: it ends elsewhere.

        """
        upload = self._upload(secret)
        growing = self._blobs.grow(upload.id, offset)
        try:
            growing.check()
        except BaseException:
            growing.close()
            raise
        most, why = self.max_file_bytes, f"the {self.max_file_bytes} that a file may have"
        if upload.declared_bytes is not None:
            most, why = upload.declared_bytes, f"the {upload.declared_bytes} that were announced"
        return UploadWriter(growing, most, why, lambda: self._drop(upload.id))

    def finish(self, secret: str) -> StoredFile:
        """The file that the upload has become; again, if it has already.

        Raises:
            NotFound: there is no such upload.
            InvalidArgument: it holds less than was announced.
            AlreadyExists: the name was taken meanwhile; the upload is dropped.

        """
        upload = self._upload(secret)
        try:
            with self._blobs.sealed(upload.id) as sealed:
                return self._kept(upload, sealed)
        except NotFound:
            with self._blobs.changing():  # somebody else may be making a file of it
                return self._made(upload)
        except AlreadyExists:
            self._drop(upload.id)
            raise

    def cancel(self, secret: str) -> None:
        """Drop an upload and what came of it; not the file, if it has become one.

        Raises:
            NotFound: there is no such upload.

        """
        self._drop(self._upload(secret).id)

    # files

    def get(self, name: str, caller: Principal) -> StoredFile:
        """The file of this name, with or without `files/`.

        Raises:
            PermissionDenied: there is none, or it is somebody else's.

        """
        file_id = name.removeprefix(FILES)
        found = self._files.find(file_id) if ID_PATTERN.fullmatch(file_id) else None
        if found is None or found.expires_at <= self._clock() or not _may_see(caller, found):
            raise PermissionDenied(f"You do not have permission to access the File {file_id[:80]} or it may not exist.")
        return found

    def path_of(self, name: str, caller: Principal) -> Path:
        """Where the file's bytes lie; they go when it expires or is deleted, which an open one outlives.

        Raises:
            PermissionDenied: there is none, or it is somebody else's.

        """
        return self._blobs.content(self.get(name, caller).sha256)

    def page(self, caller: Principal, *, limit: int, before: tuple[datetime, str] | None = None) -> Page[StoredFile]:
        """Up to `limit` files that the caller may see, newest first."""
        owner = None if caller.operator else caller.email
        found = self._files.page(owner=owner, now=self._clock(), limit=limit + 1, before=before)
        return Page(tuple(found[:limit]), len(found) > limit)

    def delete(self, name: str, caller: Principal) -> None:
        """Take the file away.

        Raises:
            PermissionDenied: there is none, or it is somebody else's.

        """
        self._remove(self.get(name, caller))

    def delete_orphans(self) -> None:
        """Remove expired files and old uploads. To be called now and then; what a crash left goes at the first call."""
        now = self._clock()
        for file in self._files.expired(now):
            self._remove(file)
        for upload_id in self._files.old_uploads(finished_before=now - FINISHED_TTL, before=now - SESSION_TTL):
            self._drop(upload_id)
        if not self._swept:
            self._sweep()
            self._swept = True

    # below: parts

    def _upload(self, secret: str) -> Upload:
        found = self._files.upload(_digest(secret))
        if found is None or found.created_at + SESSION_TTL <= self._clock():
            raise NotFound("There is no such upload: it was cancelled, or is older than a day. Begin a new one.")
        return found

    def _made(self, upload: Upload) -> StoredFile:
        """What a finished upload has become."""
        found = self._files.find(upload.file_id)
        if found is None or found.owner != upload.owner:
            raise NotFound("This upload is over, and its file is gone. Begin a new one.")
        return found

    def _kept(self, upload: Upload, sealed: CompletedUpload) -> StoredFile:
        if upload.declared_bytes not in (None, sealed.size_bytes):
            raise InvalidArgument(
                f"{upload.declared_bytes} bytes were announced, and {sealed.size_bytes} arrived; send the rest."
            )
        now = self._clock()
        file = StoredFile(
            id=upload.file_id,
            owner=upload.owner,
            display_name=upload.display_name,
            mime_type=upload.mime_type,
            size_bytes=sealed.size_bytes,
            sha256=sealed.sha256,
            created_at=now,
            updated_at=now,
            expires_at=now + self._ttl,
        )
        self._check_free(file.id)
        with self._blobs.changing(), sealed.kept():
            self._files.add(file)
        return file

    def _check_size(self, size_bytes: int | None) -> None:
        if size_bytes is not None and size_bytes > self.max_file_bytes:
            raise InvalidArgument.of(
                "file.sizeBytes", f"{size_bytes} bytes, a file may have at most {self.max_file_bytes}"
            )

    def _check_free(self, file_id: str) -> None:
        found = self._files.find(file_id)
        if found is None:
            return
        if found.expires_at > self._clock():
            raise id_is_taken(file_id)
        self._remove(found)

    def _remove(self, file: StoredFile) -> None:
        with self._blobs.changing():
            self._files.remove(file.id)
            if not self._files.holds(file.sha256):
                self._blobs.remove(file.sha256)

    def _drop(self, upload_id: str) -> None:
        self._files.forget(upload_id)
        self._blobs.drop(upload_id)

    def _sweep(self) -> None:
        """Bytes without a row: somebody was killed between the two.

        Only what is older than any row can be: the rows may be in another database than the one that is used just now.
        """
        now = self._clock()
        for upload_id in self._blobs.partials(before=now - SESSION_TTL):
            if self._files.upload(upload_id) is None:
                self._blobs.drop(upload_id)
        for sha256 in self._blobs.contents(before=now - self._ttl):
            with self._blobs.changing():
                if not self._files.holds(sha256):
                    self._blobs.remove(sha256)


def _may_see(caller: Principal, file: StoredFile) -> bool:
    return caller.operator or caller.email == file.owner


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

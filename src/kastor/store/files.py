"""Uploaded files and uploads under way as rows. The bytes are in `file_blobs`."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Exists, RowMapping, and_, delete, exists, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from kastor.domain.errors import AlreadyExists
from kastor.domain.file import StoredFile, Upload
from kastor.store.database import Database
from kastor.store.tables import files, older_than, uploads

MAX_EXPIRED = 100  # of one answer; the next tidying goes on


class FileStore:
    """The tables of files and uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, file_id: str) -> StoredFile | None:
        """The file, expired or not, if there is one of this id."""
        with self._database.read() as connection:
            row = connection.execute(select(files).where(files.c.id == file_id)).mappings().one_or_none()
        return None if row is None else _file(row)

    def page(
        self, *, owner: str | None, now: datetime, limit: int, before: tuple[datetime, str] | None = None
    ) -> list[StoredFile]:
        """Up to `limit` files that have not expired, newest first; of one owner, if given."""
        query = select(files).where(files.c.expires_at > now)
        query = query.order_by(files.c.created_at.desc(), files.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(files.c.owner == owner)
        if before is not None:
            query = query.where(older_than(files, *before))
        with self._database.read() as connection:
            return [_file(row) for row in connection.execute(query).mappings()]

    def expired(self, now: datetime) -> Sequence[StoredFile]:
        """Some of the files that have expired."""
        query = select(files).where(files.c.expires_at <= now).limit(MAX_EXPIRED)
        with self._database.read() as connection:
            return [_file(row) for row in connection.execute(query).mappings()]

    def holds(self, sha256: str) -> bool:
        """Whether a file has this content."""
        with self._database.read() as connection:
            return bool(connection.scalar(select(exists().where(files.c.sha256 == sha256))))

    def add(self, file: StoredFile) -> None:
        """Keep a new file.

        Raises:
            AlreadyExists: the id is taken.

        """
        try:
            with self._database.write() as connection:
                connection.execute(insert(files).values(asdict(file)))
        except IntegrityError as error:
            raise id_is_taken(file.id) from error

    def remove(self, file_id: str) -> bool:
        """Forget the file; whether it was there."""
        with self._database.write() as connection:
            return connection.execute(delete(files).where(files.c.id == file_id)).rowcount > 0

    def begin(self, upload: Upload) -> None:
        """Keep a new upload."""
        with self._database.write() as connection:
            connection.execute(insert(uploads).values(asdict(upload)))

    def upload(self, upload_id: str) -> Upload | None:
        """The upload, if there is one of this id."""
        with self._database.read() as connection:
            row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).mappings().one_or_none()
        return None if row is None else _upload(row)

    def unfinished(self, owner: str) -> int:
        """How many uploads of this owner have not become a file."""
        query = select(func.count()).select_from(uploads).where(uploads.c.owner == owner, ~_finished())
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def forget(self, upload_id: str) -> None:
        """Remove an upload's row; nothing happens if there is none."""
        with self._database.write() as connection:
            connection.execute(delete(uploads).where(uploads.c.id == upload_id))

    def old_uploads(self, *, finished_before: datetime, before: datetime) -> Sequence[str]:
        """Ids of some uploads that began before `before`, or before `finished_before` and have become a file."""
        old = or_(uploads.c.created_at <= before, and_(uploads.c.created_at <= finished_before, _finished()))
        with self._database.read() as connection:
            return connection.scalars(select(uploads.c.id).where(old).limit(MAX_EXPIRED)).all()


def id_is_taken(file_id: str) -> AlreadyExists:
    """What to say when a file's id is in use."""
    return AlreadyExists(f"File files/{file_id} already exists; choose another name, or delete it first.")


def _finished() -> Exists:
    return exists().where(files.c.id == uploads.c.file_id, files.c.owner == uploads.c.owner)


def _file(row: RowMapping) -> StoredFile:
    return StoredFile(**{column.name: row[column] for column in files.c})


def _upload(row: RowMapping) -> Upload:
    return Upload(**{column.name: row[column] for column in uploads.c})

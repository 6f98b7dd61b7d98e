"""The bond between a data folder and its database: an id that stands in both.

Rows and files are swept of what the other side does not know; with another's database everything in a folder would be
such. So a server begins only where the two know each other, or where there is nothing to lose.
"""

import re
import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import structlog
from sqlalchemy import Connection, exists, insert, select
from sqlalchemy.exc import IntegrityError

from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.runtime.atomic import write_atomically
from kastor.runtime.storage_errors import translate_storage_errors
from kastor.store.blobs.disk_reserve import DiskReserve
from kastor.store.blobs.job_files import JOB_ID
from kastor.store.database import Database, migrate
from kastor.store.tables import files, installation, jobs

ID_FILE = "installation-id"
INSTALLATION_ID = re.compile(r"[0-9a-f]{32}")
COMPARED = 500  # jobs and files of the folder that the database is asked about; one that it knows is enough


def prepare_installation(database: Database, reserve: DiskReserve, data_dir: Path) -> None:
    """Bring the database to the present tables, on a full disk as well, and check that it is this folder's.

    Raises:
        What `migrate` and `check_installation` raise.

    """
    try:
        migrate(database)
    except (Unavailable, ResourceExhausted):  # SQLite needs some room to be opened
        if not reserve.release():
            raise
        migrate(database)
    check_installation(database, data_dir)


def check_installation(database: Database, data_dir: Path) -> None:
    """See to it that the database and the folder belong together; at their first contact both get the same id.

    Raises:
        FailedPrecondition: the folder is another database's, or one of the two is empty where the other is not; says
            what to do. Nothing was changed.

    """
    stored, written = _stored_id(database), _written_id(data_dir)
    if stored is not None and stored == written:
        return
    if stored is not None and written is not None:
        raise FailedPrecondition(
            f"The data folder {data_dir} belongs to another database than {database.shown}. Start with the one that it "
            "was used with (database_url, KASTOR_DATABASE_URL), or give this database the folder that it was used with "
            "(--data-dir)."
        )
    _check_contents(database, data_dir, adopted=stored is not None)
    try:
        _write_id(data_dir, _store_id(database, written or secrets.token_hex(16)))
    except ResourceExhausted as error:  # the next start will do it: a full disk must not keep the server from deleting
        structlog.get_logger().warning("installation_id_not_written", reason=error.message)


def _check_contents(database: Database, data_dir: Path, *, adopted: bool) -> None:
    job_ids, hashes = list(islice(_job_folders(data_dir), COMPARED)), list(islice(_file_hashes(data_dir), COMPARED))
    with database.read() as connection:
        has_jobs = bool(connection.execute(select(exists(select(jobs.c.id)))).scalar())
        known = _knows(connection, job_ids, hashes)
    if (job_ids or hashes) and not known:
        raise FailedPrecondition(
            f"The data folder {data_dir} holds jobs or files, and the database {database.shown} knows none of them. "
            "Start with the database that the folder was used with (database_url, KASTOR_DATABASE_URL), or restore it "
            "from a backup. To begin anew, name another folder (--data-dir), or move this one's jobs and files away."
        )
    if adopted and has_jobs and not known:
        raise FailedPrecondition(
            f"The database {database.shown} knows jobs, and the data folder {data_dir} holds none of their files. Name "
            "the folder that the database was used with (--data-dir, KASTOR_DATA_DIR); see that its disk is mounted."
        )


def _knows(connection: Connection, job_ids: list[str], hashes: list[str]) -> bool:
    of_jobs, of_files = exists().where(jobs.c.id.in_(job_ids)), exists().where(files.c.sha256.in_(hashes))
    return bool(connection.execute(select(of_jobs | of_files)).scalar())


def _job_folders(data_dir: Path) -> Iterator[str]:
    folder = data_dir / "jobs"
    if folder.is_dir():
        yield from (entry.name for entry in folder.iterdir() if JOB_ID.fullmatch(entry.name))


def _file_hashes(data_dir: Path) -> Iterator[str]:
    yield from (path.name for path in (data_dir / "files" / "content").glob("??/*"))


def _stored_id(database: Database) -> str | None:
    with database.read() as connection:
        return connection.execute(select(installation.c.id)).scalar_one_or_none()


def _store_id(database: Database, new: str) -> str:
    """The database's id: `new`, unless another server was quicker."""
    try:
        with database.write() as connection:
            found = connection.execute(select(installation.c.id)).scalar_one_or_none()
            if found is not None:
                return str(found)
            connection.execute(insert(installation).values(number=1, id=new))
            return new
    except IntegrityError:
        return _stored_id(database) or new


def _written_id(data_dir: Path) -> str | None:
    """The folder's id; where it is damaged there is none, and what the two hold decides again."""
    try:
        text = (data_dir / ID_FILE).read_text("ascii", errors="replace").strip()
        return text if INSTALLATION_ID.fullmatch(text) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedPrecondition(f"Cannot read {data_dir / ID_FILE}: {error}.") from error


def _write_id(data_dir: Path, installation_id: str) -> None:
    with translate_storage_errors(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(data_dir / ID_FILE, [f"{installation_id}\n".encode("ascii")])

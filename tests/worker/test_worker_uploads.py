"""A job's `files/…` are read as the one who asked for the job, whoever owns its model by then."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from kastor.domain.errors import PermissionDenied
from kastor.domain.job import TuningJob
from kastor.domain.permission import Grant, GranteeType, Principal, Role
from kastor.services.files import FileService, NewFile
from kastor.settings import Settings
from kastor.store.blobs.upload_blobs import UploadBlobs
from kastor.store.database import MIGRATIONS, Database, migrate, open_database
from kastor.store.files import FileStore
from kastor.store.grants import GrantStore
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore
from kastor.worker.media_config import upload_resolver
from support.domain_values import SPEC, make_job, make_model

ADA, MALLORY = Principal("ada@example.org"), Principal("mallory@example.org")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def upload(settings: Settings, database: Database, owner: Principal, name: str) -> str:
    service = FileService(
        files=FileStore(database),
        blobs=UploadBlobs(settings.data_dir),
        clock=lambda: datetime.now(UTC),
        max_file_bytes=10**6,
        ttl=timedelta(hours=1),
    )
    secret = service.begin(NewFile(name, mime_type="image/png"), owner)
    appending = service.append(secret, 0)
    appending.write(owner.email.encode())
    appending.close()
    return service.finish(secret).name


def transferred(database: Database, creator: Principal, to: Principal) -> TuningJob:
    """A queued job of `creator` whose model was given to another."""
    job = make_job("job1", creator=creator.email)
    JobStore(database).add(job, make_model(job, owner=creator.email))
    left = Grant("left", job.tuned_model_id, GranteeType.USER, creator.email, Role.WRITER, datetime.now(UTC))
    GrantStore(database).transfer(ModelStore(database).get(job.tuned_model_id), to.email, left)
    return JobStore(database).get(job.id)


def test_the_files_of_the_new_owner_of_a_model_are_closed_to_its_job(
    settings: Settings, sqlite_database: Database
) -> None:
    private = upload(settings, sqlite_database, ADA, "private")
    path_of = upload_resolver(settings, transferred(sqlite_database, MALLORY, ADA))
    with pytest.raises(PermissionDenied):
        path_of(private)


def test_a_job_goes_on_reading_its_creators_files_when_its_model_was_given_away(
    settings: Settings, sqlite_database: Database
) -> None:
    own = upload(settings, sqlite_database, ADA, "own")
    path_of = upload_resolver(settings, transferred(sqlite_database, ADA, MALLORY))
    assert path_of(own).read_bytes() == ADA.email.encode()


def test_a_job_whose_creator_is_unknown_reads_no_files(settings: Settings, sqlite_database: Database) -> None:
    private = upload(settings, sqlite_database, ADA, "private")
    with pytest.raises(PermissionDenied):
        upload_resolver(settings, make_job("old", creator=""))(private)


def test_jobs_of_an_older_release_have_their_models_owner_as_creator(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    job = (
        "INSERT INTO jobs (id, tuned_model_id, state, spec, created_at, updated_at, attempt, deaths, completed_steps) "
        "VALUES ('{}', 'm', 'QUEUED', '{{}}', '2026-03-01 12:00', '2026-03-01 12:00', 0, 0, 0)"
    )
    model = (
        "INSERT INTO tuned_models (id, job_id, base_model, owner, created_at, updated_at, display_name, description) "
        "VALUES ('m', 'kept', 'x', 'ada@example.org', '2026-03-01 12:00', '2026-03-01 12:00', '', '')"
    )
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in (job.format("kept"), job.format("released"), model):
            connection.exec_driver_sql(statement)
    migrate(database)
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT id, creator FROM jobs ORDER BY id").all()
    assert [tuple(row) for row in found] == [("kept", "ada@example.org"), ("released", None)]
    database.close()


def test_the_creator_is_the_caller_and_is_kept(sqlite_database: Database) -> None:
    job = make_job("job1", creator=MALLORY.email, spec=SPEC)
    JobStore(sqlite_database).add(job, make_model(job, owner=ADA.email))
    assert JobStore(sqlite_database).get("job1").creator == MALLORY.email

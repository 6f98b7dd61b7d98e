"""Migrations make the tables that `store.tables` describes, wherever Kastor is installed."""

import multiprocessing
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from kastor.domain.errors import FailedPrecondition
from kastor.store.database import MIGRATIONS, Database, migrate, newest_revision, open_database
from kastor.store.jobs import JobStore
from kastor.store.tables import metadata
from support.domain_values import make_job, make_model


def differences(database: Database) -> list[object]:
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_migrations_and_tables_agree(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    assert differences(database) != []
    migrate(database)
    assert differences(database) == []
    with database.read() as connection:
        found = inspect(connection)
        for table in metadata.tables.values():
            assert {key["name"] for key in found.get_foreign_keys(table.name)} == {
                key.name for key in table.foreign_key_constraints
            }
            assert found.get_pk_constraint(table.name)["name"] == table.primary_key.name
    database.close()


def test_migrating_again_changes_nothing(database: Database) -> None:
    job = make_job()
    JobStore(database).add(job, make_model(job))
    migrate(database)
    assert differences(database) == []
    assert JobStore(database).get(job.id) == job


def migrate_in_a_process(url: str) -> bool:
    database = open_database(url)
    migrate(database)
    database.close()
    return True


def test_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(migrate_in_a_process, [empty_database_url] * 2, chunksize=1) == [True] * 2
        pool.close()
        pool.join()
    database = open_database(empty_database_url)
    assert differences(database) == []
    database.close()


def test_the_newest_revision_is_told_without_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert newest_revision() == ScriptDirectory.from_config(config).get_current_head()


def test_owners_of_an_old_database_are_compared_in_lower_case_from_now_on(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    job = (
        "INSERT INTO jobs (id, tuned_model_id, state, spec, created_at, updated_at, attempt, deaths, completed_steps) "
        "VALUES ('j', 'm', 'QUEUED', '{}', '2026-03-01 12:00', '2026-03-01 12:00', 0, 0, 0)"
    )
    model = (
        "INSERT INTO tuned_models (id, job_id, base_model, owner, created_at, updated_at, display_name, description) "
        "VALUES ('m', 'j', 'x', 'Ada@Example.org', '2026-03-01 12:00', '2026-03-01 12:00', '', '')"
    )
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (job, model):
            connection.exec_driver_sql(statement)
    migrate(database)
    with database.read() as connection:
        assert connection.execute(text("SELECT owner FROM tuned_models")).scalar_one() == "ada@example.org"
    database.close()


def test_steps_of_an_old_database_have_neither_learning_rate_nor_gradient_norm(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    job = (
        "INSERT INTO jobs (id, tuned_model_id, state, spec, created_at, updated_at, attempt, deaths, completed_steps) "
        "VALUES ('j', 'm', 'QUEUED', '{}', '2026-03-01 12:00', '2026-03-01 12:00', 0, 0, 1)"
    )
    step = (
        "INSERT INTO snapshots (job_id, step, epoch, mean_loss, num_tokens, num_supervised, elapsed_s, computed_at) "
        "VALUES ('j', 1, 1, 2.5, 120, 14, 0.5, '2026-03-01 12:00')"
    )
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        for statement in (job, step):
            connection.exec_driver_sql(statement)
    migrate(database)
    (found,) = JobStore(database).snapshots("j")
    assert (found.mean_loss, found.learning_rate, found.grad_norm) == (2.5, None, None)
    database.close()


def test_models_of_an_old_database_name_their_base_and_source_by_ids_from_now_on(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    job = (
        "INSERT INTO jobs (id, tuned_model_id, state, spec, created_at, updated_at, attempt, deaths, completed_steps) "
        "VALUES (:job, :job, 'QUEUED', '{}', '2026-03-01 12:00', '2026-03-01 12:00', 0, 0, 0)"
    )
    model = (
        "INSERT INTO tuned_models (id, job_id, base_model, source, owner, created_at, updated_at, display_name, "
        "description) VALUES (:job, :job, :base, :source, 'a@b.c', '2026-03-01 12:00', '2026-03-01 12:00', '', '')"
    )
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        for row in (("first", "models/smollm2", None), ("second", "smollm2", "tunedModels/first")):
            values = dict(zip(("job", "base", "source"), row, strict=True))
            connection.execute(text(job), values)
            connection.execute(text(model), values)
    migrate(database)
    with database.read() as connection:
        rows = connection.execute(text("SELECT id, base_model, source FROM tuned_models ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("first", "smollm2", None), ("second", "smollm2", "first")]
    database.close()


def test_a_database_of_a_newer_kastor_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match="written by a newer Kastor"):
        migrate(database)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match=r"Cannot use .*file/data for the database"):
        migrate(open_database(f"sqlite:///{tmp_path / 'file' / 'data' / 'kastor.db'}"))


def test_a_path_with_signs_that_configuration_files_use_works(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / '100 %(here)s' / 'kastor.db'}")
    migrate(database)
    assert differences(database) == []
    database.close()


def test_the_revisions_are_modules_of_the_package_and_so_in_the_wheel() -> None:
    versions = files("kastor.store.migrations.versions")
    revisions = [entry.name for entry in versions.iterdir() if entry.name.startswith("v")]
    assert revisions
    assert all(name.endswith(".py") and name.removesuffix(".py").isidentifier() for name in revisions)

"""What Alembic runs to migrate: on the connection, and in the transaction, that `database.migrate` hands over."""

from alembic import context

from kastor.store.tables import metadata


def run() -> None:
    """Run the migrations on the given connection."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":  # the name Alembic loads this file under; anybody else only looks at it
    run()

"""Tuned models name their base and their source by ids: before, by resource names of the Gemini API."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

PREFIXES = (("base_model", "models/"), ("source", "tunedModels/"))


def upgrade() -> None:
    """Take the prefixes away."""
    models = sa.table("tuned_models", sa.column("base_model", sa.String), sa.column("source", sa.String))
    for name, prefix in PREFIXES:
        column = models.c[name]
        plain = sa.func.substr(column, len(prefix) + 1)
        op.execute(models.update().where(column.startswith(prefix)).values({name: plain}))

"""Who asked for a job, which its model's owner need not be any more."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of the jobs that are there, the owner of the model is the best that is known."""
    op.add_column("jobs", sa.Column("creator", sa.String(320)))
    owner = "(SELECT owner FROM tuned_models WHERE tuned_models.job_id = jobs.id)"
    op.execute(f"UPDATE jobs SET creator = {owner}")  # noqa: S608  # no value of anybody's is in it

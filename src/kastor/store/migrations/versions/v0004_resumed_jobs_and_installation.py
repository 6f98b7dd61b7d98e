"""How far an attempt had come when it began, which job goes on for another, and the id shared with the data folder."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("jobs", sa.Column("resumed_step", sa.Integer()))
    op.add_column("jobs", sa.Column("resumed_as", sa.String(64)))
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_installation"),
    )

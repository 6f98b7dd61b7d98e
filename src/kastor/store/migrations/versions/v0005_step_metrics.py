"""Learning rate and gradient norm of each training step."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("snapshots", sa.Column("learning_rate", sa.Double()))
    op.add_column("snapshots", sa.Column("grad_norm", sa.Double()))

"""The tables. Migrations bring a database to this shape; a test holds the two together."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Tuple,
    UniqueConstraint,
    literal,
    tuple_,
)
from sqlalchemy.types import TypeDecorator

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: timezone-aware UTC in Python on both databases, whatever they store (SQLite knows no zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The moment in UTC; a naive one is our own bug."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r} for the store; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The moment in UTC; what comes without a zone was stored in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(naming_convention=NAMES)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tuned_model_id", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("spec", JSON, nullable=False),  # TuningSpec; never queried into
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),  # of the last move
    Column("attempt", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("completed_steps", Integer, nullable=False),
    Column("error_code", Integer),
    Column("error_message", Text),
    Column("resumed_step", Integer),  # of the checkpoint that the present attempt began at
    Column("resumed_as", String(64)),  # the job that goes on in this one's place, which had failed
    Column("creator", String(320)),  # NULL: a job of before the column whose model was gone by then
    Index(None, "state", "created_at", "id"),  # claim, silent, counts
    Index(None, "created_at", "id"),  # page
)

installation = Table(
    "installation",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("id", String(32), nullable=False),  # stands in the data folder, too
)

tuned_models = Table(
    "tuned_models",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("base_model", String(255), nullable=False),
    Column("owner", String(320), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("temperature", Double),
    Column("top_p", Double),
    Column("top_k", Integer),
    Column("source", String(255)),  # name of the tuned model it was tuned on
    Index(None, "created_at", "id"),  # page
    Index(None, "owner", "created_at", "id"),  # page of one owner
)

grants = Table(
    "grants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("model_id", ForeignKey("tuned_models.id", ondelete="CASCADE"), nullable=False),
    Column("grantee_type", String(8), nullable=False),
    Column("email", String(320), nullable=False),  # empty for EVERYONE
    Column("role", String(8), nullable=False),  # never OWNER: that is the model's own column
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("model_id", "grantee_type", "email"),
    Index(None, "email", "model_id"),  # what is shared with somebody
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the secret, which is random and long
    Column("email", String(320), nullable=False),
    Column("label", Text, nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(320), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),  # hexadecimal
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index(None, "owner", "created_at", "id"),  # page
    Index(None, "expires_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),  # SHA-256 of the secret in the session's URL
    Column("file_id", String(40), nullable=False),
    Column("owner", String(320), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("declared_bytes", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "created_at"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("mean_loss", Double),  # NULL is not-a-number: SQLite has no NaN
    Column("num_tokens", BigInteger, nullable=False),
    Column("num_supervised", BigInteger, nullable=False),
    Column("elapsed_s", Double, nullable=False),
    Column("computed_at", UtcDateTime, nullable=False),
    Column("learning_rate", Double),  # NULL in steps of release 0.1, as is the next
    Column("grad_norm", Double),
)

events = Table(
    "events",
    metadata,
    # SQLite counts rows by itself only in a column of the type INTEGER
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Index(None, "job_id", "id"),
)


def older_than(table: Table, created_at: datetime, row_id: str) -> ColumnElement[bool]:
    """The rows that come after the given one where the newest stand first."""
    return tuple_(table.c.created_at, table.c.id) < page_place(created_at, row_id)


def page_place(created_at: datetime, row_id: str) -> Tuple:
    """A place in a list ordered by (created_at, id). Compared as one value: so an index leads to it."""
    return tuple_(literal(created_at, UtcDateTime), literal(row_id, String))

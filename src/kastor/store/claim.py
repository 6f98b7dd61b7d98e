"""The statement by which a scheduler takes the oldest queued job, on both databases."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from kastor.domain.job import ACTIVE, State
from kastor.store.tables import jobs


def claim_oldest_job(at: datetime, max_active: int) -> Any:  # noqa: ANN401  # SQLAlchemy's type of an UPDATE … RETURNING
    """The job, PREPARING under a new attempt, unless `max_active` are active already."""
    queued, active = jobs.alias("queued"), jobs.alias("active")
    oldest = (
        select(queued.c.id)
        .where(queued.c.state == State.QUEUED)
        .order_by(queued.c.created_at, queued.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; SQLite has one writer anyway
        .scalar_subquery()
    )
    num_active = select(func.count()).select_from(active).where(active.c.state.in_(ACTIVE)).scalar_subquery()
    return (
        update(jobs)
        .where(jobs.c.id == oldest, num_active < max_active)
        .values(
            state=State.PREPARING,
            attempt=jobs.c.attempt + 1,
            updated_at=at,
            heartbeat_at=at,
            started_at=func.coalesce(jobs.c.started_at, at),
        )
        .returning(jobs)
    )

"""Tuned models as rows. A model is added with its job (`JobStore.add`) and may go before it (`release`).

Whatever changes a model names its job as well: a deleted model's id may be taken by another one.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, func, or_, select, update

from kastor.domain.job import TuningJob
from kastor.domain.model_filter import ModelFilter
from kastor.domain.permission import Principal, Role
from kastor.domain.tuned_model import TunedModel
from kastor.store.database import Database
from kastor.store.grants import grant_condition, grants_to, grants_to_everyone, model_not_found, visible_to
from kastor.store.job_rows import tuning_job
from kastor.store.tables import grants, jobs, older_than, tuned_models

ALL = ModelFilter()
NEWEST_FIRST = (tuned_models.c.created_at.desc(), tuned_models.c.id.desc())


class ModelStore:
    """The table of tuned models."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, model_id: str) -> TunedModel:
        """The model.

        Raises:
            NotFound: there is none of this id.

        """
        with self._database.read() as connection:
            row = connection.execute(select(tuned_models).where(tuned_models.c.id == model_id)).mappings().one_or_none()
        if row is None:
            raise model_not_found(model_id)
        return _tuned_model(row)

    def for_caller(self, model_id: str, caller: Principal) -> tuple[TunedModel, list[Role]]:
        """The model, and the roles that its grants give the caller: by name, by group, or as they do everybody.

        Raises:
            NotFound: there is none of this id.

        """
        if "\0" in model_id:  # PostgreSQL takes none
            raise model_not_found(model_id)
        theirs = and_(grants.c.model_id == tuned_models.c.id, or_(grants_to(caller), grants_to_everyone()))
        query = select(tuned_models, grants.c.role).join_from(tuned_models, grants, theirs, isouter=True)
        with self._database.read() as connection:
            rows = connection.execute(query.where(tuned_models.c.id == model_id)).mappings().all()
        if not rows:
            raise model_not_found(model_id)
        return _tuned_model(rows[0]), [Role(row[grants.c.role]) for row in rows if row[grants.c.role] is not None]

    def page(
        self, caller: Principal, *, limit: int, before: tuple[datetime, str] | None = None, where: ModelFilter = ALL
    ) -> list[tuple[TunedModel, TuningJob]]:
        """Up to `limit` models of the caller's list with their jobs, newest first.

        `before` is (created_at, id): only those older than it. `where` chooses among them.
        """
        query = page_query(caller, limit=limit, before=before, where=where)
        with self._database.read() as connection:
            return [(_tuned_model(row), tuning_job(row)) for row in connection.execute(query).mappings()]

    def update(self, model: TunedModel, change: Mapping[str, object], *, at: datetime) -> TunedModel:
        """The model after setting the columns in `change`, and no others: somebody else may be changing those.

        Raises:
            NotFound: it was deleted meanwhile.

        """
        changed = update(tuned_models).where(_same(model)).values({**change, "updated_at": at}).returning(tuned_models)
        with self._database.write() as connection:
            row = connection.execute(changed).mappings().one_or_none()
        if row is None:
            raise model_not_found(model.id)
        return _tuned_model(row)

    def release(self, model: TunedModel) -> None:
        """Forget the model only: its job stays, abandoned, until a worker that may be at it has ended.

        Raises:
            NotFound: it was deleted meanwhile.

        """
        with self._database.write() as connection:
            if connection.execute(delete(tuned_models).where(_same(model))).rowcount == 0:
                raise model_not_found(model.id)


def page_query(
    caller: Principal, *, limit: int, before: tuple[datetime, str] | None = None, where: ModelFilter = ALL
) -> Select[tuple[object, ...]]:
    """The query of `ModelStore.page`."""
    query = select(tuned_models, jobs).join_from(tuned_models, jobs).where(*_conditions(caller, where))
    if before is not None:
        query = query.where(older_than(tuned_models, *before))
    return query.order_by(*NEWEST_FIRST).limit(limit)


def _conditions(caller: Principal, where: ModelFilter) -> Iterator[ColumnElement[bool]]:
    yield grant_condition(grants_to_everyone()) if where.everyone else visible_to(caller)
    for role in sorted(where.roles):
        owned = tuned_models.c.owner == caller.email
        yield owned if role is Role.OWNER else grant_condition(grants_to(caller), role)
    for text in where.texts:
        yield or_(_holds(tuned_models.c.display_name, text), _holds(tuned_models.c.description, text))
    if where.done is not None:
        # not by the state: SQLite would take its index for that, and sort
        yield jobs.c.finished_at.is_not(None) if where.done else jobs.c.finished_at.is_(None)


def _holds(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Both sides are lowered by the database, which knows best which letters it lowers."""
    literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return func.lower(column).like(func.lower(f"%{literal}%"), escape="\\")


def _same(model: TunedModel) -> ColumnElement[bool]:
    return and_(tuned_models.c.id == model.id, tuned_models.c.job_id == model.job_id)


def _tuned_model(row: RowMapping) -> TunedModel:
    return TunedModel(**{column.name: row[column] for column in tuned_models.c})

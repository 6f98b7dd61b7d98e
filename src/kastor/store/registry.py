"""Tuned models as rows. A model is added with its job (`JobStore.add`) and may go before it (`release`)."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import RowMapping, delete, select, update

from kastor.domain.errors import NotFound
from kastor.domain.job import TuningJob
from kastor.domain.tuned_model import TunedModel
from kastor.store.database import Database
from kastor.store.jobs import tuning_job
from kastor.store.tables import jobs, older, tuned_models


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
            raise _no_model(model_id)
        return _tuned_model(row)

    def page(self, *, limit: int, before: tuple[datetime, str] | None = None) -> list[tuple[TunedModel, TuningJob]]:
        """Up to `limit` models with their jobs, newest first; those older than (created_at, id), if given."""
        newest_first = (tuned_models.c.created_at.desc(), tuned_models.c.id.desc())
        query = select(tuned_models, jobs).join_from(tuned_models, jobs).order_by(*newest_first).limit(limit)
        if before is not None:
            query = query.where(older(tuned_models, *before))
        with self._database.read() as connection:
            return [(_tuned_model(row), tuning_job(row)) for row in connection.execute(query).mappings()]

    def update(self, model: TunedModel) -> None:
        """Keep the model as given, in place of the stored one.

        Raises:
            NotFound: it was deleted meanwhile.

        """
        values = asdict(model)
        with self._database.write() as connection:
            changed = connection.execute(update(tuned_models).where(tuned_models.c.id == model.id).values(values))
            if changed.rowcount == 0:
                raise _no_model(model.id)

    def release(self, model_id: str) -> None:
        """Forget the model only: its job stays, abandoned, until a worker that may be at it has ended.

        Raises:
            NotFound: there is none of this id.

        """
        with self._database.write() as connection:
            if connection.execute(delete(tuned_models).where(tuned_models.c.id == model_id)).rowcount == 0:
                raise _no_model(model_id)


def _tuned_model(row: RowMapping) -> TunedModel:
    return TunedModel(**{column.name: row[column] for column in tuned_models.c})


def _no_model(model_id: str) -> NotFound:
    return NotFound(f"Tuned model tunedModels/{model_id} does not exist.")

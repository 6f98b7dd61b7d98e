"""Jobs as rows: every write is a compare-and-set, so that a process with an old view loses instead of overwriting.

The rules of the states are `domain.job`'s. Whoever is a worker writes with its attempt number; once the job was given
to a later attempt, or taken away, it gets `Superseded`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from kastor.domain.errors import MODEL, AlreadyExists, NotFound, Superseded
from kastor.domain.job import ACTIVE, TERMINAL, JobError, JobEvent, State, StepMetrics, TuningJob, TuningSpec
from kastor.domain.permission import Principal
from kastor.domain.tuned_model import TunedModel
from kastor.store import tables
from kastor.store.claim import claim_oldest_job
from kastor.store.database import Database
from kastor.store.grants import visible_to
from kastor.store.job_rows import job_values, snapshot, tuning_job
from kastor.store.tables import jobs

CLAIM_LOCK = 0x636C61696D  # "claim": key of PostgreSQL's advisory lock that makes claimers count one after the other
NO_JOB = "Job {} does not exist."


class JobStore:
    """The job table with its events and snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def version(self) -> int | None:
        """A number that is another one after any write to the database; `None` if it keeps no such count."""
        return self._database.version()

    def add(self, job: TuningJob, model: TunedModel) -> None:
        """Keep a new job and the model it will make, both or neither.

        Raises:
            AlreadyExists: the model's id is taken.

        """
        try:
            with self._database.write() as connection:
                connection.execute(insert(jobs).values(job_values(job)))
                connection.execute(insert(tables.tuned_models).values(asdict(model)))
                _add_event(connection, job.id, JobEvent(job.created_at, "info", str(job.state)))
        except IntegrityError as error:
            raise AlreadyExists(
                f"Tuned model {MODEL} already exists. Choose another id, or delete it first.", model_id=model.id
            ) from error

    def resume(self, failed: TuningJob, job: TuningJob) -> None:
        """Keep a new job that makes the model of a failed one, from a checkpoint after `job.completed_steps` on.

        Raises:
            Superseded: another does so already, or the model was deleted.

        """
        model, table = tables.tuned_models, tables.snapshots
        columns = [column for column in table.c if column is not table.c.job_id]
        done = select(literal(job.id), *columns).where(table.c.job_id == failed.id, table.c.step <= job.completed_steps)
        with self._database.write() as connection:
            connection.execute(insert(jobs).values(job_values(job)))
            changed = connection.execute(update(model).where(model.c.job_id == failed.id).values(job_id=job.id))
            if changed.rowcount == 0:
                raise Superseded(f"Job {failed.id} makes no model any more: it was resumed, or the model was deleted.")
            earlier = or_(jobs.c.id == failed.id, jobs.c.resumed_as == failed.id)
            connection.execute(update(jobs).where(earlier).values(resumed_as=job.id))
            connection.execute(insert(table).from_select([table.c.job_id, *columns], done))
            begun = f"{job.state}: goes on for job {failed.id} from the checkpoint of step {job.completed_steps}"
            _add_event(connection, job.id, JobEvent(job.created_at, "info", begun))
            _add_event(connection, failed.id, JobEvent(job.created_at, "info", f"resumed as job {job.id}"))

    def get(self, job_id: str) -> TuningJob:
        """The job.

        Raises:
            NotFound: there is none of this id.

        """
        with self._database.read() as connection:
            return _found(connection, job_id)

    def page(
        self, *, limit: int, before: tuple[datetime, str] | None = None, caller: Principal | None = None
    ) -> list[TuningJob]:
        """Up to `limit` jobs, newest first; those older than (created_at, id), those of the caller's list, if given."""
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        if caller is not None:
            theirs = exists().where(tables.tuned_models.c.job_id == _present_id(), visible_to(caller))
            query = query.where(theirs)
        if before is not None:
            query = query.where(tables.older_than(jobs, *before))
        with self._database.read() as connection:
            return [tuning_job(row) for row in connection.execute(query).mappings()]

    def claim(self, *, at: datetime, max_active: int) -> TuningJob | None:
        """The oldest queued job, now PREPARING under a new attempt; `None` if none waits or `max_active` are active."""
        waiting = select(jobs.c.id).where(jobs.c.state == State.QUEUED).limit(1)
        with self._database.read() as connection:  # an idle scheduler asks often: let it not take the write lock
            if connection.execute(waiting).first() is None:
                return None
        with self._database.write() as connection:
            if self._database.postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CLAIM_LOCK})
            row = connection.execute(claim_oldest_job(at, max_active)).mappings().one_or_none()
            if row is None:
                return None
            job = tuning_job(row)
            moved = f"{State.QUEUED} -> {State.PREPARING} (attempt {job.attempt})"
            _add_event(connection, job.id, JobEvent(at, "info", moved))
            return job

    def move(
        self,
        job: TuningJob,
        to: State,
        *,
        at: datetime,
        error: JobError | None = None,
        died: bool = False,
        note: str = "",
    ) -> TuningJob:
        """The job after the move from the state `job` was seen in; `died` counts a worker's death.

        The move becomes an event, in the same transaction; `note` says why.

        Raises:
            FailedPrecondition: the states do not allow the move.
            Superseded: the job is no longer as `job` says.

        """
        with self._database.write() as connection:
            return _move(connection, job, to, at=at, error=error, died=died, note=note)

    def request_cancel(self, job_id: str, *, at: datetime) -> TuningJob:
        """The job with a cancel on its way, or done where no worker has it; as it is if it already ends or ended.

        Raises:
            NotFound: there is none of this id.

        """
        with self._database.write() as connection:
            job = _found(connection, job_id, lock=True)
            if job.state.terminal or job.state is State.CANCELLING:
                return job
            to = State.CANCELLED if job.state is State.QUEUED else State.CANCELLING
            return _move(connection, job, to, at=at, note="on request")

    def heartbeat(self, job_id: str, attempt: int, *, at: datetime) -> State:
        """The job's state, after noting that its worker lives.

        Raises:
            Superseded: `attempt` does not own the job (any more).

        """
        with self._database.write() as connection:
            return _owned(connection, job_id, attempt, heartbeat_at=at)

    def record_step(self, job_id: str, attempt: int, snapshot: StepMetrics) -> State:
        """The job's state, after keeping what a step did (in place of an earlier try of the same step).

        Raises:
            Superseded: `attempt` does not own the job (any more).

        """
        values = asdict(snapshot) | {"job_id": job_id}
        if math.isnan(snapshot.mean_loss):
            values["mean_loss"] = None
        table = tables.snapshots
        with self._database.write() as connection:
            state = _owned(
                connection, job_id, attempt, heartbeat_at=snapshot.computed_at, completed_steps=snapshot.step
            )
            connection.execute(delete(table).where(table.c.job_id == job_id, table.c.step == snapshot.step))
            connection.execute(insert(table).values(values))
            return state

    def store_spec(self, job_id: str, attempt: int, spec: TuningSpec) -> None:
        """Keep what the gate found out about the job's dataset file.

        Raises:
            Superseded: the attempt is not the present one.

        """
        with self._database.write() as connection:
            _owned(connection, job_id, attempt, spec=asdict(spec), deaths=0)  # judged once: that is progress

    def forget_deaths(self, job_id: str, attempt: int) -> None:
        """Count the deaths of the job's workers anew: it has come further since.

        Raises:
            Superseded: `attempt` does not own the job (any more).

        """
        with self._database.write() as connection:
            _owned(connection, job_id, attempt, deaths=0)

    def rewind(self, job_id: str, attempt: int, step: int) -> None:
        """Forget the steps after `step`: a worker goes on from its checkpoint there.

        Deaths are counted anew if an earlier attempt brought the job to that checkpoint.

        Raises:
            Superseded: `attempt` does not own the job (any more).

        """
        table = tables.snapshots
        with self._database.write() as connection:
            further = func.coalesce(jobs.c.resumed_step, 0) < step
            deaths = case((further, 0), else_=jobs.c.deaths)
            _owned(connection, job_id, attempt, completed_steps=step, resumed_step=step, deaths=deaths)
            connection.execute(delete(table).where(table.c.job_id == job_id, table.c.step > step))

    def stale(self, *, before: datetime) -> list[TuningJob]:
        """Active jobs whose worker was last heard of before `before`, oldest first."""
        query = (
            select(jobs)
            .where(jobs.c.state.in_(ACTIVE), jobs.c.heartbeat_at < before)
            .order_by(jobs.c.created_at, jobs.c.id)
        )
        with self._database.read() as connection:
            return [tuning_job(row) for row in connection.execute(query).mappings()]

    def overdue_cancels(self, *, before: datetime) -> list[TuningJob]:
        """Jobs whose cancel was asked for before `before` and whose worker has not ended, oldest first."""
        query = (
            select(jobs)
            .where(jobs.c.state == State.CANCELLING, jobs.c.updated_at < before)
            .order_by(jobs.c.created_at, jobs.c.id)
        )
        with self._database.read() as connection:
            return [tuning_job(row) for row in connection.execute(query).mappings()]

    def check_writable(self, job_id: str) -> None:
        """Write the job's row as it is.

        Raises:
            Unavailable: the database takes no writes now.
            ResourceExhausted: its disk is full.

        """
        with self._database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(attempt=jobs.c.attempt))

    def orphaned(self) -> list[str]:
        """Ids of the jobs that have ended and whose model was released: nobody needs them any more."""
        owner = tables.tuned_models
        query = (
            select(jobs.c.id)
            .join_from(jobs, owner, owner.c.job_id == _present_id(), isouter=True)
            .where(owner.c.id.is_(None), jobs.c.state.in_(TERMINAL))
        )
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def delete(self, job_id: str) -> None:
        """Forget the job with its events and snapshots; nothing happens if there is none."""
        with self._database.write() as connection:
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; every state is there."""
        with self._database.read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return dict.fromkeys(State, 0) | {State(state): number for state, number in rows}

    def total_steps(self) -> int:
        """Optimizer steps done, over all kept jobs."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(jobs.c.completed_steps), 0))).scalar_one())

    def snapshots(self, job_id: str) -> list[StepMetrics]:
        """What each completed step did, in order; empty for an unknown job."""
        return list(self.snapshots_of([job_id])[job_id])

    def snapshots_of(self, job_ids: Sequence[str], *, latest: int | None = None) -> dict[str, tuple[StepMetrics, ...]]:
        """The same for several jobs, each of which is a key; of each only the `latest` ones, if given."""
        table = tables.snapshots
        columns = (table.c[field.name] for field in fields(StepMetrics))
        query = (
            select(table.c.job_id, *columns).where(table.c.job_id.in_(job_ids)).order_by(table.c.job_id, table.c.step)
        )
        if latest is not None:
            query = query.join(jobs).where(table.c.step > jobs.c.completed_steps - latest)
        found: dict[str, list[StepMetrics]] = {job_id: [] for job_id in job_ids}
        with self._database.read() as connection:
            for job_id, *values in connection.execute(query):
                found[job_id].append(snapshot(values))
        return {job_id: tuple(steps) for job_id, steps in found.items()}

    def events(self, job_id: str) -> list[JobEvent]:
        """The job's events in the order they were written; empty for an unknown job."""
        table = tables.events
        query = select(table.c.at, table.c.level, table.c.message).where(table.c.job_id == job_id).order_by(table.c.id)
        with self._database.read() as connection:
            return [JobEvent(row.at, row.level, row.message) for row in connection.execute(query)]

    def add_event(self, job_id: str, event: JobEvent) -> None:
        """Add a line to the job's events.

        Raises:
            NotFound: there is no such job.

        """
        try:
            with self._database.write() as connection:
                _add_event(connection, job_id, event)
        except IntegrityError as error:
            raise NotFound(NO_JOB.format(job_id)) from error


def _present_id() -> ColumnElement[str]:
    """Of a job, or of the one that goes on in its place: the one that its model names."""
    return func.coalesce(jobs.c.resumed_as, jobs.c.id)


def _move(
    connection: Connection,
    job: TuningJob,
    to: State,
    *,
    at: datetime,
    error: JobError | None = None,
    died: bool = False,
    note: str = "",
) -> TuningJob:
    moved = job.moved_to(to, at=at, error=error)
    values = job_values(moved)
    changed = ("state", "updated_at", "started_at", "heartbeat_at", "finished_at", "error_code", "error_message")
    row = (
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.state == job.state, jobs.c.attempt == job.attempt)
            .values({name: values[name] for name in changed} | {"deaths": jobs.c.deaths + int(died)})
            .returning(jobs)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise Superseded(
            f"Job {job.id} is no longer {job.state} in attempt {job.attempt}, so it was not made {to}; read it again."
        )
    level = "error" if error is not None else "warning" if died else "info"
    why = "; ".join(part for part in (note, error.message if error else "") if part)
    _add_event(connection, job.id, JobEvent(at, level, f"{job.state} -> {to}" + (f": {why}" if why else "")))
    return tuning_job(row)


def _owned(connection: Connection, job_id: str, attempt: int, **values: Any) -> State:  # noqa: ANN401  # columns
    """The state of a job that `attempt` owns, after setting columns of it; holds its row until the transaction ends."""
    owned = and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(ACTIVE))
    state = connection.execute(update(jobs).where(owned).values(values).returning(jobs.c.state)).scalar_one_or_none()
    if state is None:
        raise Superseded(f"Attempt {attempt} no longer owns job {job_id}; its worker must end without writing.")
    return State(state)


def _found(connection: Connection, job_id: str, *, lock: bool = False) -> TuningJob:
    query = select(jobs).where(jobs.c.id == job_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(NO_JOB.format(job_id))
    return tuning_job(row)


def _add_event(connection: Connection, job_id: str, event: JobEvent) -> None:
    connection.execute(insert(tables.events).values(asdict(event) | {"job_id": job_id}))

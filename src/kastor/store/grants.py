"""Grants of tuned models as rows, and who sees a model as a condition in SQL.

The owner is a column of the model. Whatever changes both locks the model's row first, and names its job as well: a
deleted model's id may be taken by another one.
"""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    exists,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from kastor.domain.errors import MODEL, AlreadyExists, NotFound, Superseded
from kastor.domain.permission import Grant, GranteeType, Principal, Role
from kastor.domain.tuned_model import TunedModel
from kastor.store.database import Database
from kastor.store.tables import grants, page_place, tuned_models


class GrantStore:
    """The table of grants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, model: TunedModel, grant: Grant) -> None:
        """Keep a new grant on the model.

        Raises:
            AlreadyExists: its grantee has one, or is the owner.
            NotFound: the model was deleted meanwhile.

        """
        taken = AlreadyExists(
            f"Tuned model {MODEL} is shared with {grant.email or 'everyone'} already; change that permission.",
            model_id=model.id,
        )
        try:
            with self._database.write() as connection:
                owner = _locked_owner(connection, model)
                if grant.grantee_type is GranteeType.USER and grant.email == owner:
                    raise taken
                connection.execute(insert(grants).values(asdict(grant)))
        except IntegrityError as error:
            raise taken from error

    def get(self, model_id: str, grant_id: str) -> Grant:
        """The grant.

        Raises:
            NotFound: the model has none of this id.

        """
        with self._database.read() as connection:
            row = connection.execute(select(grants).where(_is(model_id, grant_id))).mappings().one_or_none()
        if row is None:
            raise _no_grant(model_id, grant_id)
        return _grant(row)

    def page(self, model_id: str, *, limit: int, after: tuple[datetime, str] | None = None) -> list[Grant]:
        """Up to `limit` grants of the model, oldest first; those younger than (created_at, id), if given."""
        query = select(grants).where(grants.c.model_id == model_id).order_by(grants.c.created_at, grants.c.id)
        if after is not None:
            query = query.where(tuple_(grants.c.created_at, grants.c.id) > page_place(*after))
        with self._database.read() as connection:
            return [_grant(row) for row in connection.execute(query.limit(limit)).mappings()]

    def set_role(self, model_id: str, grant_id: str, role: Role) -> Grant:
        """The grant with this role.

        Raises:
            NotFound: the model has none of this id.

        """
        changed = update(grants).where(_is(model_id, grant_id)).values(role=role).returning(grants)
        with self._database.write() as connection:
            row = connection.execute(changed).mappings().one_or_none()
        if row is None:
            raise _no_grant(model_id, grant_id)
        return _grant(row)

    def remove(self, model_id: str, grant_id: str) -> None:
        """Take the grant back.

        Raises:
            NotFound: the model has none of this id.

        """
        with self._database.write() as connection:
            if connection.execute(delete(grants).where(_is(model_id, grant_id))).rowcount == 0:
                raise _no_grant(model_id, grant_id)

    def transfer(self, model: TunedModel, to: str, left: Grant) -> None:
        """Make `to` the model's owner; `left` is what the present one keeps. What `to` was granted goes.

        Raises:
            NotFound: the model was deleted meanwhile.
            Superseded: it has another owner than `model` says.

        """
        users = and_(grants.c.model_id == model.id, grants.c.grantee_type == GranteeType.USER)
        with self._database.write() as connection:
            owner = _locked_owner(connection, model)
            if owner != model.owner:
                raise Superseded(
                    f"Tuned model {MODEL} got another owner meanwhile; look at its permissions.", model_id=model.id
                )
            connection.execute(update(tuned_models).where(tuned_models.c.id == model.id).values(owner=to))
            connection.execute(delete(grants).where(users, grants.c.email.in_((owner, to))))
            connection.execute(insert(grants).values(asdict(left)))


def grants_to(caller: Principal) -> ColumnElement[bool]:
    """Grants that name the caller, or a group of theirs."""
    user = and_(grants.c.grantee_type == GranteeType.USER, grants.c.email == caller.email)
    if not caller.groups:
        return user
    return or_(user, and_(grants.c.grantee_type == GranteeType.GROUP, grants.c.email.in_(sorted(caller.groups))))


def grants_to_everyone() -> ColumnElement[bool]:
    """Grants to everybody."""
    return grants.c.grantee_type == GranteeType.EVERYONE


def grant_condition(to: ColumnElement[bool], role: Role | None = None) -> ColumnElement[bool]:
    """Tuned models that have a grant `to` somebody (with just this role)."""
    found = exists().where(grants.c.model_id == tuned_models.c.id, to)
    return found if role is None else found.where(grants.c.role == role)


def visible_to(caller: Principal) -> ColumnElement[bool]:
    """Tuned models that stand in the caller's lists: their own, and those shared with them by name or group."""
    if caller.operator:
        return true()
    return or_(tuned_models.c.owner == caller.email, grant_condition(grants_to(caller)))


def _locked_owner(connection: Connection, model: TunedModel) -> str:
    """The owner, whom nobody changes until the transaction ends."""
    same = and_(tuned_models.c.id == model.id, tuned_models.c.job_id == model.job_id)
    owner = connection.execute(select(tuned_models.c.owner).where(same).with_for_update()).scalar_one_or_none()
    if owner is None:
        raise model_not_found(model.id)
    return str(owner)


def _grant(row: RowMapping) -> Grant:
    kinds = {"grantee_type": GranteeType(row["grantee_type"]), "role": Role(row["role"])}
    return Grant(**{**row, **kinds})


def _is(model_id: str, grant_id: str) -> ColumnElement[bool]:
    if "\0" in grant_id:  # PostgreSQL takes none
        raise _no_grant(model_id, grant_id)
    return and_(grants.c.id == grant_id, grants.c.model_id == model_id)


def model_not_found(model_id: str) -> NotFound:
    """There is no such tuned model."""
    return NotFound(f"Tuned model {MODEL} does not exist.", model_id=model_id)


def _no_grant(model_id: str, grant_id: str) -> NotFound:
    return NotFound(f"Permission {MODEL}/permissions/{grant_id} does not exist.", model_id=model_id)

"""The use cases of sharing: who else may use or change a tuned model, and who owns it.

Only who may change the model sees and changes its permissions. The owner's stands among them under the id `owner`, and
changes only when the model is given to somebody else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kastor.domain.errors import MODEL, FailedPrecondition, FieldViolation, InvalidArgument
from kastor.domain.permission import (
    OWNER_ID,
    Grant,
    GranteeType,
    Principal,
    Role,
    check_grant,
    validated_email,
)
from kastor.domain.tuned_model import TunedModel, random_model_id
from kastor.services.access import ModelAccess
from kastor.services.views import Page
from kastor.store.grants import GrantStore

EMAIL = "email"


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A permission to give. The e-mail is as the caller wrote it, empty where there is none."""

    grantee_type: GranteeType
    email: str
    role: Role


class SharingService:
    """Every use case of sharing; safe to use from several threads at once."""

    def __init__(self, *, access: ModelAccess, grants: GrantStore, clock: Callable[[], datetime]) -> None:
        self._access = access
        self._grants = grants
        self._clock = clock

    def create(self, model_id: str, new: NewGrant, caller: Principal) -> Grant:
        """The new permission.

        Raises:
            InvalidArgument: its fields do not go together, or are wrong.
            AlreadyExists: the grantee has one, or is the owner.
            NotFound: there is no such model.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        check_grant(new.grantee_type, new.role)
        grant = Grant(random_model_id(), model.id, new.grantee_type, _email(new), new.role, self._clock())
        self._grants.add(model, grant)
        return grant

    def permission(self, model_id: str, permission_id: str, caller: Principal) -> Grant:
        """The permission.

        Raises:
            NotFound: there is no such model, or it has none of this id.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        return _owners(model) if permission_id == OWNER_ID else self._grants.get(model.id, permission_id)

    def permissions(
        self, model_id: str, caller: Principal, *, limit: int, after: tuple[datetime, str] | None = None
    ) -> Page[Grant]:
        """Up to `limit` permissions: the owner's, then the oldest first; those after (created_at, id), if given.

        Raises:
            NotFound: there is no such model.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        first = [_owners(model)] if after is None else []
        if after is not None and after[1] == OWNER_ID:
            after = None
        found = first + self._grants.page(model.id, limit=limit + 1, after=after)
        return Page(tuple(found[:limit]), len(found) > limit)

    def change_role(self, model_id: str, permission_id: str, role: Role, caller: Principal) -> Grant:
        """The permission with another role.

        Raises:
            InvalidArgument: its grantee may not have the role.
            FailedPrecondition: it is the owner's.
            NotFound: there is no such model, or it has none of this id.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        _refuse_owners(model, permission_id)
        check_grant(self._grants.get(model.id, permission_id).grantee_type, role)
        return self._grants.set_role(model.id, permission_id, role)

    def delete(self, model_id: str, permission_id: str, caller: Principal) -> None:
        """Take the permission back.

        Raises:
            FailedPrecondition: it is the owner's.
            NotFound: there is no such model, or it has none of this id.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        _refuse_owners(model, permission_id)
        self._grants.remove(model.id, permission_id)

    def transfer(self, model_id: str, email: str, caller: Principal) -> None:
        """Give the model to somebody else; the present owner stays as a writer.

        Raises:
            InvalidArgument: the address is none, or is the owner's.
            NotFound: there is no such model.
            PermissionDenied: the caller does not own it.
            Superseded: somebody else gave it away in this moment.

        """
        model = self._access.model(model_id, caller, Role.OWNER)
        to = validated_email(email, EMAIL)
        if to == model.owner:
            violation = FieldViolation(EMAIL, f"{to} owns {MODEL} already")
            raise InvalidArgument.of_all((violation,), model_id=model.id)
        left = Grant(random_model_id(), model.id, GranteeType.USER, model.owner, Role.WRITER, self._clock())
        self._grants.transfer(model, to, left)


def _email(new: NewGrant) -> str:
    if new.grantee_type is not GranteeType.EVERYONE:
        if not new.email:
            raise InvalidArgument.of(EMAIL, f"is missing; a {new.grantee_type} is named by its e-mail address")
        return validated_email(new.email, EMAIL)
    if new.email:
        raise InvalidArgument.of(EMAIL, "is not for EVERYONE; leave it out, or share with a USER or a GROUP")
    return ""


def _owners(model: TunedModel) -> Grant:
    return Grant(OWNER_ID, model.id, GranteeType.USER, model.owner, Role.OWNER, model.created_at)


def _refuse_owners(model: TunedModel, permission_id: str) -> None:
    if permission_id == OWNER_ID:
        raise FailedPrecondition(
            f"The owner's permission on {MODEL} stays as it is; give the model to another by :transferOwnership.",
            model_id=model.id,
        )

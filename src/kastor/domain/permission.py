"""Who may do what with a tuned model: callers, roles and grants.

The rules of the roles are those of `google.ai.generativelanguage.v1beta.Permission`: a reader may use the model, a
writer may edit and share it too, the owner may delete it and hand it over too. A model has exactly one owner, who is a
field of the model; everybody else has grants.

E-mail addresses are kept and compared in lower case.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kastor.domain.errors import InvalidArgument

OWNER_ID = "owner"
"""Id of the owner's permission, on every model; those of grants are random and longer."""
MAX_EMAIL_CHARS = 320
EMAIL_PATTERN = re.compile(r'[^@\s<>()\[\],;:"\\]+@[^@\s<>()\[\],;:"\\]+')  # the part after the @ may be one word


class Role(StrEnum):
    """What a grantee may do, each more than the one before."""

    READER = "READER"
    WRITER = "WRITER"
    OWNER = "OWNER"

    @property
    def rank(self) -> int:
        """Its place in the order.

        >>> Role.READER.rank < Role.WRITER.rank < Role.OWNER.rank
        True
        """
        return list(Role).index(self)


class GranteeType(StrEnum):
    """To whom a grant is given."""

    USER = "USER"
    GROUP = "GROUP"
    EVERYONE = "EVERYONE"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    email: str
    groups: frozenset[str] = frozenset()  # e-mails of the groups they belong to
    operator: bool = False  # runs the installation: may do everything

    def __post_init__(self) -> None:
        object.__setattr__(self, "email", normal_email(self.email))
        object.__setattr__(self, "groups", frozenset(map(normal_email, self.groups)))


@dataclass(frozen=True, slots=True)
class Grant:
    """A role given to somebody, on one tuned model."""

    id: str  # [a-z0-9]+
    model_id: str
    grantee_type: GranteeType
    email: str  # empty for EVERYONE
    role: Role  # OWNER only under `OWNER_ID`, which stands for the model's own field
    created_at: datetime


def effective_role(caller: Principal, owner: str, granted: Iterable[Role]) -> Role | None:
    """The caller's role on a model of this owner, `granted` being the roles that grants give them; `None` is none.

    >>> effective_role(Principal("Ada@Example.org"), "ada@example.org", [])
    <Role.OWNER: 'OWNER'>
    >>> effective_role(Principal("bob@example.org"), "ada@example.org", [Role.WRITER, Role.READER])
    <Role.WRITER: 'WRITER'>
    >>> effective_role(Principal("eve@example.org"), "ada@example.org", []) is None
    True
    """
    if caller.operator or caller.email == owner:
        return Role.OWNER
    return max(granted, key=lambda role: role.rank, default=None)


def normal_email(text: str) -> str:
    """The address as it is kept and compared.

    >>> normal_email(" Ada@Example.ORG ")
    'ada@example.org'
    """
    return text.strip().lower()


def validated_email(text: str, field: str) -> str:
    """The address as it is kept, if it may be one; `field` is where the caller wrote it.

    Raises:
        InvalidArgument: it is none.

    """
    email = normal_email(text)
    if len(email) > MAX_EMAIL_CHARS or not email.isprintable() or not EMAIL_PATTERN.fullmatch(email):
        raise InvalidArgument.of(field, f"{text[:80]!r} is not an e-mail address such as ada@example.org")
    return email


def check_grant(grantee_type: GranteeType, role: Role) -> None:
    """Nothing, if such a grant may be given. There is one owner; what everybody could edit would be nobody's.

    Raises:
        InvalidArgument: the role is not for this grantee.

    """
    if role is Role.OWNER:
        raise InvalidArgument.of(
            "role", "OWNER is not given by a permission: a model has one owner, changed by :transferOwnership"
        )
    if grantee_type is GranteeType.EVERYONE and role is not Role.READER:
        raise InvalidArgument.of("role", f"{role} is not given to EVERYONE; use READER, or name the users and groups")

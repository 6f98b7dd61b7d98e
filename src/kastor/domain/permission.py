"""Who may do what with a tuned model: callers, roles and grants.

The rules of the roles are those of `google.ai.generativelanguage.v1beta.Permission`: a reader may use the model, a
writer may edit and share it too, the owner may delete it and hand it over too. A model has exactly one owner, who is a
field of the model; everybody else has grants.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class Grant:
    """A role given to somebody, on one tuned model."""

    id: str  # [a-z0-9]+
    model_id: str
    grantee_type: GranteeType
    email: str  # empty for EVERYONE
    role: Role  # never OWNER
    created_at: datetime

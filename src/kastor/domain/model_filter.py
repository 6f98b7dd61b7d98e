"""Which tuned models a list is to hold, beside what its reader may see at all."""

from dataclasses import dataclass

from kastor.domain.permission import Role


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Every condition holds at once; an empty one holds for all."""

    texts: tuple[str, ...] = ()  # each stands in the display name or the description, whatever its case
    roles: frozenset[Role] = frozenset()  # the caller has each of them: as the owner, or by a grant that says just it
    everyone: bool = False  # shared with everybody: listed only so, as those would hide the caller's own
    done: bool | None = None  # whether the job has ended

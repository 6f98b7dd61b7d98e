"""Which model a request means. Dialects make it from the names of their wire; the core knows no such names."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A base model by its catalog id or alias, or a tuned model by its id."""

    id: str
    tuned: bool = False

"""A dataset, judged as a whole: ledger, statistics, and what stands against training on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kastor.dataset.gate import Gate, Outcome, Verdict
from kastor.dataset.ledger import Ledger, refusals, validation_refusals
from kastor.dataset.read import Columns, read_rows
from kastor.dataset.stats import TEXT_ONLY, Duplicates, Statistics

OnVerdict = Callable[[Verdict], None]
"""Told of every verdict, in order: progress, a file of rejects, thumbnails."""


@dataclass(slots=True)
class Judged:
    """One file, judged."""

    path: Path
    ledger: Ledger = field(default_factory=Ledger)
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def has_media(self) -> bool:
        """Whether any accepted example holds media."""
        return self.statistics.slices[TEXT_ONLY] < self.ledger.num_accepted


@dataclass(frozen=True, slots=True)
class Report:
    """A training file, with a validation file perhaps, judged by one profile for one base."""

    gate: Gate
    training: Judged
    validation: Judged | None
    refusals: tuple[str, ...]  # why nothing may be trained; empty if it may be
    duplicates: Duplicates  # in the training file
    leaked: Duplicates  # validation examples that are trained on


def judge(
    gate: Gate,
    training: Path,
    validation: Path | None = None,
    *,
    columns: Columns = (None, None),
    on_verdict: OnVerdict = lambda verdict: None,
) -> Report:
    """The report on a dataset; reads each file once.

    Raises:
        InvalidArgument: a file cannot be read at all.

    """
    trained = _judged(gate, training, columns, on_verdict)
    held_out = None if validation is None else _judged(gate, validation, columns, on_verdict)
    said = _refusals(gate, trained)
    if held_out is not None:
        said += [f"Validation: {sentence}" for sentence in _refusals(gate, held_out)]
        said += validation_refusals(held_out.ledger.num_accepted, trained.ledger.num_accepted, gate.limits)
    return Report(
        gate,
        trained,
        held_out,
        tuple(said),
        trained.statistics.duplicates(),
        Duplicates(0, ()) if held_out is None else held_out.statistics.leaked_from(trained.statistics),
    )


def _judged(gate: Gate, path: Path, columns: Columns, on_verdict: OnVerdict) -> Judged:
    judged = Judged(path)
    for verdict in gate.verdicts(read_rows(path, input_key=columns[0], output_key=columns[1])):
        judged.ledger.add(verdict)
        if verdict.outcome is Outcome.ACCEPTED and verdict.example is not None and verdict.plan is not None:
            judged.statistics.add(verdict.line, verdict.example, verdict.plan.tokens)
        on_verdict(verdict)
    return judged


def _refusals(gate: Gate, judged: Judged) -> list[str]:
    size = judged.path.stat().st_size
    return refusals(judged.ledger, gate.limits, num_bytes=size, has_media=judged.has_media)

"""Validation of a whole dataset: ledger, statistics, and the reasons against training on it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kastor.dataset.formats.issues import LINE, FileFacts
from kastor.dataset.formats.read import Columns, read_rows
from kastor.dataset.validation.ledger import Ledger, refusals, validation_refusals
from kastor.dataset.validation.stats import TEXT_ONLY, DatasetStatistics, Duplicates
from kastor.dataset.validation.validator import DatasetValidator, RowVerdict

OnVerdict = Callable[[Path, RowVerdict], None]
"""Called with every verdict and its file, in order: for progress, rejected rows, thumbnails."""
OnBytes = Callable[[Path, int], None]
"""Called repeatedly with the number of bytes read from a file, counted before decompression."""


@dataclass(slots=True)
class ValidatedFile:
    """One file, judged."""

    path: Path
    ledger: Ledger = field(default_factory=Ledger)
    statistics: DatasetStatistics = field(default_factory=DatasetStatistics)
    facts: FileFacts = field(default_factory=FileFacts)

    @property
    def has_media(self) -> bool:
        """Whether any accepted example holds media."""
        return self.statistics.slices[TEXT_ONLY] < self.ledger.num_accepted


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """The result for a training file, with an optional validation file, under one profile for one base."""

    gate: DatasetValidator
    training: ValidatedFile
    validation: ValidatedFile | None
    refusals: tuple[str, ...]  # the reasons against training; empty if it may start
    duplicates: Duplicates  # in the training file
    leaked: Duplicates  # validation examples that are also in the training file
    partial: bool = False  # True if validation was interrupted


def validate_dataset(
    gate: DatasetValidator,
    training: Path,
    validation: Path | None = None,
    *,
    columns: Columns = (None, None),
    on_verdict: Callable[[RowVerdict], None] = lambda verdict: None,
) -> DatasetReport:
    """The report on a dataset; reads each file once.

    Raises:
        InvalidArgument: a file cannot be read at all.

    """
    judging = DatasetValidation(gate, training, validation)
    judging.run(columns=columns, on_verdict=lambda path, verdict: on_verdict(verdict))
    return judging.report()


class DatasetValidation:
    """The validation of a dataset in progress; its report so far is available at any time."""

    def __init__(self, gate: DatasetValidator, training: Path, validation: Path | None = None) -> None:
        self.gate = gate
        self.training = ValidatedFile(training)
        self.validation = None if validation is None else ValidatedFile(validation)
        self._done = False

    def run(
        self,
        *,
        columns: Columns = (None, None),
        on_verdict: OnVerdict = lambda path, verdict: None,
        on_bytes: OnBytes = lambda path, num_bytes: None,
    ) -> None:
        """Validate all rows, those of the training file first.

        Raises:
            InvalidArgument: a file cannot be read at all.

        """
        for judged in (self.training, self.validation):
            if judged is not None:
                self._run(judged, columns, on_verdict, on_bytes)
        self._done = True

    def _run(self, judged: ValidatedFile, columns: Columns, on_verdict: OnVerdict, on_bytes: OnBytes) -> None:
        def read(num_bytes: int) -> None:
            on_bytes(judged.path, num_bytes)

        facts = judged.facts
        rows = read_rows(judged.path, input_key=columns[0], output_key=columns[1], on_bytes=read, facts=facts)
        count, learn = judged.ledger.add, judged.statistics.add
        for verdict in self.gate.verdicts(rows):
            if verdict.issues and facts.unit != LINE:
                verdict = replace(verdict, issues=tuple(replace(issue, unit=facts.unit) for issue in verdict.issues))
            count(verdict)
            if verdict.example is not None and verdict.plan is not None:
                learn(verdict.line, verdict.example, verdict.plan.tokens)
            on_verdict(judged.path, verdict)

    def report(self) -> DatasetReport:
        """The report on the rows validated so far; partial if any are left."""
        trained, held_out = self.training, self.validation
        reasons = _refusals(self.gate, trained)
        if held_out is not None:
            reasons += [f"Validation: {sentence}" for sentence in _refusals(self.gate, held_out)]
            reasons += validation_refusals(held_out.ledger.num_accepted, trained.ledger.num_accepted, self.gate.limits)
        return DatasetReport(
            self.gate,
            trained,
            held_out,
            tuple(reasons),
            trained.statistics.duplicates(),
            Duplicates(0, ()) if held_out is None else held_out.statistics.leaked_from(trained.statistics),
            partial=not self._done,
        )


def _refusals(gate: DatasetValidator, judged: ValidatedFile) -> list[str]:
    size = judged.path.stat().st_size
    return refusals(judged.ledger, gate.limits, num_bytes=size, has_media=judged.has_media)

"""The outcome of every row of a dataset, and whether the dataset may be used for training.

The ledger always sums: rows in = accepted + dropped by a rule + rejected.
"""

from collections import Counter
from dataclasses import dataclass, field

from kastor.dataset.formats.issues import Issue, num_faulty_rows
from kastor.dataset.validation.validator import RowOutcome, RowVerdict
from kastor.domain.counts import counted
from kastor.domain.dataset_limits import DatasetLimits

MAX_KEPT_ISSUES = 1000  # further issues are only counted
MAX_FIRST_ISSUES = 5  # per rule


@dataclass(slots=True)
class Ledger:
    """Counts by outcome and rule, and the first issues."""

    counts: Counter[RowOutcome] = field(default_factory=Counter)
    dropped_by_rule: Counter[str] = field(default_factory=Counter)
    rejected_by_rule: Counter[str] = field(default_factory=Counter)
    issues: list[Issue] = field(default_factory=list)  # the first `MAX_KEPT_ISSUES` of rows not accepted
    notes: Counter[str] = field(default_factory=Counter)  # rule -> number of accepted rows with a note of it
    dropped: list[tuple[int, Issue]] = field(default_factory=list)  # the first dropped rows, from 1, and why
    first: dict[str, list[Issue]] = field(default_factory=dict)  # rule -> its first issues and notes, one per row

    def add(self, verdict: RowVerdict) -> None:
        """Count a row; a row that violates several rules counts for its first."""
        self.counts[verdict.outcome] += 1
        if not verdict.issues:
            return
        first = verdict.issues[0]
        self._remember(verdict.issues)
        if verdict.outcome is RowOutcome.ACCEPTED:
            self.notes.update({issue.rule for issue in verdict.issues})
            return
        if verdict.outcome is RowOutcome.DROPPED:
            self.dropped_by_rule[first.rule] += 1
            if len(self.dropped) < MAX_KEPT_ISSUES:
                self.dropped.append((self.num_rows, first))
        else:
            self.rejected_by_rule[first.rule] += 1
        if len(self.issues) < MAX_KEPT_ISSUES:
            self.issues += verdict.issues

    def _remember(self, issues: tuple[Issue, ...]) -> None:
        for issue in issues:
            firsts = self.first.setdefault(issue.rule, [])
            if len(firsts) < MAX_FIRST_ISSUES and (not firsts or firsts[-1].line != issue.line):
                firsts.append(issue)

    @property
    def num_rows(self) -> int:
        """Rows in the file, without empty lines."""
        return self.counts.total()

    @property
    def num_accepted(self) -> int:
        """Rows that training uses."""
        return self.counts[RowOutcome.ACCEPTED]

    @property
    def num_dropped(self) -> int:
        """Rows that are left out of training."""
        return self.counts[RowOutcome.DROPPED]

    @property
    def num_rejected(self) -> int:
        """Rows that must be corrected before anything is trained."""
        return self.counts[RowOutcome.REJECTED]


def refusals(ledger: Ledger, limits: DatasetLimits, *, num_bytes: int, has_media: bool) -> list[str]:
    """The reasons why this file may not be used for training, one sentence each; empty if it may.

    `num_bytes` is the file's size on disk.
    """
    reasons = []
    if not ledger.num_rows:
        reasons.append("There are no examples in this file.")
    if ledger.num_rejected:
        faulty = _listed(ledger.rejected_by_rule)
        reasons.append(f"{num_faulty_rows(ledger.num_rejected, ledger.num_rows)}: {faulty}.")
    share = ledger.num_dropped / ledger.num_rows if ledger.num_rows else 0.0
    if share > limits.max_dropped_share:
        reasons.append(
            f"{ledger.num_dropped:,} of {counted(ledger.num_rows, 'example')} ({share:.1%}) would be dropped, "
            f"more than "
            f"{limits.max_dropped_share:.0%}: {_listed(ledger.dropped_by_rule)}. Correct or remove them."
        )
    elif ledger.num_rows and not ledger.num_accepted and not ledger.num_rejected:
        reasons.append(f"Every example would be dropped: {_listed(ledger.dropped_by_rule)}.")
    if limits.max_file_bytes is not None and num_bytes > limits.max_file_bytes:
        reasons.append(f"The file has {num_bytes:,} bytes, at most {limits.max_file_bytes:,} are allowed.")
    most = limits.max_media_examples if has_media else limits.max_examples
    if most is not None and ledger.num_accepted > most:
        reasons.append(f"{counted(ledger.num_accepted, 'example')}, at most {most:,} are allowed.")
    return reasons


def validation_refusals(num_validation: int, num_training: int, limits: DatasetLimits) -> list[str]:
    """The reasons why a validation set of this size may not be used; empty if it may.

    From 1,000 validation examples on, their limit is a share of the training examples, which may exceed the fixed bound
    (vertex-api.md §7.2).
    """
    most, share = limits.max_validation_examples, limits.max_validation_share
    if share is not None and num_validation > 1000:
        most = max(most or 0, int(share * num_training))
    if most is None or num_validation <= most:
        return []
    return [f"{num_validation:,} validation examples, at most {most:,} are allowed with {num_training:,} for training."]


def _listed(rules: Counter[str]) -> str:
    return ", ".join(f"{count:,} {rule}" for rule, count in rules.most_common())

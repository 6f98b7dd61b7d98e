"""The ledger sums, and remembers where each rule was first broken."""

from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.formats.issues import Issue
from kastor.dataset.validation.ledger import MAX_FIRST_ISSUES, Ledger
from kastor.dataset.validation.validator import RowOutcome, RowVerdict

rules = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3)
outcomes = st.sampled_from(list(RowOutcome))


def verdict(line: int, outcome: RowOutcome, broken: list[str]) -> RowVerdict:
    return RowVerdict(line, outcome, tuple(Issue(line, "", rule, "bad") for rule in broken))


@given(st.lists(st.tuples(outcomes, rules), max_size=40))
def test_rows_are_what_was_accepted_dropped_and_rejected(rows: list[tuple[RowOutcome, list[str]]]) -> None:
    ledger = Ledger()
    for line, (outcome, broken) in enumerate(rows, start=1):
        ledger.add(verdict(line, outcome, broken))
    assert ledger.num_rows == ledger.num_accepted + ledger.num_dropped + ledger.num_rejected == len(rows)
    assert ledger.dropped_by_rule.total() == ledger.num_dropped
    assert ledger.rejected_by_rule.total() == ledger.num_rejected
    assert [index for index, _ in ledger.dropped] == [
        line for line, (outcome, _) in enumerate(rows, start=1) if outcome is RowOutcome.DROPPED
    ]
    for rule, issues in ledger.first.items():
        lines = [line for line, (_, broken) in enumerate(rows, start=1) if rule in broken]
        assert [issue.line for issue in issues] == lines[:MAX_FIRST_ISSUES]


def test_places_of_dropped_rows_count_rows_and_not_lines() -> None:
    ledger = Ledger()
    ledger.add(RowVerdict(1, RowOutcome.ACCEPTED))
    ledger.add(verdict(9, RowOutcome.DROPPED, ["a"]))  # empty lines before it
    assert [(index, issue.line) for index, issue in ledger.dropped] == [(2, 9)]


def test_a_note_is_counted_once_a_row_and_accepts_it() -> None:
    ledger = Ledger()
    ledger.add(verdict(1, RowOutcome.ACCEPTED, ["a", "a", "b"]))
    assert ledger.notes == {"a": 1, "b": 1}
    assert (ledger.num_accepted, ledger.issues) == (1, [])

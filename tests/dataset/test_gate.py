"""The ledger sums, and every refusal says what is wrong and where."""

from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.gate import TokenCount, check, text_faults
from kastor.dataset.issues import Issue, Row
from kastor.domain.content import Example
from kastor.domain.limits import GEMINI_API, OPEN

outputs = st.sampled_from(["fine", "", "x" * 5_001])
inputs = st.sampled_from(["fine", "", "x" * 40_001])
rows = st.builds(lambda line, a, b: Row(line, Example.pair(a, b)), st.integers(1, 9), inputs, outputs)
issues = st.builds(lambda line: Issue(line, "", "not_json", "bad"), st.integers(1, 9))


@given(st.lists(rows | issues, max_size=30))
def test_the_ledger_always_sums(given_rows: list[Row | Issue]) -> None:
    ledger = check(
        given_rows,
        GEMINI_API,
        count_tokens=lambda example: TokenCount(len(example.contents[0].text), 1),
        max_tokens=3,
        base="models/b",
    )
    assert ledger.num_rows == len(given_rows) == ledger.num_accepted + ledger.num_rejected
    assert sum(ledger.rejected_by_rule.values()) == ledger.num_rejected
    assert len(ledger.token_counts) == ledger.num_accepted


def test_texts_over_the_limit_are_refused_with_both_numbers() -> None:
    faults = list(text_faults(Example.pair("a" * 40_001, "b" * 5_001), GEMINI_API))
    assert [(fault.side, fault.message) for fault in faults] == [
        ("input", "40,001 characters, at most 40,000 are allowed"),
        ("output", "5,001 characters, at most 5,000 are allowed"),
    ]
    assert not list(text_faults(Example.pair("a" * 40_000, "b" * 5_000), GEMINI_API))


def test_the_open_profile_lifts_the_lengths_but_not_emptiness() -> None:
    faults = list(text_faults(Example.pair("a" * 99_999, ""), OPEN))
    assert [fault.rule for fault in faults] == ["empty_output"]


def test_a_row_too_long_for_the_base_is_named_with_both_token_counts() -> None:
    row = Row(7, Example.pair("q", "a"))
    ledger = check([row], OPEN, count_tokens=lambda _: TokenCount(9_000, 2), max_tokens=8_192, base="models/b")
    assert str(ledger.issues[0]) == "line 7: 9,000 tokens, at most 8,192 fit models/b (shorten it or leave it out)"

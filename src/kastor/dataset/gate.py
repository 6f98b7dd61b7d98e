"""Which examples may be trained on, and a ledger of what became of every row. No torch: tokens are counted for us.

The ledger always sums: rows in = accepted + rejected.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from kastor.dataset.issues import Issue, Row
from kastor.domain.content import Example
from kastor.domain.limits import Limits

MAX_KEPT_ISSUES = 1000  # of a file that is wrong in every line the rest is only counted


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an example may not be trained on."""

    side: str  # input | output | "" for the example as a whole
    rule: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of an example as trained on."""

    total: int
    supervised: int


def text_faults(example: Example, limits: Limits) -> Iterator[Fault]:
    """What the limits say about an example's texts."""
    num_input, output = example.prompt.num_chars, example.contents[-1].text
    if limits.max_input_chars is not None and num_input > limits.max_input_chars:
        yield Fault("input", "input_too_long", too_long(num_input, limits.max_input_chars))
    if limits.max_output_chars is not None and len(output) > limits.max_output_chars:
        yield Fault("output", "output_too_long", too_long(len(output), limits.max_output_chars))
    if not output:
        yield Fault("output", "empty_output", "is empty; there is nothing to learn from it")


def token_faults(num_tokens: int, max_tokens: int, base: str) -> Iterator[Fault]:
    """What the base's context says about an example's length."""
    if num_tokens > max_tokens:
        message = f"{num_tokens:,} tokens, at most {max_tokens:,} fit {base}"
        yield Fault("", "too_many_tokens", message, "shorten it or leave it out")


def too_long(number: int, most: int) -> str:
    """The words for a text over its limit."""
    return f"{number:,} characters, at most {most:,} are allowed"


@dataclass(slots=True)
class Ledger:
    """What became of every row."""

    num_rows: int = 0
    num_rejected: int = 0
    rejected_by_rule: Counter[str] = field(default_factory=Counter)
    issues: list[Issue] = field(default_factory=list)  # the first `MAX_KEPT_ISSUES`
    token_counts: list[TokenCount] = field(default_factory=list)  # of the accepted rows, where tokens were counted

    @property
    def num_accepted(self) -> int:
        """Rows that would be trained on."""
        return self.num_rows - self.num_rejected


def check(
    rows: Iterable[Row | Issue],
    limits: Limits,
    *,
    count_tokens: Callable[[Example], TokenCount] | None = None,
    max_tokens: int = 0,
    base: str = "",
) -> Ledger:
    """The ledger of `rows`. A row breaks several rules at times; it is rejected once, by its first."""
    ledger = Ledger()
    for row in rows:
        ledger.num_rows += 1
        if isinstance(row, Issue):
            _reject(ledger, [row])
            continue
        faults = list(text_faults(row.example, limits))
        count = count_tokens(row.example) if count_tokens and not faults else None
        if count is not None:
            faults += token_faults(count.total, max_tokens, base)
        if faults:
            _reject(ledger, [Issue(row.line, fault.side, fault.rule, fault.message, fault.hint) for fault in faults])
        elif count is not None:
            ledger.token_counts.append(count)
    return ledger


def _reject(ledger: Ledger, issues: list[Issue]) -> None:
    ledger.num_rejected += 1
    ledger.rejected_by_rule[issues[0].rule] += 1
    if len(ledger.issues) < MAX_KEPT_ISSUES:
        ledger.issues += issues

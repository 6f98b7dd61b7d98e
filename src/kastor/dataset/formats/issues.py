"""Rows of a dataset, and the issues found in them."""

from collections import Counter
from dataclasses import dataclass, field

from kastor.domain.content import Example
from kastor.domain.counts import counted
from kastor.domain.excerpt import excerpt

MAX_NAME_CHARS = 40
LINE, ELEMENT = "line", "element"
"""The unit of row numbers: lines of the file, or elements of a JSON list."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault in a dataset, or a note about a row that is kept."""

    line: int  # from 1: line of the file, or number of the element in a JSON list
    path: str  # the field, as in contents[0].parts[1]; empty for the whole row
    rule: str  # stable name of the rule
    message: str
    hint: str = ""
    unit: str = LINE  # of `line`; the reader sets it, and `DatasetValidation` for issues of the validator

    def __str__(self) -> str:
        where = f"{self.unit} {self.line}" + (f", {self.path}" if self.path else "")
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """An example, its line in the file, and notes about it."""

    line: int
    example: Example
    notes: tuple[Issue, ...] = ()
    num_bytes: int = 0  # of its line, if it has a line of its own


@dataclass(slots=True)
class FileFacts:
    """Facts about a file, complete once all its rows are read."""

    unit: str = LINE  # of its row numbers
    container: str = ""  # the detected container of the rows, if it is not the usual one
    formats: Counter[str] = field(default_factory=Counter)  # number of rows by format, Google's own left out
    notes: Counter[str] = field(default_factory=Counter)  # number of rows by note

    def count(self, name: str) -> None:
        """Count one more row of this format."""
        self.formats[name] += 1

    @property
    def sentence(self) -> str:
        """How the file was read, in words; empty if it has Google's own format."""
        forms = [f"{name} ({number:,} of the rows)" for name, number in self.formats.most_common()]
        if len(forms) == 1:
            forms = [next(iter(self.formats))]
        return "; ".join([*([self.container] if self.container else []), *forms])


class RowError(Exception):
    """A row is not a valid example; becomes an `Issue` where the line is known."""

    def __init__(self, path: str, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.path, self.rule, self.message, self.hint = path, rule, message, hint

    def issue(self, line: int, unit: str = LINE) -> Issue:
        """The issue for the row on this line."""
        return Issue(line, self.path, self.rule, self.message, self.hint, unit)


def num_faulty_rows(number: int, num_rows: int) -> str:
    """The beginning of a sentence such as "3 of 10 rows are faulty"."""
    return f"{number:,} of {counted(num_rows, 'row')} {'is' if number == 1 else 'are'} faulty"


def describe_value(value: object) -> str:
    """A user's value for a message: shortened text or a number; only the kind of a list or an object."""
    return excerpt(value, MAX_NAME_CHARS) if isinstance(value, str | int | float) else kind_name(value)


def kind_name(value: object) -> str:
    """The name of a JSON value's type in messages."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")

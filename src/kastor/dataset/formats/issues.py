"""What is found in a dataset, as values: rows, and what is wrong with them."""

from collections import Counter
from dataclasses import dataclass, field

from kastor.domain.content import Example
from kastor.domain.counts import counted
from kastor.domain.excerpt import excerpt

MAX_NAME_CHARS = 40
LINE, ELEMENT = "line", "element"
"""What the number of a row counts: lines of the file, or elements of a JSON list."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault in a dataset, or one thing to know about a row that is kept."""

    line: int  # from 1: line of the file, or number of the element in a JSON list
    path: str  # the field, as in contents[0].parts[1]; empty for the whole row
    rule: str  # stable name of the rule
    message: str
    hint: str = ""
    unit: str = LINE  # what the line counts; the reader knows, and `Judging` says it of what the gate finds

    def __str__(self) -> str:
        where = f"{self.unit} {self.line}" + (f", {self.path}" if self.path else "")
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """An example, where it came from, and what to know about it though it is kept."""

    line: int
    example: Example
    notes: tuple[Issue, ...] = ()
    num_bytes: int = 0  # of its line, where it stands on one of its own


@dataclass(slots=True)
class FileFacts:
    """What is known of a file once its rows are read."""

    unit: str = LINE  # what the numbers of its rows count
    container: str = ""  # how rows stand in it, where that had to be found out
    formats: Counter[str] = field(default_factory=Counter)  # form of rows that is not Google's -> how many

    notes: Counter[str] = field(default_factory=Counter)  # what to know about rows that were read -> how many

    def count(self, name: str) -> None:
        """One more row of this form."""
        self.formats[name] += 1

    @property
    def sentence(self) -> str:
        """How the file was read, in words; empty where it was read as it is written."""
        forms = [f"{name} ({number:,} of the rows)" for name, number in self.formats.most_common()]
        if len(forms) == 1:
            forms = [next(iter(self.formats))]
        return "; ".join([*([self.container] if self.container else []), *forms])


class RowError(Exception):
    """A row cannot be an example; becomes an `Issue` where the line is known."""

    def __init__(self, path: str, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.path, self.rule, self.message, self.hint = path, rule, message, hint

    def issue(self, line: int, unit: str = LINE) -> Issue:
        """The issue of this row."""
        return Issue(line, self.path, self.rule, self.message, self.hint, unit)


def num_faulty_rows(number: int, num_rows: int) -> str:
    """The beginning of a sentence: so many of all rows are faulty."""
    return f"{number:,} of {counted(num_rows, 'row')} {'is' if number == 1 else 'are'} faulty"


def describe_value(value: object) -> str:
    """A user's value as a message shows it: short; of a list or an object, which of them it is."""
    return excerpt(value, MAX_NAME_CHARS) if isinstance(value, str | int | float) else kind_name(value)


def kind_name(value: object) -> str:
    """What messages call JSON values of this type."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")

"""What is found in a dataset, as values: rows, and what is wrong with them."""

from dataclasses import dataclass

from kastor.domain.content import Example


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault in a dataset, or one thing to know about a row that is kept."""

    line: int  # from 1: line of the file, or place in the array
    path: str  # the field, as in contents[0].parts[1]; empty for the whole row
    rule: str  # stable name of the rule
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.path}" if self.path else "")
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Row:
    """An example, where it came from, and what to know about it though it is kept."""

    line: int
    example: Example
    notes: tuple[Issue, ...] = ()
    num_bytes: int = 0  # of its line, where it stands on one of its own


class Faulty(Exception):
    """A row cannot be an example; becomes an `Issue` where the line is known."""

    def __init__(self, path: str, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.path, self.rule, self.message, self.hint = path, rule, message, hint

    def issue(self, line: int) -> Issue:
        """The issue of this line."""
        return Issue(line, self.path, self.rule, self.message, self.hint)

"""Output of commands: results go to stdout, messages to stderr; with `--json`, stdout holds the result as JSON only."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from kastor.api.gemini.model_state import ModelState
from kastor.cli.console.terminal_text import VisibleConsole
from kastor.domain.job import State
from kastor.domain.visible_text import json_text

PIPED_COLUMNS = 160
"""Width of tables in a pipe or file, where cutting them at 80 columns would lose data."""

MIN_COLUMN_WIDTH = 6  # characters of a truncated column
GAP = 3  # between columns

STATE_STYLE: dict[str, str] = {
    State.QUEUED: "dim",
    State.PREPARING: "cyan",
    State.RUNNING: "cyan",
    State.CANCELLING: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
    ModelState.CREATING: "cyan",
    ModelState.ACTIVE: "green",
}


def console(*, stderr: bool) -> Console:
    """A console that uses colours on a terminal only, and interprets neither markup nor numbers."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS
    return VisibleConsole(
        file=stream, highlight=False, markup=False, emoji=False, width=width, soft_wrap=not stream.isatty()
    )


@dataclass(frozen=True, slots=True)
class Output:
    """Both output streams, and whether the result is printed as JSON."""

    as_json: bool
    out: Console
    err: Console

    @classmethod
    def of(cls, as_json: bool) -> "Output":
        """The output on this process's stdout and stderr."""
        return cls(as_json, console(stderr=False), console(stderr=True))

    def result(self, value: object, *shown: RenderableType) -> None:
        """Print the command's result: `value` as JSON, or the `shown` renderables."""
        if self.as_json:
            sys.stdout.write(json_text(value, indent=2) + "\n")
            sys.stdout.flush()
            return
        for item in shown:
            self.out.print(item)

    def say(self, text: str, *, style: str = "dim") -> None:
        """Print a message on stderr."""
        self.err.print(Text(text, style=style), soft_wrap=True)  # so that commands in it can be copied

    def say_prose(self, text: str) -> None:
        """Print sentences on stderr, wrapped at words on a terminal."""
        self.err.print(Text(text))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in Kastor's style; the columns named in `right` are right-aligned."""
    empty = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return empty


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list; a `whole` column is never truncated, so that its values can be copied."""

    title: str
    whole: bool = False
    right: bool = False


def list_table(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """A table with a line for each row, the most important columns first; what finds no room in `width` is left out."""
    natural = [max(map(cell_len, (column.title, *(str(row[at]) for row in rows)))) for at, column in enumerate(columns)]
    least = [
        wide if column.whole else min(wide, MIN_COLUMN_WIDTH) for column, wide in zip(columns, natural, strict=True)
    ]
    while len(least) > 1 and sum(least) + GAP * (len(least) - 1) > width and not columns[len(least) - 1].whole:
        least.pop()
    left = width - sum(least) - GAP * (len(least) - 1)
    listed = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for column, wide, narrow in zip(columns, natural, least, strict=False):
        more = min(wide - narrow, max(0, left))
        left -= more
        justify: JustifyMethod = "right" if column.right else "left"
        overflow: OverflowMethod = "fold" if column.whole else "ellipsis"
        listed.add_column(
            column.title, justify=justify, overflow=overflow, no_wrap=not column.whole, width=narrow + more
        )
    for row in rows:
        listed.add_row(*(one if isinstance(one, Text) else Text(one) for one in row[: len(least)]))
    return listed


def fields(pairs: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names and values, one pair per line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value)
    return grid


def state_text(state: str) -> Text:
    """The state in lower case, in its colour."""
    return Text(state.lower(), style=STATE_STYLE.get(state, ""))


def program() -> str:
    """`kastor`, or the path by which it was called, so that printed commands can be copied and run."""
    called = Path(sys.argv[0])
    found = shutil.which("kastor")
    if called == Path(__file__).with_name("__main__.py"):
        return f"{sys.executable} -m kastor.cli"
    if called.name != "kastor" or (found is not None and Path(found).resolve() == called.resolve()):
        return "kastor"
    absolute = called.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> duration(8.4), duration(75), duration(3725), duration(90061)
    ('8s', '1m15s', '1h02m', '1d01h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def megabytes(num_bytes: int) -> str:
    """A size in MB.

    >>> megabytes(98_600_000)
    '98.6 MB'
    """
    return f"{num_bytes / 1e6:.1f} MB"

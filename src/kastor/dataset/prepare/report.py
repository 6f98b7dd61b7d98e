"""What `prepare` changed, for people: one HTML page that needs nothing else, written as the rows come."""

import difflib
import html
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from kastor.dataset.formats.issues import Issue
from kastor.dataset.prepare.plan import ExcludedRow
from kastor.dataset.prepare.split_example import SplitRow, TextChange
from kastor.domain.content import Example, Media
from kastor.runtime.atomic import rename_synced

MAX_COMPARED_CHARS = 8_000
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222;background:#fff}
section{border-top:1px solid #ccc;padding:.6rem 0}h1{font-size:1.4rem}h2{font-size:1rem;margin:.2rem 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;
padding:.5rem;background:#f6f6f6}del{background:#fdd;text-decoration:none}ins{background:#dfd;text-decoration:none}
.totals th{text-align:left;font-weight:normal;padding-right:2rem}.totals td{text-align:right}
.note{color:#850}.out{color:#a00}.path,.media{color:#666;font-size:.9em}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}del{background:#522}
ins{background:#252}.totals th{text-align:left;font-weight:normal;padding-right:2rem}.totals td{text-align:right}
.note{color:#da5}.out{color:#f77}.path,.media{color:#999}}
"""


TOTALS = {
    "rowsIn": "rows in",
    "rowsKept": "kept as they were",
    "rowsChanged": "changed",
    "rowsLeftOut": "left out",
    "rowsOut": "rows out",
    "partsWithoutRows": "parts of videos that no row is about",
}
GROUPS = {"leftOutByRule": "left out", "findings": "to look at", "media": "media"}


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """What a row became, and the parts of its video that none of its texts is about."""

    rows: tuple[SplitRow, ...]
    empty_parts: tuple[str, ...] = ()


class ChangeReport:
    """The page; use it as a context. It appears under its name only when it is whole, its totals first."""

    def __init__(self, path: Path, totals: Callable[[], Mapping[str, Any]]) -> None:
        self._path = path
        self._totals = totals
        self._part = path.with_name(f"{path.name}.part")
        self._body = path.with_name(f"{path.name}.body.part")

    def __enter__(self) -> Self:
        self._file = self._body.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            with self._part.open("w", encoding="utf-8") as page, self._body.open(encoding="utf-8") as body:
                page.write(_head(self._totals()))
                shutil.copyfileobj(body, page)
            rename_synced(self._part, self._path)
        self._body.unlink()

    def changed(self, line: int, before: Example, mended: ChangedRow, notes: Sequence[str]) -> None:
        """One row and what it became."""
        rows = mended.rows
        number = "one row" if len(rows) == 1 else f"{len(rows)} rows"
        notes = [
            *notes,
            *(f"no row is about the video from {part}: nothing falls there" for part in mended.empty_parts),
        ]
        self._file.write(f'<section id="line-{line}"><h2>Line {line} became {number}</h2>\n')
        self._file.write("".join(f'<div class="note">{html.escape(note)}</div>\n' for note in notes))
        self._file.write(f'<div class="media">was: {_media(before)}</div>\n')
        for row in rows:
            self._file.write(f'<div class="media">now: {_media(row.example)}</div>\n')
            self._file.write("".join(map(_change, row.changes)))
        self._file.write("</section>\n")

    def kept(self, line: int, example: Example, found: Sequence[Issue]) -> None:
        """One row that is as it was, if there is something to look at."""
        if found:
            notes = "".join(f'<div class="note">{html.escape(str(issue))}</div>' for issue in found)
            texts = _texts(example)
            self._file.write(f'<section id="line-{line}"><h2>Line {line} is kept</h2>{notes}{texts}</section>\n')

    def left_out(self, line: int, why: ExcludedRow, example: Example | None) -> None:
        """One row that is not in the outcome, with its texts where it could be read."""
        said = f'<div class="out">{html.escape(why.message)} <small>({html.escape(why.rule)})</small></div>'
        shown = "" if example is None else f'<div class="media">{_media(example)}</div>{_texts(example)}'
        self._file.write(
            f'<section id="line-{line}"><h2 class="out">Line {line} is left out</h2>{said}{shown}</section>\n'
        )


def write_ledger(path: Path, document: Mapping[str, Any]) -> None:
    """Write the ledger, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    rename_synced(part, path)


def clock(seconds: Fraction) -> str:
    """A moment for people.

    >>> clock(Fraction(1127)), clock(Fraction("3601.5"))
    ('18:47', '1:00:01.5')
    """
    whole = seconds.numerator // seconds.denominator
    part = f"{float(seconds - whole):.3f}"[1:].rstrip("0").rstrip(".")
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{rest:02d}{part}"


def _head(totals: Mapping[str, Any]) -> str:
    rows = "".join(_total(name, totals[key]) for key, name in TOTALS.items())
    rows += "".join(
        _total(f"{name}: {what}", number) for key, name in GROUPS.items() for what, number in totals[key].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Changes</title><style>{STYLE}</style>'
        f'<h1>What was changed</h1><table class="totals">{rows}</table><p>Each rewritten text before (left) and after '
        "(right), and what was left out. Rows that are not named here are as they were.</p>\n"
    )


def _total(name: str, number: int) -> str:
    return f"<tr><th>{html.escape(name)}</th><td>{number:,}</td></tr>"


def _texts(example: Example) -> str:
    shown = [
        f'<div class="path">{content.role}</div><pre>{html.escape(content.text[:MAX_COMPARED_CHARS])}</pre>'
        for content in example.contents
        if content.text
    ]
    return "".join(shown)


def _media(example: Example) -> str:
    return html.escape("; ".join(map(_place, example.media))) or "no media"


def _place(medium: Media) -> str:
    if medium.start_s is None and medium.end_s is None:
        return medium.name
    end = "the end" if medium.end_s is None else f"{medium.end_s:g} s"
    return f"{medium.name} from {medium.start_s or 0:g} s to {end}"


def _change(change: TextChange) -> str:
    before, after = html_diff(change.before, change.after)
    notes = "".join(f'<div class="note">{html.escape(note)}</div>' for note in change.notes)
    path = f'<div class="path">{html.escape(change.path)}</div>'
    return f'{path}<div class="pair"><pre>{before}</pre><pre>{after}</pre></div>{notes}\n'


def html_diff(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML, what differs marked.

    >>> html_diff("at 05:10 <b>", "at 00:10 <b>")
    ('at <del>05:10</del> &lt;b&gt;', 'at <ins>00:10</ins> &lt;b&gt;')
    """
    if len(before) + len(after) > MAX_COMPARED_CHARS:
        return html.escape(before), html.escape(after)
    old, new = _words(before), _words(after)
    left, right = [], []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = html.escape("".join(old[i:j])), html.escape("".join(new[k:m]))
        left.append(gone if tag == "equal" or not gone else f"<del>{gone}</del>")
        right.append(come if tag == "equal" or not come else f"<ins>{come}</ins>")
    return "".join(left), "".join(right)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w:.]+|\s+|[^\w\s]", text)

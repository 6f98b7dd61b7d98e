"""What `prepare` changed, for people: one HTML page that needs nothing else, written as the rows come."""

import difflib
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from kastor.dataset.prepare_plan import LeftOut
from kastor.dataset.retime import CutRow, TextChange
from kastor.domain.content import Example, Media

MAX_COMPARED_CHARS = 8_000
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222;background:#fff}
section{border-top:1px solid #ccc;padding:.6rem 0}h1{font-size:1.4rem}h2{font-size:1rem;margin:.2rem 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;
padding:.5rem;background:#f6f6f6}del{background:#fdd;text-decoration:none}ins{background:#dfd;text-decoration:none}
.note{color:#850}.out{color:#a00}.path,.media{color:#666;font-size:.9em}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}del{background:#522}
ins{background:#252}.note{color:#da5}.out{color:#f77}.path,.media{color:#999}}
"""


class Report:
    """The page; use it as a context. It appears under its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")

    def __enter__(self) -> Self:
        self._file = self._part.open("w", encoding="utf-8")
        self._file.write(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Changes</title><style>{STYLE}</style>'
            "<h1>What was changed</h1><p>Each rewritten text before (left) and after (right). Rows that are not named "
            "here are as they were.</p>\n"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if kind is None:
            self._part.replace(self._path)

    def changed(self, line: int, before: Example, rows: Sequence[CutRow], notes: Sequence[str]) -> None:
        """One row and what it became."""
        number = "one row" if len(rows) == 1 else f"{len(rows)} rows"
        self._file.write(f'<section id="line-{line}"><h2>Line {line} became {number}</h2>\n')
        self._file.write("".join(f'<div class="note">{html.escape(note)}</div>\n' for note in notes))
        self._file.write(f'<div class="media">was: {_media(before)}</div>\n')
        for row in rows:
            self._file.write(f'<div class="media">now: {_media(row.example)}</div>\n')
            self._file.write("".join(map(_change, row.changes)))
        self._file.write("</section>\n")

    def left_out(self, line: int, why: LeftOut) -> None:
        """One row that is not in the outcome."""
        said = f"{html.escape(why.message)} <small>({html.escape(why.rule)})</small>"
        self._file.write(f'<section class="out"><h2>Line {line} is left out</h2>{said}</section>\n')


def write_ledger(path: Path, document: Mapping[str, Any]) -> None:
    """Write the ledger, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _media(example: Example) -> str:
    return html.escape("; ".join(map(_place, example.media))) or "no media"


def _place(medium: Media) -> str:
    if medium.start_s is None and medium.end_s is None:
        return medium.name
    end = "the end" if medium.end_s is None else f"{medium.end_s:g} s"
    return f"{medium.name} from {medium.start_s or 0:g} s to {end}"


def _change(change: TextChange) -> str:
    before, after = compared(change.before, change.after)
    notes = "".join(f'<div class="note">{html.escape(note)}</div>' for note in change.notes)
    path = f'<div class="path">{html.escape(change.path)}</div>'
    return f'{path}<div class="pair"><pre>{before}</pre><pre>{after}</pre></div>{notes}\n'


def compared(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML, what differs marked.

    >>> compared("at 05:10 <b>", "at 00:10 <b>")
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

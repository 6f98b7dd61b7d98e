"""Writes a JSON lines file of the rows that were not accepted, each with its original text and its issues.

The dataset is read a second time in parallel, up to the last row that was not accepted, so memory stays flat.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from kastor.dataset.formats.read import is_json_lines, original_lines
from kastor.dataset.validation.validator import RowOutcome, RowVerdict

SURROGATES = re.compile("[\ud800-\udfff]")


class RejectedRowsFile:
    """Writes verdicts in file order.

    `row` is the line without its newline; `rowBase64` holds its bytes if they are not UTF-8. Both are null for CSV and
    JSON documents, whose rows have no line of their own, and for lines over the length limit.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._source: Path | None = None
        self._lines: Iterator[tuple[int, bytes]] | None = None

    def add(self, source: Path, verdict: RowVerdict) -> None:
        """Write the row of `source`, if it was not accepted."""
        if verdict.outcome is RowOutcome.ACCEPTED:
            return
        line = self._line(source, verdict.line)
        document = {
            "file": source.name,
            "line": verdict.line,
            "outcome": verdict.outcome.value,
            "issues": [asdict(issue) for issue in verdict.issues],
            **_row(line),
        }
        text = json.dumps(document, ensure_ascii=False)
        self._file.write(SURROGATES.sub(_escaped, text) + "\n")

    def _line(self, source: Path, number: int) -> bytes | None:
        if source != self._source:
            self._source = source
            self._lines = original_lines(source) if is_json_lines(source) else None
        for at, line in self._lines or ():
            if at == number:
                return line.removesuffix(b"\n").removesuffix(b"\r") or None
        return None


def _escaped(match: re.Match[str]) -> str:
    r"""A lone surrogate (from a name that is not UTF-8) spelled out as text: strict parsers reject its escape."""
    return f"\\\\u{ord(match[0]):04x}"


def _row(line: bytes | None) -> dict[str, str | None]:
    if line is None:
        return {"row": None}
    try:
        return {"row": line.decode()}
    except UnicodeDecodeError:
        return {"row": None, "rowBase64": base64.b64encode(line).decode()}

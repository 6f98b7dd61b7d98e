"""The rows that were not accepted, as they stood in the file, with what is wrong with them: a file of JSON lines.

The dataset is read a second time, beside the first, only as far as the last row that was refused; so memory stays flat.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from kastor.dataset.gate import Outcome, Verdict
from kastor.dataset.read import is_json_lines, original_lines


class Rejects:
    """Writes verdicts in the order of the file.

    `row` is the line without its end, byte for byte: what is not UTF-8 stands as lone surrogates (Python's
    `surrogateescape`). It is null for CSV and JSON arrays, whose rows have no line of their own, and for lines longer
    than any example.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._source: Path | None = None
        self._lines: Iterator[tuple[int, bytes]] | None = None

    def add(self, source: Path, verdict: Verdict) -> None:
        """Write the row of `source`, if it was not accepted."""
        if verdict.outcome is Outcome.ACCEPTED:
            return
        line = self._line(source, verdict.line)
        document = {
            "file": source.name,
            "line": verdict.line,
            "outcome": verdict.outcome.value,
            "issues": [asdict(issue) for issue in verdict.issues],
            "row": None if line is None else line.decode("utf-8", "surrogateescape"),
        }
        self._file.write(_dumped(document) + "\n")

    def _line(self, source: Path, number: int) -> bytes | None:
        if source != self._source:
            self._source = source
            self._lines = original_lines(source) if is_json_lines(source) else None
        for at, line in self._lines or ():
            if at == number:
                return line.removesuffix(b"\n").removesuffix(b"\r") or None
        return None


def _dumped(document: dict[str, object]) -> str:
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(document)
    return text

"""The rows that were not accepted, as they stood in the file, with what is wrong with them: a file of JSON lines.

The dataset is read a second time, beside the first, only as far as the last row that was refused; so memory stays flat.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from kastor.dataset.gate import Outcome, Verdict
from kastor.dataset.read import is_json_lines, original_lines


class Rejects:
    """Writes verdicts in the order of the file. The file gets its name when all is written, or not at all.

    `row` is the line without its end, byte for byte: what is not UTF-8 stands as lone surrogates (Python's
    `surrogateescape`). It is null for CSV and JSON arrays, whose rows have no line of their own, and for lines longer
    than any example.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = target.with_name(f".{target.name}.partial")
        self._source: Path | None = None
        self._lines: Iterator[tuple[int, bytes]] | None = None
        self._stack = ExitStack()
        self._file: TextIO

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(self._partial.open("w", encoding="utf-8"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        if kind is None:
            self._partial.replace(self._target)
        else:
            self._partial.unlink(missing_ok=True)

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

"""Reads the rows of a dataset file: JSON lines (plain, gzip or Zstandard), a JSON document, or CSV.

Reads line by line where possible, so that memory stays flat. Faulty rows become issues with their line and never raise;
faults of the whole file raise.
"""

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from kastor.dataset.formats import json_document
from kastor.dataset.formats.chat_formats import is_messages
from kastor.dataset.formats.compression import CorruptStream, open_decompressed
from kastor.dataset.formats.csv_rows import read_csv_rows
from kastor.dataset.formats.file_type import HEAD_BYTES, check_regular_file, check_text_file
from kastor.dataset.formats.issues import ELEMENT, LINE, FileFacts, Issue, ParsedRow, num_faulty_rows
from kastor.dataset.formats.parse import SHAPES, parse_text_pair
from kastor.dataset.formats.plain_rows import parse_plain_row
from kastor.dataset.formats.row_formats import NO_KEYS, Keys, OnFormat, is_canonical_row, parse_formatted_row
from kastor.dataset.formats.tolerant_json import parse_json, repeated_key
from kastor.domain.content import Example
from kastor.domain.errors import InvalidArgument, MalformedJson

Columns = Keys
"""The field names of inputs and outputs, if they are not the usual ones."""

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is not an example (20 MB of inline media take 27 MB); in a compressed file it may be a bomb."""
BUFFER_BYTES = 1 << 20
MAX_WHOLE_BYTES = 512 * 1024 * 1024
"""JSON documents and CSV files are read whole; larger ones must be converted to JSON lines."""
MAX_BLANK_LINES = 1_000_000
"""No dataset has so many consecutive blank lines; gzip packs a thousand into a byte."""
BOM, NEWLINE = b"\xef\xbb\xbf", b"\n"
WHOLE_FILE_RULES = {"preference_row", "text_alone"}
"""If the first row violates one of these rules, all rows do: the file is refused with one sentence."""


def read_rows(
    path: Path,
    *,
    input_key: str | None = None,
    output_key: str | None = None,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
    facts: FileFacts | None = None,
) -> Iterator[ParsedRow | Issue]:
    """Every row of the file in order: valid ones as `ParsedRow`, faulty ones as `Issue`.

    `input_key` and `output_key` name the fields (or CSV columns) of a pair if they are not the usual ones. `on_bytes`
    receives the number of bytes read so far, counted before decompression. `facts` is filled while rows are read.

    Raises:
        InvalidArgument: the file cannot be read at all, or a CSV lacks the columns.

    """
    reading = _Reading(path, (input_key, output_key), FileFacts() if facts is None else facts)
    with _opened(path, on_bytes) as file:
        yield from _checked_first(path, reading.rows(file))


def read_examples(
    path: Path, *, input_key: str | None = None, output_key: str | None = None, facts: FileFacts | None = None
) -> list[Example]:
    """All examples of the file.

    Raises:
        InvalidArgument: a row is faulty, or there are no rows; the message shows the first faults.

    """
    items = list(read_rows(path, input_key=input_key, output_key=output_key, facts=facts))
    issues = [item for item in items if isinstance(item, Issue)]
    if issues:
        shown = "\n".join(f"  {issue}" for issue in issues[:5])
        more = f"\n  … and {len(issues) - 5} more" if len(issues) > 5 else ""
        raise InvalidArgument(f"{path}: {num_faulty_rows(len(issues), len(items))}.\n{shown}{more}")
    if not items:
        raise InvalidArgument(f"{path} holds no examples; one line looks like {SHAPES}.")
    rows = [item for item in items if isinstance(item, ParsedRow)]
    if facts is not None:
        facts.notes.update(str(note.message) for row in rows for note in row.notes)
    return [row.example for row in rows]


def is_json_lines(path: Path) -> bool:
    """Whether each row has a line of its own.

    Raises:
        InvalidArgument: the file cannot be read.

    """
    if _is_csv(path):
        return False
    with _opened(path) as file:
        first, following = _first_lines(file, path)
        return not _is_document(first[1], following)


def original_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every decompressed line of a JSON lines file, with its number and newline; lines that are too long are empty.

    Raises:
        InvalidArgument: the file cannot be read.

    """
    with _opened(path) as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            too_long = len(line) > MAX_LINE_BYTES
            while too_long and line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield number, b"" if too_long else line


def _checked_first(path: Path, rows: Iterator[ParsedRow | Issue]) -> Iterator[ParsedRow | Issue]:
    """The rows; raises if the first one shows that the whole file has an unsupported format."""
    first = next(rows, None)
    if isinstance(first, Issue) and first.rule in WHOLE_FILE_RULES:
        hint = f"; {first.hint}" if first.hint else ""
        raise InvalidArgument(f"{path}: {first.unit} {first.line} {first.message}{hint}.")
    if first is not None:
        yield first
        yield from rows


class _Counted(io.FileIO):
    """A file that reports how many bytes were read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes
        self._num_bytes = 0

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401  # anything that can be written to
        """As of any file."""
        size = super().readinto(buffer)
        self._num_bytes += size or 0
        self._on_bytes(self._num_bytes)
        return size


@contextmanager
def _opened(path: Path, on_bytes: Callable[[int], None] = lambda num_bytes: None) -> Iterator[BinaryIO]:
    """The file's bytes without a byte order mark, decompressed if the first bytes are those of a compressed stream.

    Raises:
        InvalidArgument: the file cannot be read, is not text, or changed while it was read: half of one version and
            half of another is not the user's dataset. Raised on opening, while reading, and at the end.

    """
    check_regular_file(path)
    try:
        with io.BufferedReader(_Counted(path, on_bytes), BUFFER_BYTES) as raw:
            version = _version(raw)
            magic = raw.peek(4)[:4]
            with open_decompressed(cast(BinaryIO, raw), magic) as file:
                head = cast(io.BufferedReader, file).peek(HEAD_BYTES)[:HEAD_BYTES]
                check_text_file(path, head)
                if head.startswith(BOM):
                    file.read(len(BOM))
                yield file
            if _version(raw) != version:
                raise InvalidArgument(f"{path} changed while it was read. Try again when nothing writes to it.")
    except CorruptStream as error:
        raise InvalidArgument(f"{path} cannot be decompressed: {error}.") from error
    except OSError as error:
        raise InvalidArgument(f"Cannot read {path}: {error.strerror or error}.") from error


def _version(file: BinaryIO) -> tuple[int, int] | None:
    """A value that changes when the file is written to; `None` for a pipe."""
    status = os.fstat(file.fileno())
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _is_csv(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower() in (".csv", ".tsv")


def _first_lines(file: BinaryIO, path: Path) -> tuple[tuple[int, bytes], bytes]:
    """The first non-blank line with its number, and the line after it."""
    number, line, blank = 1, file.readline(MAX_LINE_BYTES + 1), _BlankLines(path)
    while line and not line.strip() and len(line) <= MAX_LINE_BYTES:
        blank.add(line)
        number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)
    return (number, line), file.readline(MAX_LINE_BYTES + 1) if line.endswith(b"\n") else b""


class _BlankLines:
    """Limits consecutive blank lines: a small compressed file may hold enough of them for hours of reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.forget()

    def forget(self) -> None:
        """Reset the count, after a line that is not blank."""
        self._num_lines = self._num_bytes = 0

    def add(self, line: bytes) -> None:
        """Count one more blank line.

        Raises:
            InvalidArgument: there are too many.

        """
        self._num_lines += 1
        self._num_bytes += len(line)
        if self._num_lines > MAX_BLANK_LINES or self._num_bytes > MAX_LINE_BYTES:
            raise InvalidArgument(f"{self._path} holds {self._num_lines:,} consecutive blank lines; remove them.")


def _is_document(first: bytes, following: bytes) -> bool:
    """Whether the file is a JSON document, or several that span lines, judging by its first two lines."""
    opening = first.lstrip()[:1]
    if opening not in (b"[", b"{") or len(first) > MAX_LINE_BYTES:
        return False
    try:
        value = parse_json(first)
    except MalformedJson:
        return opening == b"[" or json_document.is_unfinished(first, following)
    if isinstance(value, list):
        return parse_text_pair(value) is None and not is_messages(value)
    return not following.strip() and isinstance(value, dict) and not is_canonical_row(value)


class _Reading:
    """Reads one file."""

    def __init__(self, path: Path, keys: Keys, facts: FileFacts) -> None:
        self._path = path
        self._keys = keys
        self._facts = facts
        self._fast = keys == NO_KEYS
        self._on_format: OnFormat = facts.count

    def rows(self, file: BinaryIO) -> Iterator[ParsedRow | Issue]:
        """Every row."""
        if _is_csv(self._path):
            yield from read_csv_rows(self._path, self._text(file), self._keys, self._facts)
            return
        (number, first), following = _first_lines(file, self._path)
        if _is_document(first, following):
            yield from self._document(first + following + self._whole(file), number)
        else:
            yield from self._lines(number, first, following, file)

    def _lines(self, number: int, line: bytes, following: bytes, file: BinaryIO) -> Iterator[ParsedRow | Issue]:
        blank = _BlankLines(self._path)
        while line:
            if len(line) > MAX_LINE_BYTES:
                message = f"longer than {MAX_LINE_BYTES:,} bytes"
                yield Issue(number, "", "line_too_long", message, "name media by address")
                while line and not line.endswith(b"\n"):
                    line = following or file.readline(MAX_LINE_BYTES)
                    following = b""
            elif stripped := line.rstrip():
                blank.forget()
                yield self._row(number, stripped)
            else:
                blank.add(line)
            number, line = number + 1, following or file.readline(MAX_LINE_BYTES + 1)
            following = b""

    def _row(self, number: int, text: bytes, unit: str = LINE, first_line: int | None = None) -> ParsedRow | Issue:
        """The row that `text` holds; `first_line` is its first line, if it may span several."""
        try:
            try:
                value = orjson.loads(text)
                if self._fast and (plain := parse_plain_row(number, value, text)) is not None:
                    return plain
            except orjson.JSONDecodeError:
                value = parse_json(text, first_line)
        except MalformedJson as error:
            return Issue(number, "", "not_json", error.message, unit=unit)
        try:
            key = repeated_key(text, value)
        except MalformedJson as error:
            return Issue(number, "", "nesting", error.message, unit=unit)
        if key is not None:
            message = f"the key {key!r} occurs more than once in one object"
            return Issue(number, "", "duplicate_key", message, "keep one of them", unit)
        return parse_formatted_row(number, value, self._keys, len(text), unit=unit, on_format=self._on_format)

    # ---- JSON that does not have one value per line

    def _document(self, text: bytes, number: int) -> Iterator[ParsedRow | Issue]:
        """The rows of a list, of the only list in an object, or of consecutive objects that span lines."""
        begin = len(text) - len(text.lstrip())
        try:
            if text[begin : begin + 1] == b"[":
                yield from self._elements(text, begin)
            elif (begin_list := self._row_list(text, begin)) is not None:
                yield from self._elements(text, begin_list)
            else:
                yield from self._values(text, number)
        except MalformedJson as error:
            raise InvalidArgument(f"{self._path}: {error.message}") from error

    def _elements(self, text: bytes, begin: int) -> Iterator[ParsedRow | Issue]:
        self._facts.unit = ELEMENT
        line, at, stop = 1, 0, begin + 1
        for number, span in enumerate(json_document.children(text, begin), start=1):
            held = text[span.start : span.stop].lstrip()
            start = span.stop - len(held)
            line, at, stop = line + text.count(b"\n", at, start), start, span.stop
            yield self._row(number, held.rstrip(), ELEMENT, line)
        if not text[:begin].strip() and text[stop:].strip(b" \t\r\n,") != b"]":  # or a comment is there
            end = json_document.end_of(text, begin)
            if text[end:].strip():
                line = text.count(NEWLINE, 0, end) + 1
                raise MalformedJson(f"The list ends on line {line}, but the file continues after it.")

    def _row_list(self, text: bytes, begin: int) -> int | None:
        """The offset of the list of rows, if the file is one object that holds such a list and is not an example.

        Raises:
            InvalidArgument: the object holds several.

        """
        stop = json_document.end_of(text, begin)
        if text[stop:].strip():
            return None
        value = parse_json(text[begin:stop])
        found = (
            [] if isinstance(value, dict) and is_canonical_row(value) else list(json_document.row_lists(text, begin))
        )
        if len(found) > 1:
            names = ", ".join(name for name, _ in found)
            raise InvalidArgument(
                f"{self._path} is one JSON object with several lists of rows: {names}. Write the list you want to use "
                "into a separate file."
            )
        for name, place in found:
            self._facts.container = f"a JSON object with its rows in {name}"
            return place
        return None

    def _values(self, text: bytes, number: int) -> Iterator[ParsedRow | Issue]:
        """Consecutive objects that span lines; each is numbered by its first line."""
        at = 0
        for span in json_document.top_level_values(text):
            number, at = number + text.count(b"\n", at, span.start), span.start
            yield self._row(number, text[span.start : span.stop].strip(), first_line=number)

    def _whole(self, file: BinaryIO) -> bytes:
        text = file.read(MAX_WHOLE_BYTES + 1)
        if len(text) > MAX_WHOLE_BYTES:
            raise InvalidArgument(f"{self._path} is larger than {MAX_WHOLE_BYTES:,} bytes; write it as JSON lines.")
        return text

    def _text(self, file: BinaryIO) -> str:
        data = self._whole(file)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise InvalidArgument(
                f"{self._path} is not UTF-8 (byte {error.start}, on line {line}); convert it, for instance with "
                "`iconv -f WINDOWS-1252 -t UTF-8`."
            ) from error

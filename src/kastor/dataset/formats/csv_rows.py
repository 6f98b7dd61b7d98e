"""Parses CSV text into rows: detects the separator and locates faults."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kastor.dataset.formats.issues import FileFacts, Issue, ParsedRow
from kastor.dataset.formats.row_formats import INPUTS, OUTPUTS, Keys, OnFormat, parse_formatted_row, plain_name
from kastor.domain.errors import InvalidArgument

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
USUAL_COLUMNS = f"one of {', '.join(INPUTS)} and one of {', '.join(OUTPUTS)}"
QUOTED = re.compile(r'"(?:[^"]|"")*+"')
KEYS_HINT = "name your columns with --input-key and --output-key"


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a CSV file."""

    columns: list[str]
    separator: str
    num_lines: int  # before the records


def read_csv_rows(path: Path, text: str, keys: Keys, facts: FileFacts) -> Iterator[ParsedRow | Issue]:
    """Every record as a row.

    Raises:
        InvalidArgument: the header is not CSV, or lacks the columns.

    """
    csv.field_size_limit(len(text) + 1)  # the reader's own limit is 131,072 characters
    header = _header(path, text, keys)
    usual = "\t" if ".tsv" in path.name.lower() else ","
    if header.separator != usual:
        facts.container = f"CSV separated by {SEPARATORS[header.separator]}"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=header.separator, strict=True)
    for _ in range(header.num_lines):
        next(reader)
    before = reader.line_num
    try:
        for record in reader:
            number, before = before + 1, reader.line_num
            if not record:
                continue
            yield _row(number, record, header.columns, keys, facts.count)
    except csv.Error as error:
        yield _csv_fault(text, before, header.separator, reader.line_num, error)


def _row(number: int, record: list[str], columns: list[str], keys: Keys, on_format: OnFormat) -> ParsedRow | Issue:
    if len(record) != len(columns):
        message = f"{len(record)} fields, the header has {len(columns)}"
        return Issue(number, "", "csv_fields", message, "put texts that hold the separator in double quotes")
    value = dict(zip(columns, record, strict=True))
    return parse_formatted_row(number, {name: held for name, held in value.items() if name}, keys, on_format=on_format)


def _header(path: Path, text: str, keys: Keys) -> Header:
    """The header, split by the separator that yields the required columns."""
    usual = "\t" if ".tsv" in path.name.lower() else ","
    first_line = text[:5].lower()
    num_lines = 1
    separators = [usual, *(mark for mark in SEPARATORS if mark != usual)]
    if first_line.startswith("sep=") and first_line[4:] in SEPARATORS:  # as Excel writes it
        separators, num_lines = [text[4]], 2
    tried: list[Header] = []
    for separator in separators:
        columns = _columns(path, text, separator, num_lines)
        header = Header(columns, separator, num_lines)
        if _has_columns(columns, keys):
            _check_columns(path, header)
            return header
        tried.append(header)
    best = max(tried, key=lambda header: len(header.columns))
    wanted = " and ".join(repr(key) for key in keys if key) if all(keys) else USUAL_COLUMNS
    have = f"has the columns {', '.join(best.columns) or '(none)'}"
    separated = (
        f"separated by {SEPARATORS[best.separator]}" if len(best.columns) > 1 else "not separated by , ; | or tabs"
    )
    raise InvalidArgument(f"{path} {have} ({separated}), but needs {wanted}. You can {KEYS_HINT}.")


def _columns(path: Path, text: str, separator: str, num_lines: int) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [next(reader, []) for _ in range(num_lines)][-1]
    except csv.Error as error:
        raise InvalidArgument(f"{path}, line {reader.line_num}: not CSV: {error}.") from error
    return [name.strip() for name in header]


def _has_columns(columns: list[str], keys: Keys) -> bool:
    """Whether these columns include an input and an output."""
    plain = {plain_name(name) for name in columns}
    wanted = ({plain_name(keys[0])} if keys[0] else set(INPUTS), {plain_name(keys[1])} if keys[1] else set(OUTPUTS))
    return all(plain & names for names in wanted)


def _check_columns(path: Path, header: Header) -> None:
    seen: dict[str, str] = {}
    for name in header.columns:
        plain = plain_name(name)
        if plain and plain in seen:
            twice = (
                f"two columns named {name!r}" if seen[plain] == name else f"the columns {seen[plain]!r} and {name!r}"
            )
            raise InvalidArgument(f"{path} has {twice}; it is not clear which one is meant. Rename one of them.")
        seen[plain] = name


def _csv_fault(text: str, before: int, separator: str, at: int, error: csv.Error) -> Issue:
    """The issue for a record that the reader could not parse, at the line of the faulty quotation mark.

    The record starts after `before` lines; the reader gave up on line `at`.
    """
    lines = io.StringIO(text, newline="")
    for _ in range(before):
        next(lines)
    record = lines.read()
    opened = _faulty_quote(record, separator)
    if opened is None:
        return Issue(at, "", "not_csv", f"not CSV: {error}")
    line = before + len(list(io.StringIO(record[: opened + 1], newline="")))
    if "unexpected end" in str(error):
        message = "the quotation mark that opens a field on this line is never closed; nothing after it is read"
    else:
        message = f"the quoted field that starts on this line ends in the middle of line {at}: {error}"
    return Issue(line, "", "not_csv", message, 'write a quotation mark inside a field twice: ""')


def _faulty_quote(record: str, separator: str) -> int | None:
    """The offset of a quoted field that is never closed or continues after its closing quote; `None` without one."""
    at = 0
    while at < len(record):
        begin = at
        if record[at] == '"':
            match = QUOTED.match(record, at)
            if match is None or record[match.end() : match.end() + 1] not in (separator, "\r", "\n", ""):
                return begin
            at = match.end()
        while at < len(record) and record[at] not in (separator, "\r", "\n"):
            at += 1
        if record[at : at + 1] != separator:
            return None
        at += 1
    return None

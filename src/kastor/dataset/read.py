"""A dataset file -> its rows, one after the other: JSON lines (plain, gzip or zstd), a JSON array, CSV.

Reads line by line where it can, so that memory stays flat. Faults are collected as issues with their line, never
raised one at a time.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from kastor.dataset.issues import Issue, Row
from kastor.dataset.parse import INPUT_COLUMNS, OUTPUT_COLUMNS, SHAPES, Keys, row_of
from kastor.dataset.tolerant_json import read_json
from kastor.domain.content import Example
from kastor.domain.errors import InvalidArgument, MalformedJson

Columns = tuple[str | None, str | None]
"""Fields of inputs and of outputs, where they are not the usual ones."""

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is no example (inline media of 20 MB take 27 MB); of a compressed file it may be a bomb."""
BUFFER_BYTES = 1 << 20
MAX_WHOLE_BYTES = 512 * 1024 * 1024
"""An array or a CSV is read at once; larger ones are asked for as JSON lines."""
GZIP, ZSTD, BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"


def read_rows(
    path: Path,
    *,
    input_key: str | None = None,
    output_key: str | None = None,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> Iterator[Row | Issue]:
    """Every row of the file in order, good ones as `Row`, faulty ones as `Issue`.

    `input_key` and `output_key` name the fields (or CSV columns) of a pair when they are not the usual ones. `on_bytes`
    is told from time to time how many bytes of the file, packed as it may be, were read.

    Raises:
        InvalidArgument: the file cannot be read at all, or a CSV lacks the columns.

    """
    keys = (_keys(input_key, INPUT_COLUMNS), _keys(output_key, OUTPUT_COLUMNS))
    with _opened(path, on_bytes) as file:
        if _is_csv(path):
            yield from _csv_rows(path, _whole(file, path), keys)
            return
        first = file.readline(MAX_LINE_BYTES + 1).removeprefix(BOM)
        if _begins_array(first):
            yield from _array_rows(path, first + _whole(file, path), keys)
        else:
            yield from _json_lines(first, file, keys)


def read_examples(path: Path, *, input_key: str | None = None, output_key: str | None = None) -> list[Example]:
    """All examples of the file.

    Raises:
        InvalidArgument: a row is faulty, or there is none; the message shows the first faults.

    """
    items = list(read_rows(path, input_key=input_key, output_key=output_key))
    issues = [item for item in items if isinstance(item, Issue)]
    if issues:
        shown = "\n".join(f"  {issue}" for issue in issues[:5])
        more = f"\n  … and {len(issues) - 5} more" if len(issues) > 5 else ""
        raise InvalidArgument(f"{path}: {len(issues)} of {len(items)} rows are faulty.\n{shown}{more}")
    if not items:
        raise InvalidArgument(f"{path} holds no examples; one line looks like {SHAPES}.")
    return [item.example for item in items if isinstance(item, Row)]


def is_json_lines(path: Path) -> bool:
    """Whether each row stands on a line of its own.

    Raises:
        InvalidArgument: the file cannot be read.

    """
    if _is_csv(path):
        return False
    with _opened(path) as file:
        return not _begins_array(file.readline(MAX_LINE_BYTES + 1).removeprefix(BOM))


def original_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line of a file of JSON lines, unpacked, with its number and its end; of any longer than allowed nothing.

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


class _Counted(io.FileIO):
    """A file that tells how far it was read."""

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
    """The file's bytes, unpacked if its first bytes say that it is packed."""
    try:
        with io.BufferedReader(_Counted(path, on_bytes), BUFFER_BYTES) as raw:
            magic = raw.peek(4)[:4]
            if magic.startswith(GZIP):
                with gzip.GzipFile(fileobj=cast(BinaryIO, raw)) as unpacked:
                    yield cast(BinaryIO, unpacked)
            elif magic == ZSTD:
                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
                    yield io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20)
            else:
                yield cast(BinaryIO, raw)
    except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as error:
        raise InvalidArgument(f"{path} cannot be unpacked: {error}.") from error
    except OSError as error:
        raise InvalidArgument(f"Cannot read {path}: {error.strerror or error}.") from error


def _keys(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if given else usual


def _is_csv(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower() in (".csv", ".tsv")


def _begins_array(first: bytes) -> bool:
    return first.lstrip()[:1] == b"[" and not _is_pair(first)


def _is_pair(line: bytes) -> bool:
    """Whether the line alone is a pair of texts, as lines of a file may be, and not the beginning of an array."""
    try:
        value = read_json(line)
    except MalformedJson:
        return False
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _json_lines(first: bytes, file: BinaryIO, keys: Keys) -> Iterator[Row | Issue]:
    number, line = 1, first
    while line:
        if len(line) > MAX_LINE_BYTES:
            yield Issue(number, "", "line_too_long", f"longer than {MAX_LINE_BYTES:,} bytes", "name media by address")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
        elif stripped := line.strip():
            yield _row_of_line(number, stripped, keys)
        number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)


def _row_of_line(number: int, line: bytes, keys: Keys) -> Row | Issue:
    try:
        value = read_json(line)
    except MalformedJson as error:
        hint = "each example stands on a line of its own" if line in (b"{", b"{,") else ""
        return Issue(number, "", "not_json", error.message, hint)
    return row_of(number, value, keys, len(line))


def _whole(file: BinaryIO, path: Path) -> bytes:
    text = file.read(MAX_WHOLE_BYTES + 1)
    if len(text) > MAX_WHOLE_BYTES:
        raise InvalidArgument(f"{path} is larger than {MAX_WHOLE_BYTES:,} bytes; write it as JSON lines.")
    return text


def _array_rows(path: Path, text: bytes, keys: Keys) -> Iterator[Row | Issue]:
    try:
        values = read_json(text)
    except MalformedJson as error:
        raise InvalidArgument(f"{path}: {error.message}") from error
    if not isinstance(values, list):
        raise InvalidArgument(f"{path}: a JSON array of pairs was expected.")
    for number, value in enumerate(values, start=1):
        yield row_of(number, value, keys)


def _csv_rows(path: Path, data: bytes, keys: Keys) -> Iterator[Row | Issue]:
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 (byte {error.start}); convert it first.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = reader.fieldnames or []
    except csv.Error as error:
        raise InvalidArgument(f"{path}, line 1: not CSV: {error}.") from error
    chosen = [next((key for key in names if key in columns), None) for names in keys]
    if None in chosen:
        wanted = " and ".join(" or ".join(names) for names in keys)
        raise InvalidArgument(f"{path} has the columns {', '.join(columns) or '(none)'}; needed are {wanted}.")
    try:
        for row in reader:
            yield _csv_row(reader.line_num, row, columns, [str(key) for key in chosen], keys)
    except csv.Error as error:
        yield Issue(reader.line_num, "", "not_csv", f"not CSV: {error}")


def _csv_row(number: int, row: dict[Any, Any], columns: Sequence[str], chosen: list[str], keys: Keys) -> Row | Issue:
    missing = sum(value is None for value in row.values())
    surplus = len(row.get(None, ()))  # where csv puts what has no column
    if missing or surplus:
        message = f"{len(columns) - missing + surplus} fields, the header has {len(columns)}"
        return Issue(number, "", "csv_fields", message, "put texts that hold the separator in double quotes")
    return row_of(number, {key: row[key] for key in chosen}, keys)

"""Dataset bytes -> examples. Knows the shapes people hold data in; which examples are good is `gate`'s business.

Shapes: `{"text_input": …, "output": …}` lines (Gemini API), `{"contents": […]}` lines (Vertex), a CSV with named
columns, a JSON array of pairs. Faults are collected as issues with their line, never raised one at a time.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kastor.dataset.tolerant_json import JsonValue, read_json
from kastor.domain.content import Content, Example, Role, Text
from kastor.domain.errors import InvalidArgument, MalformedJson

INPUT_COLUMNS = ("text_input", "textInput", "input", "prompt")
OUTPUT_COLUMNS = ("output", "completion", "response")
SHAPES = '{"text_input": …, "output": …} or {"contents": [{"role": "user", …}, {"role": "model", …}]}'


Columns = tuple[str | None, str | None]
"""Fields of inputs and of outputs, where they are not the usual ones."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault in a dataset."""

    line: int  # from 1: line of the file, or place in the array
    path: str  # the field, as in contents[0].parts[1]; empty for the whole row
    rule: str  # stable name of the broken rule
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.path}" if self.path else "")
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Row:
    """An example and where it came from."""

    line: int
    example: Example


class _Fault(Exception):
    """Becomes an `Issue` where the line is known."""

    def __init__(self, path: str, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.path, self.rule, self.message, self.hint = path, rule, message, hint


def encode_example(example: Example) -> bytes:
    """One line, without its end, in the Vertex form: what jobs keep."""
    document: dict[str, object] = {
        "contents": [
            {"role": content.role.value, "parts": [{"text": part.text} for part in content.parts]}
            for content in example.contents
        ]
    }
    if example.system is not None:
        document["systemInstruction"] = {"parts": [{"text": example.system}]}
    return orjson.dumps(document)


def decode_example(line: bytes) -> Example:
    """The example on a line that `encode_example` or a user wrote.

    Raises:
        InvalidArgument: the line is no example; says which field is wrong.

    """
    try:
        return _example(read_json(line))
    except _Fault as fault:
        raise InvalidArgument.of(fault.path or "example", fault.message) from fault


def read_rows(path: Path, *, input_key: str | None = None, output_key: str | None = None) -> Iterator[Row | Issue]:
    """Every row of the file in order, good ones as `Row`, faulty ones as `Issue`. Reads line by line where it can.

    `input_key` and `output_key` name the fields (or CSV columns) of a pair when they are not the usual ones.

    Raises:
        InvalidArgument: the file cannot be read at all, or a CSV lacks the columns.

    """
    keys = (_keys(input_key, INPUT_COLUMNS), _keys(output_key, OUTPUT_COLUMNS))
    try:
        with path.open("rb") as file:
            first = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from _csv_rows(path, keys)
        elif first == b"[":
            yield from _array_rows(path, keys)
        else:
            yield from _json_lines(path, keys)
    except OSError as error:
        raise InvalidArgument(f"Cannot read {path}: {error.strerror}.") from error


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


Keys = tuple[tuple[str, ...], tuple[str, ...]]


def _keys(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if given else usual


def _json_lines(path: Path, keys: Keys) -> Iterator[Row | Issue]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if stripped:
                yield _row_of_line(number, stripped, keys)


def _row_of_line(number: int, line: bytes, keys: Keys) -> Row | Issue:
    try:
        value = read_json(line)
    except MalformedJson as error:
        hint = "each example stands on a line of its own" if line in (b"{", b"{,") else ""
        return Issue(number, "", "not_json", error.message, hint)
    return _row(number, value, keys)


def _array_rows(path: Path, keys: Keys) -> Iterator[Row | Issue]:
    try:
        values = read_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except MalformedJson as error:
        raise InvalidArgument(f"{path}: {error.message}") from error
    if not isinstance(values, list):
        raise InvalidArgument(f"{path}: a JSON array of pairs was expected.")
    for number, value in enumerate(values, start=1):
        yield _row(number, value, keys)


def _csv_rows(path: Path, keys: Keys) -> Iterator[Row | Issue]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        text = path.read_text("utf-8-sig")
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
    return _row(number, {key: row[key] for key in chosen}, keys)


def _row(number: int, value: JsonValue, keys: Keys) -> Row | Issue:
    try:
        return Row(number, _example(value, keys))
    except _Fault as fault:
        return Issue(number, fault.path, fault.rule, fault.message, fault.hint)


def _example(value: JsonValue, keys: Keys = (INPUT_COLUMNS, OUTPUT_COLUMNS)) -> Example:
    if isinstance(value, list) and len(value) == 2:
        return Example.pair(_text(value[0], "[0]"), _text(value[1], "[1]"))
    if not isinstance(value, dict):
        raise _Fault("", "shape", f"{_kind(value)}, not an object", f"an example is {SHAPES}")
    if "contents" in value:
        return _conversation(value)
    chosen = [next((key for key in names if key in value), None) for names in keys]
    if chosen[0] is None or chosen[1] is None:
        have = ", ".join(map(repr, value)) or "nothing"
        raise _Fault("", "shape", f"the object holds {have}", f"an example is {SHAPES}")
    return Example.pair(_text(value[chosen[0]], chosen[0]), _text(value[chosen[1]], chosen[1]))


def _conversation(value: dict[str, JsonValue]) -> Example:
    turns = value["contents"]
    if not isinstance(turns, list) or not turns:
        raise _Fault("contents", "shape", "must be a list of turns that is not empty")
    contents = tuple(_turn(turn, f"contents[{i}]") for i, turn in enumerate(turns))
    if contents[-1].role is not Role.MODEL:
        raise _Fault(f"contents[{len(contents) - 1}].role", "last_turn", "the last turn must be the model's")
    if len(contents) == 1:
        raise _Fault("contents", "first_turn", "a user turn must stand before the model's")
    for i, content in enumerate(contents):
        if content.role is not (Role.MODEL if i % 2 else Role.USER):
            expected = "model" if i % 2 else "user"
            raise _Fault(
                f"contents[{i}].role", "turn_order", f"{content.role.value}, expected {expected}: turns alternate"
            )
    system = value.get("systemInstruction", value.get("system_instruction"))
    return Example(contents, None if system is None else _system(system))


def _system(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise _Fault("systemInstruction", "shape", f"{_kind(value)}, not an object with parts")
    return "".join(part.text for part in _parts(value, "systemInstruction"))


def _turn(value: JsonValue, path: str) -> Content:
    if not isinstance(value, dict):
        raise _Fault(path, "shape", f"{_kind(value)}, not an object with role and parts")
    role = value.get("role", "user")
    if role not in ("user", "model"):
        hint = 'Gemini calls it "model"' if role == "assistant" else "system text goes into systemInstruction"
        raise _Fault(f"{path}.role", "role", f"{role!r}, expected user or model", hint)
    return Content(Role(role), _parts(value, path))


def _parts(value: dict[str, JsonValue], path: str) -> tuple[Text, ...]:
    parts = value.get("parts")
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list) or not parts:
        raise _Fault(f"{path}.parts", "shape", "must be a list of parts that is not empty")
    texts = []
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or "text" not in part:
            held = ", ".join(map(repr, part)) if isinstance(part, dict) else _kind(part)
            raise _Fault(
                f"{path}.parts[{i}]", "part_kind", f"holds {held or 'nothing'}; only text can be tuned on so far"
            )
        texts.append(Text(_text(part["text"], f"{path}.parts[{i}].text")))
    return tuple(texts)


def _text(value: JsonValue, path: str) -> str:
    if not isinstance(value, str):
        raise _Fault(path, "type", f"{_kind(value)}, expected text", 'put it in quotes, as "1"')
    return value


def _kind(value: JsonValue) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")

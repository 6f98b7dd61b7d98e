"""Fast path for the most common lines: strict JSON in one of Google's formats that holds only text.

JSON parsers keep the last of two equal keys silently. A line that lost a key is found by its length: encoded again, it
is shorter by the missing field.
"""

from typing import Any

import orjson

from kastor.dataset.formats.issues import ParsedRow
from kastor.dataset.formats.parse import PAIR_FIELDS, parse_plain_turns
from kastor.dataset.formats.tolerant_json import has_escaped_colons
from kastor.domain.content import Example, Text

MIN_FIELD_BYTES = len('"text":0,')  # the shortest field that such a line can have
SPACED = b'{"contents": [{"role": "user", "parts": [{"text": "'
NUM_SPACES = 5  # in `SPACED`, as Python's json writes it


def parse_plain_row(number: int, value: Any, line: bytes) -> ParsedRow | None:  # noqa: ANN401  # any JSON value
    """The row on `line`, parsed as `value`; `None` if it needs the general parser."""
    if type(value) is not dict:
        return None
    if "contents" not in value:
        return _pair(number, value, line)
    contents = parse_plain_turns(value["contents"])
    if contents is None:
        return None
    if len(value) == 1:
        example, num_keys = Example(contents), 1 + 3 * len(contents)
    else:
        system = _system(value)
        if system is None:
            return None
        example, num_keys = Example(contents, system), 4 + 3 * len(contents)
    return ParsedRow(number, example, (), len(line)) if _keeps_keys(line, value, num_keys, example) else None


def _pair(number: int, value: dict[str, Any], line: bytes) -> ParsedRow | None:
    if value.keys() != PAIR_FIELDS or type(value["text_input"]) is not str or type(value["output"]) is not str:
        return None
    example = Example.pair(value["text_input"], value["output"])
    return ParsedRow(number, example, (), len(line)) if _keeps_keys(line, value, 2, example) else None


def _system(value: dict[str, Any]) -> tuple[Text] | None:
    """The system instruction, if it is the only other field and holds one text."""
    held = value.get("systemInstruction")
    if len(value) != 2 or type(held) is not dict or len(held) != 1:
        return None
    match held.get("parts"):
        case [{"text": str(text), **others}] if not others:
            return (Text(text),)
    return None


def _keeps_keys(line: bytes, value: object, num_keys: int, example: Example) -> bool:
    """Whether no key occurs twice on the line: it is no longer than `value` encoded, or has no extra colon."""
    num_more = len(line) - len(orjson.dumps(value)) - (NUM_SPACES if line.startswith(SPACED) else 0)
    if num_more < MIN_FIELD_BYTES:
        return True
    texts = [part.text for content in example.contents for part in content.parts if type(part) is Text]
    texts += [part.text for part in example.system or () if type(part) is Text]
    return line.count(b":") == num_keys + sum([text.count(":") for text in texts]) and not has_escaped_colons(line)

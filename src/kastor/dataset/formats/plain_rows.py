"""Lines of strict JSON that hold nothing but texts in one of Google's forms: most are, so these are read fast.

Readers of JSON keep the last of two equal keys in silence. Whether a line has lost one is told by its length: written
again, it would be shorter by the field that is missing.
"""

from typing import Any

import orjson

from kastor.dataset.formats.issues import ParsedRow
from kastor.dataset.formats.parse import PAIR_FIELDS, parse_plain_turns
from kastor.dataset.formats.tolerant_json import has_escaped_colons
from kastor.domain.content import Example, Text

MIN_FIELD_BYTES = len('"text":0,')  # of the fields that such a line has, the shortest
SPACED = b'{"contents": [{"role": "user", "parts": [{"text": "'
NUM_SPACES = 5  # in the beginning above, as Python's json writes it


def parse_plain_row(number: int, value: Any, line: bytes) -> ParsedRow | None:  # noqa: ANN401  # whatever JSON may spell
    """The row of this number that `line` is, which `value` was read from; `None` if there is more to look at."""
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
    """The system instruction, if it is all that stands beside the turns and is one text."""
    held = value.get("systemInstruction")
    if len(value) != 2 or type(held) is not dict or len(held) != 1:
        return None
    match held.get("parts"):
        case [{"text": str(text), **others}] if not others:
            return (Text(text),)
    return None


def _keeps_keys(line: bytes, value: object, num_keys: int, example: Example) -> bool:
    """Whether no key stands twice on the line: it is no longer than `value` is, or has no colon more."""
    num_more = len(line) - len(orjson.dumps(value)) - (NUM_SPACES if line.startswith(SPACED) else 0)
    if num_more < MIN_FIELD_BYTES:
        return True
    texts = [part.text for content in example.contents for part in content.parts if type(part) is Text]
    texts += [part.text for part in example.system or () if type(part) is Text]
    return line.count(b":") == num_keys + sum([text.count(":") for text in texts]) and not has_escaped_colons(line)

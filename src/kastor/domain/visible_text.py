"""Text of datasets, models and callers as a terminal may show it: control characters and bidi overrides as symbols.

A raw ESC can move the cursor, change the window's title or hide text; an override of the direction shows text in
another order than it has.
"""

import json
import re
from collections.abc import Callable
from typing import Any

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but line ends and tabs; lone surrogates, too, which no terminal takes."""
CONTROL_PICTURES, DELETE, DELETE_PICTURE = 0x2400, "\x7f", "\u2421"


def visible_text(text: str) -> str:
    r"""The text with a symbol for each character that a terminal would obey.

    >>> visible_text("a\x1b[2Jb"), visible_text("\u202eb")
    ('a␛[2Jb', '\\u202eb')
    """
    return text if text.isprintable() else UNSAFE.sub(_symbol, text)


def json_text(value: object, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """The value as JSON in which every such character is an escape; `default` makes JSON of what is none."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _symbol(match: re.Match[str]) -> str:
    char = match[0]
    if char < " ":
        return chr(CONTROL_PICTURES + ord(char))
    return DELETE_PICTURE if char == DELETE else f"\\u{ord(char):04x}"

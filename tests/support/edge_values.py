"""Boundary values of JSON, integers and names, as raw text for a body, a query or a path."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DIGITS = ("9" * 18, "9" * 19, "9" * 40, "1" + "0" * 400, str(2**31), str(2**53 + 1), str(2**63), str(2**64), "9" * 5000)
NUMBERS = (
    *("0", "-0", "-1", "1e-400", "1e308", "1e309", "1e400", "-1e400", "1e99999999999", "0.1e-7", "NaN", "Infinity"),
    *(sign + digits for digits in DIGITS for sign in ("", "-")),
)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "..",
        "../..",
        "a/b",
        "%",
        "%00",
        "%ff",
        "{x}",
        "x" * 5000,
    ),
    *("models/\0", "tunedModels/\0", "files/\0", "corpora/x", "-", "1" * 300, "٣", "\x1b[2J", "'; --", "null", "true"),
)
RAW_TEXTS = ('"\\ud800"', '"\\udc00\\ud800"', '"a\\ud83d"', '"\\u0000"')  # half pairs, which Python cannot dump
DEEP = tuple(
    opening * depth + closing * depth for opening, closing in ("[]", ('{"a":', "}")) for depth in (40, 200, 990)
)
VALUES = (
    *NUMBERS,
    *(json.dumps(text) for text in TEXTS + NUMBERS),
    *RAW_TEXTS,
    *(one if one.startswith("[") else one.replace("}", "1}", 1) for one in DEEP),
    *("null", "true", "[]", "{}", "[null]", "[[]]", '{"":1}', '{"a\\u0000":1}', '{"\\ud800":1}'),
)
PLACE = "@@edge@@"

values = st.sampled_from(VALUES)
words = st.sampled_from((*TEXTS, *NUMBERS))


def places(value: Any) -> Iterator[tuple[str | int, ...]]:  # JSON
    """The paths of all values in a JSON value."""
    yield ()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from ((step, *path) for path in places(one))


def with_edge(value: Any, path: tuple[str | int, ...], raw: str) -> str:  # JSON
    """The value as JSON text, with `raw` in place of what lies at `path`."""

    def replaced(one: Any, left: tuple[str | int, ...]) -> Any:  # JSON
        if not left:
            return PLACE
        inner = {left[0]: replaced(one[left[0]], left[1:])}
        return one | inner if isinstance(one, dict) else [inner.get(i, item) for i, item in enumerate(one)]

    return json.dumps(replaced(value, path)).replace(json.dumps(PLACE), raw)

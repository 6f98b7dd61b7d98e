"""Metrics of answers that are JSON objects: how many fields are right."""

import json
from collections.abc import Mapping, Sequence


def extract_json_object(text: str) -> Mapping[str, object] | None:
    r"""Parse a text that is a JSON object, perhaps in a Markdown fence; `None` if it is not.

    >>> extract_json_object('```json\n{"a": 1}\n```'), extract_json_object('[1]'), extract_json_object('{"a": ')
    ({'a': 1}, None, None)
    """
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        parsed = json.loads(bare)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def leaf_values(value: object, path: str = "") -> set[tuple[str, str]]:
    """All values that are neither objects nor lists, each with its path.

    >>> sorted(leaf_values({"a": {"b": 1}, "c": ["x", "y"]}))
    [('.a.b', '1'), ('.c[0]', '"x"'), ('.c[1]', '"y"')]
    """
    if isinstance(value, Mapping):
        return set().union(*[leaf_values(inner, f"{path}.{key}") for key, inner in value.items()])
    if isinstance(value, list):
        return set().union(*[leaf_values(inner, f"{path}[{index}]") for index, inner in enumerate(value)])
    return {(path, json.dumps(value, ensure_ascii=False))}


def field_f1(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Micro-averaged F1 over the fields of all answers: a field is right if its path and value equal the truth's.

    An answer that is not a JSON object has no fields.

    >>> round(field_f1(['{"a": 1, "b": 2}', '{"a": 3}'], ['{"a": 1, "b": 0}', 'none']), 3)
    0.4
    >>> field_f1(['{"a": {"b": 1}}'], ['{"a": {"b": 1}}'])
    1.0
    """
    num_true = num_answered = num_right = 0
    for truth, answer in zip(truths, answers, strict=True):
        expected, answered = (leaf_values(extract_json_object(text) or {}) for text in (truth, answer))
        num_true += len(expected)
        num_answered += len(answered)
        num_right += len(expected & answered)
    return 2 * num_right / (num_true + num_answered) if num_true + num_answered else 0.0

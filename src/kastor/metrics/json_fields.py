"""Answers that are JSON objects: how many of the fields are right."""

import json
from collections.abc import Mapping, Sequence


def extract_json_object(text: str) -> Mapping[str, object] | None:
    r"""The JSON object that a text is, fenced or not; `None` if it is none.

    >>> extract_json_object('```json\n{"a": 1}\n```'), extract_json_object('[1]'), extract_json_object('{"a": ')
    ({'a': 1}, None, None)
    """
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        found = json.loads(bare)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def leaf_values(value: object, path: str = "") -> set[tuple[str, str]]:
    """All values that are neither object nor list, each with its path.

    >>> sorted(leaf_values({"a": {"b": 1}, "c": ["x", "y"]}))
    [('.a.b', '1'), ('.c[0]', '"x"'), ('.c[1]', '"y"')]
    """
    if isinstance(value, Mapping):
        return set().union(*[leaf_values(inner, f"{path}.{key}") for key, inner in value.items()])
    if isinstance(value, list):
        return set().union(*[leaf_values(inner, f"{path}[{index}]") for index, inner in enumerate(value)])
    return {(path, json.dumps(value, ensure_ascii=False))}


def field_f1(truths: Sequence[str], answers: Sequence[str]) -> float:
    """F1 of the fields of all answers together: a field is right if its path and value are the truth's.

    An answer that is no JSON object has no field.

    >>> round(field_f1(['{"a": 1, "b": 2}', '{"a": 3}'], ['{"a": 1, "b": 0}', 'none']), 3)
    0.4
    >>> field_f1(['{"a": {"b": 1}}'], ['{"a": {"b": 1}}'])
    1.0
    """
    wanted = given = right = 0
    for truth, answer in zip(truths, answers, strict=True):
        true, said = leaf_values(extract_json_object(truth) or {}), leaf_values(extract_json_object(answer) or {})
        wanted, given, right = wanted + len(true), given + len(said), right + len(true & said)
    return 2 * right / (wanted + given) if wanted + given else 0.0

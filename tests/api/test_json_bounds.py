"""Hostile bodies are refused before they take memory: counted in the bytes; of wrong names only the first are told."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.api.gemini.tuned_models import TunedModelIn
from kastor.api.google.content import CountIn, GenerateIn
from kastor.api.http.json_bounds import MAX_UNKNOWN, JsonBounds, check_num_names
from kastor.api.http.protojson import parse_message
from kastor.domain.errors import InvalidArgument

MB = 1_000_000
MEASURED = """
import resource, sys
from kastor.api.google.content import GenerateIn
from kastor.api.gemini.tuned_models import TunedModelIn
from kastor.api.http.protojson import parse_message
from kastor.domain.errors import InvalidArgument
kind, body = {"generate": GenerateIn, "create": TunedModelIn}[sys.argv[1]], sys.stdin.buffer.read()
try:
    parse_message(kind, b'{"contents":[{"parts":[{}]}]}')
except InvalidArgument:
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse_message(kind, body)
    print("read")
except InvalidArgument as error:
    print(error.message[:300], "violations:", len(error.violations))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def names(count: int) -> bytes:
    return b"{" + b",".join(b'"a%d":1' % number for number in range(count)) + b"}"


def listed(one: bytes, count: int) -> bytes:
    return b"[" + b",".join([one] * count) + b"]"


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("generate", b'{"contents":[{"parts":' + listed(b"{}", 4 * MB // 3) + b"}]}", "more than 50,000 objects"),
        ("generate", b'{"contents":' + listed(b"{}", 4 * MB // 3) + b"}", "more than 50,000 objects"),
        ("generate", b'{"contents":' + b"[" * MB + b"]" * MB + b"}", "more than 50,000 objects"),
        ("generate", names(380_000), "violations: 100"),
        ("generate", b'{"generationConfig":' + names(380_000) + b"}", "violations: 100"),
        ("generate", b'{"contents":' + listed(b'{"parts":' + listed(b"1", 300) + b"}", 1200) + b"}", "must be"),
        ("generate", names(4 * MB), "more than 400,000 values"),
        (
            "create",
            b'{"tuningTask":{"trainingData":{"examples":{"examples":' + listed(b'{"a":1}', 300_000) + b"}}}}",
            ": 100",
        ),
    ],
)
def test_a_hostile_body_takes_little_memory(kind: str, body: bytes, said: str) -> None:
    command = [sys.executable, "-c", MEASURED, kind]
    told, grown_kib = subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode().splitlines()
    assert said in told
    assert int(grown_kib) * 1024 < 150 * MB  # was 400 MB to 4 GB


@given(
    st.recursive(
        st.none() | st.text('{}[],:"\\\\ a') | st.integers(0, 9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('{[,"', max_size=3), inner, max_size=4),
        max_leaves=30,
    )
)
def test_brackets_and_commas_in_texts_are_not_counted(value: object) -> None:
    def size(one: object) -> tuple[int, int]:
        inner = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else None
        if inner is None:
            return 0, 0
        counts = [size(child) for child in inner]
        objects = 1 + sum(count[0] for count in counts)
        return objects, 1 + max(0, len(inner) - 1) + sum(count[1] for count in counts)

    objects, values = size(value)
    body = json.dumps(value).encode()
    JsonBounds(objects, values).check(body)
    for bounds in (JsonBounds(objects - 1, values), JsonBounds(objects, values - 1)):
        if values:
            with pytest.raises(InvalidArgument, match="send less at once"):
                bounds.check(body)


def test_names_that_a_message_has_are_kept_in_either_spelling_and_wherever_they_stand() -> None:
    value = {"contents": [{"parts": [{"inline_data": {"mimeType": "a"}}, 5]}], "tool_config": None}
    assert check_num_names(GenerateIn, value) == (value, 0)
    lone = {"generateContentRequest": {"contents": {"parts": {"text": "x", "nonsense": 1}}}}
    assert check_num_names(CountIn, lone) == (lone, 0)
    free = {"tools": [{"functionDeclarations": [{"parameters": {f"p{n}": 1 for n in range(500)}}]}]}
    assert check_num_names(GenerateIn, free) == (free, 0)


def test_of_unknown_names_the_first_are_told_and_the_others_counted() -> None:
    body = b'{"generationConfig":' + names(20_000) + b"}"
    with pytest.raises(InvalidArgument, match='Unknown name "a0" at .*; and 19,997 more') as caught:
        parse_message(GenerateIn, body)
    assert len(caught.value.violations) == MAX_UNKNOWN


def test_a_large_request_that_is_right_is_read() -> None:
    one = {"textInput": "{[,]}" * 20, "output": "2"}
    body = {"tuningTask": {"trainingData": {"examples": {"examples": [one] * 20_000}}}}
    read = parse_message(TunedModelIn, json.dumps(body).encode())
    assert read.tuning_task and read.tuning_task.training_data and read.tuning_task.training_data.examples
    assert len(read.tuning_task.training_data.examples.examples or ()) == 20_000

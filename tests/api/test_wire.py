"""Reading JSON as Google's front end does, and writing it: whatever comes, a value or a clean refusal."""

import json
import math
import struct
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.api.gemini.tuned_models import TunedModelIn
from kastor.api.google.content import CountIn, GenerateIn
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.api.http.protojson import ProtoModel, dump_json, parse_message, shortest_float32
from kastor.dataset.formats.tolerant_json import parse_json
from kastor.domain.errors import Code, InvalidArgument, KastorError, MalformedJson

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(
    sorted({*TunedModelIn.model_fields, *GenerateIn.model_fields, "contents", "parts", "text", "generationConfig"})
)
MESSAGES = st.dictionaries(NAMES, JSON, max_size=5)
NEARLY = st.text(alphabet="{}[]\",:.-+eE0123456789 \n\t\\/*u'NaInfityrulse\ud800é", max_size=60)


def read_or_refused(data: bytes) -> object:
    try:
        return parse_json(data)
    except KastorError:
        return None


@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_a_refusal(data: bytes) -> None:
    read_or_refused(data)


@given(NEARLY)
def test_nearly_json_is_a_value_or_a_refusal_and_never_not_a_number(text: str) -> None:
    value = read_or_refused(text.encode("utf-8", "surrogatepass"))
    assert not (isinstance(value, float) and not math.isfinite(value))


@given(JSON)
def test_what_the_standard_writes_is_read_the_same(value: Any) -> None:
    text = json.dumps(value)
    if "NaN" not in text and "Infinity" not in text and "\\ud" not in text:
        read = parse_json(text.encode())
        assert read == value or "e" in text or any(c.isdigit() for c in text)  # huge integers become floats


@given(MESSAGES)
@pytest.mark.parametrize("kind", [TunedModelIn, GenerateIn, CountIn])
def test_any_json_object_is_a_message_or_a_refusal(kind: Any, value: dict[str, Any]) -> None:
    try:
        parse_message(kind, json.dumps(value).encode())
    except InvalidArgument as refused:
        assert refused.message


@pytest.mark.parametrize("text", ["5", "5.0", "5.", "5e0", "0.5E+1", "05", "500e-2"])
def test_numbers_may_come_as_texts(text: str) -> None:
    config = {"maxOutputTokens": text, "temperature": text}
    found = parse_message(GenerateIn, json.dumps({"generationConfig": config}).encode()).generation_config
    assert found is not None
    assert (found.max_output_tokens, found.temperature) == (5, 5.0)


@pytest.mark.parametrize(
    "text", ["1_0", " 5", "5 ", "+5", "٣", "1_0.0", "0x5", "", "5,0", "NaN", "nan", "Infinity", "1e", ".", "5\n", "--5"]
)
@pytest.mark.parametrize("field", ["maxOutputTokens", "temperature"])
def test_a_text_that_only_python_reads_as_a_number_is_refused(field: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"must be a (whole )?number, not the text"):
        parse_message(GenerateIn, json.dumps({"generationConfig": {field: text}}).encode())


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ('{"a": 1,, }', 1, 8),
        ('{"displayName": "x",\n "baseModel": }', 2, 15),
        ('{"a": [1, 2,], // fine so far\n  "b": tru}', 2, 8),
        ('{"a": 1} {"b": 2}', 1, 10),
        ('{"a": 1', 1, 8),
        ('{\n"a": "x\n"}', 2, 8),
        ('{"é": 01}', 1, 7),
        ('{"a": NaN}', 1, 7),
        ('{"a": 1,\n "b": [Infinity]}', 2, 8),
        ("[1, 2", 1, 6),
        ('{"a" 1}', 1, 6),
    ],
)
def test_malformed_json_is_told_with_line_and_column_of_what_was_sent(body: str, line: int, column: int) -> None:
    with pytest.raises(MalformedJson, match=rf"^Invalid JSON payload received\..* line {line}, column {column}\."):
        parse_message(TunedModelIn, body.encode())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[]", "must be an object, not a list"),
        (b'"text"', "must be an object, not the text 'text'"),
        (b"5", "must be an object, not the number 5"),
        (b"null", "must be an object, not null"),
        (b'{"displayName": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "line 1"),
        (b'{"a":' * 100_000, "line 1"),
        (b"/*" * 100_000, "line"),
        (b'{"a": "' + b'\\"' * 100_000, "line"),
        (b"9" * 10_000 + b",", "line"),
        (b'{"description": "\\ud800"}', "line 1"),
    ],
)
def test_hostile_bodies_get_a_clean_refusal(body: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_message(TunedModelIn, body)


def test_what_googles_scripts_write_is_read() -> None:
    body = b"""\xef\xbb\xbf
      { // a comment
        'display_name': "next number",
        base_model: "models/x",
        "tuning_task": { "hyperparameters": { "batch_size": 2, "learning_rate": .001, "epoch_count":5, }, },
      }"""
    read = parse_message(TunedModelIn, body)
    assert read.display_name == "next number"
    assert read.tuning_task is not None and read.tuning_task.hyperparameters is not None
    assert read.tuning_task.hyperparameters.learning_rate == 0.001


LISTED = {
    "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "generationConfig": {"stopSequences": ["END"], "responseModalities": ["TEXT"]},
    "tools": [{"functionDeclarations": [{"name": "f"}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
}


def unlisted(value: Any) -> Any:
    """The same with every list of one written as its item."""
    if isinstance(value, dict):
        return {name: unlisted(one) for name, one in value.items()}
    return unlisted(value[0]) if isinstance(value, list) and len(value) == 1 else value


def test_a_lone_value_is_a_list_of_one_wherever_a_list_is_expected() -> None:
    whole = parse_message(GenerateIn, json.dumps(LISTED).encode())
    assert "[" not in json.dumps(unlisted(LISTED))
    assert parse_message(GenerateIn, json.dumps(unlisted(LISTED)).encode()) == whole
    example = {"textInput": "1", "output": "2"}
    for examples in (example, [example]):
        read = parse_message(
            TunedModelIn, json.dumps({"tuningTask": {"trainingData": {"examples": {"examples": examples}}}}).encode()
        )
        assert read.model_dump()["tuning_task"]["training_data"]["examples"]["examples"] == [
            {"text_input": "1", "output": "2"}
        ]


def request_messages(kind: type[ProtoModel] = ProtoModel) -> Iterator[type[ProtoModel]]:
    for child in kind.__subclasses__():
        yield from request_messages(child)
        if child.__name__.endswith("In"):
            yield child


def test_every_repeated_field_of_every_request_takes_a_lone_value() -> None:
    lists = 0
    for kind in request_messages():
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if "list[" in str(hint):
                lists += 1
                assert "_by_parts" in str(hint), f"{kind.__name__}.{name} is a list, and not Items"
    assert lists >= 11


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"contents": "Hello"}, r"^contents: must be an object, not the text 'Hello'"),
        ({"contents": {"parts": {"text": 5}}}, r"^contents.parts.text: must be a text, not the number 5"),
        ({"contents": {"parts": [{"text": "a"}, {"text": 5}]}}, r"^contents.parts\[1\].text: must be a text"),
        ({"contents": {"parts": {"txt": "a"}}}, r"Unknown name \"txt\" at 'contents.parts'"),
        ({"contents": {"parts": {"inlineData": {}, "inline_data": {}}}}, r"contents.parts.inlineData: is given twice"),
        ({"generationConfig": {"stopSequences": 5}}, r"stopSequences: must be a text, not the number 5"),
        ({"safetySettings": {"category": "HARM"}}, r"^safetySettings.category: the text 'HARM' is not a HarmCategory"),
    ],
)
def test_what_is_wrong_with_a_lone_value_is_told_where_it_stands(body: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_message(GenerateIn, json.dumps(body).encode())


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_clean_float_means_the_same_32_bit_number(value: float) -> None:
    assert struct.pack("f", shortest_float32(value)) == struct.pack("f", value)


@given(st.integers(-999, 999), st.integers(-6, 6))
def test_a_short_decimal_reads_back_as_it_was_written(digits: int, exponent: int) -> None:
    value = float(f"{digits}e{exponent}")
    stored = struct.unpack("f", struct.pack("f", value))[0]
    assert shortest_float32(stored) == shortest_float32(value) == value


@given(st.text())
def test_what_is_written_reads_back_and_is_one_line_to_every_client(text: str) -> None:
    written = dump_json({"text": text + "\x85\u2028\u2029\x0b\x0c\x1c"}, pretty=False)
    assert json.loads(written) == {"text": text + "\x85\u2028\u2029\x0b\x0c\x1c"}
    assert len(written.decode().splitlines()) == 1


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Code)


def test_every_error_has_a_body() -> None:
    def kinds(kind: type[KastorError]) -> list[type[KastorError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in kinds(child))]

    for kind in kinds(KastorError):
        body = error_body(kind("said"))["error"]
        assert isinstance(body, dict)
        assert (body["message"], body["status"], body["code"]) == ("said", kind.code.name, HTTP_STATUS[kind.code])

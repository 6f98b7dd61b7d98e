"""What the server and a generation process say to each other arrives unchanged."""

import pytest

from kastor.domain import errors
from kastor.domain.content import Content, Prompt, Role, Text
from kastor.domain.errors import FieldViolation, Internal, InvalidArgument, KastorError
from kastor.domain.generation import Chunk, FinishReason, GenerateRequest, Sampling
from kastor.serving import wire

PROMPT = Prompt(
    (Content(Role.USER, (Text("a"), Text("ü\n"))), Content(Role.MODEL, (Text("b"),)), Content(Role.USER, (Text(""),))),
    "be brief",
)


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("base", PROMPT, Sampling()),
        GenerateRequest("base", Prompt.of("x"), Sampling(0.5, 0.9, 40, ("END", "\n"), 12, 2**31), "job123"),
    ],
)
def test_a_request_arrives_unchanged(request_: GenerateRequest) -> None:
    assert wire.decode_request(wire.encode_request(request_)) == request_


def test_a_prompt_arrives_unchanged() -> None:
    assert wire.decode_prompt(wire.encode_prompt(PROMPT)) == PROMPT


@pytest.mark.parametrize("chunk", [Chunk("ü\n", 3, 1), Chunk("", 3, 2, FinishReason.MAX_TOKENS)])
def test_a_chunk_arrives_unchanged_on_one_line(chunk: Chunk) -> None:
    line = wire.encode_event(chunk)
    assert line.count(b"\n") == 1
    assert wire.decode_chunk(line) == chunk


def every_error(kind: type[KastorError]) -> list[type[KastorError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in every_error(below))]


@pytest.mark.parametrize("kind", every_error(KastorError))
def test_every_error_arrives_with_its_code(kind: type[KastorError]) -> None:
    with pytest.raises(KastorError) as raised:
        wire.decode_chunk(wire.encode_error(kind("what is wrong", reason="WHY")))
    assert (raised.value.code, raised.value.message, raised.value.reason) == (kind.code, "what is wrong", "WHY")
    assert isinstance(
        raised.value,
        kind.__mro__[1] if kind.__name__ not in wire.ERRORS and kind is not KastorError else errors.KastorError,
    )


def test_field_violations_arrive() -> None:
    sent = InvalidArgument("two", violations=(FieldViolation("a", "b"), FieldViolation("c", "d")))
    with pytest.raises(InvalidArgument) as raised:
        wire.decode_count(wire.encode_error(sent))
    assert raised.value.violations == sent.violations


def test_an_unknown_kind_of_error_is_internal() -> None:
    with pytest.raises(Internal, match="odd"):
        wire.decode_count(b'{"error":{"kind":"New","message":"odd","reason":"","violations":[]}}')

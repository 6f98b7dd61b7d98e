"""What the server and a generation process say to each other arrives unchanged."""

import dataclasses
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from kastor.domain import errors
from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Content, FunctionCall, FunctionResponse, Media, Prompt, Resolution, Role, Text
from kastor.domain.errors import FieldViolation, Internal, InvalidArgument, KastorError, NotFound
from kastor.domain.generation import (
    Chunk,
    FinishReason,
    GenerateRequest,
    ResolvedMedium,
    ResponseFormat,
    Sampling,
    TokenLogprob,
    TokenStep,
)
from kastor.domain.job import Rendering
from kastor.domain.media import MediaKind, SamplingPlan
from kastor.domain.vision import Grid, MediumLayout, MediumPlan
from kastor.models.chat.render import PictureSpan, RenderedExample
from kastor.serving import engine_protocol
from kastor.serving.engine import ScoreRequest

PROMPT = Prompt(
    (Content(Role.USER, (Text("a"), Text("ü\n"))), Content(Role.MODEL, (Text("b"),)), Content(Role.USER, (Text(""),))),
    (Text("be brief"),),
)


CALLED = Prompt(
    (
        Content(Role.USER, (Text("a"),)),
        Content(Role.MODEL, (Text("b"), FunctionCall("f", '{"x":[1,"ü"]}'))),
        Content(Role.USER, (FunctionResponse("f", '{"y":null}'),)),
    ),
    tools='[{"functionDeclarations":[{"name":"f"}]}]',
    must_call=True,
)


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("base", CALLED, Sampling()),
        GenerateRequest("base", PROMPT, Sampling()),
        GenerateRequest(
            "base", Prompt.of("x"), Sampling(0.5, 0.9, 40, ("END", "\n"), 12, 2**31), AdapterRef("job123"), 8
        ),
        GenerateRequest(
            "base",
            PROMPT,
            Sampling(
                presence_penalty=-2.0,
                frequency_penalty=0.25,
                top_logprobs=0,
                form=ResponseFormat("f", '{"type":"object"}', ("a", "ü")),
            ),
        ),
    ],
)
def test_a_request_arrives_unchanged(request_: GenerateRequest) -> None:
    assert engine_protocol.decode_request(engine_protocol.encode_request(request_)) == request_


def test_a_prompt_arrives_unchanged() -> None:
    assert engine_protocol.decode_prompt(engine_protocol.encode_prompt(PROMPT, {}, Rendering.FIRST)) == (
        PROMPT,
        {},
        Rendering.FIRST,
    )


def test_media_of_a_prompt_arrive_as_what_is_shown_of_them() -> None:
    picture, video = Media("image/png", data=b"x"), Media("video/mp4", "files/x", fps=2.0)
    frames = SamplingPlan((0.0, 0.5), (0, 512), Fraction(1, 1024), 0, 1.25)
    shown = {
        video: ResolvedMedium(
            MediumPlan(
                "ab" * 32,
                MediaKind.VIDEO,
                MediumLayout(Resolution.LOW, (Grid(256, 256, 8, 8),) * 2, (0.0, 0.5)),
                frames,
            ),
            Path("/v"),
            "c[0]",
        ),
        picture: ResolvedMedium(
            MediumPlan(
                "cd" * 32, MediaKind.IMAGE, MediumLayout(Resolution.MEDIUM, (Grid(512, 512, 16, 16, (2, 2)),)), None
            ),
            Path("/p"),
            "c[1]",
        ),
    }
    asked = Prompt((Content(Role.USER, (picture, Text("?"), video, picture)),), (video,))
    body = engine_protocol.encode_request(GenerateRequest("base", asked, Sampling(), AdapterRef("job1", 19), 2, shown))
    assert b"files/x" not in body
    told = engine_protocol.decode_request(body)
    assert list(told.shown.values()) == list(shown.values())
    first, second = told.shown
    assert told.prompt == Prompt((Content(Role.USER, (second, Text("?"), first, second)),), (first,))


def test_sequences_to_be_scored_arrive_with_their_pictures() -> None:
    picture = Media("image/png", "files/x")
    view = MediumLayout(Resolution.MEDIUM, (Grid(512, 512, 16, 16, (2, 2)),))
    shown = {picture: ResolvedMedium(MediumPlan("cd" * 32, MediaKind.IMAGE, view, None), Path("/p"), "c[1]")}
    spans = (PictureSpan(picture, 0, 1, 2, "key", offset=3, columns=2),)
    seen = RenderedExample([1, 7, 7, 2], [False, False, False, True], spans, on_a_grid=True)
    plain = RenderedExample([3, 4], [True, True])
    request = ScoreRequest("base", (seen, plain), AdapterRef("job1", 19), shown)
    told = engine_protocol.decode_score_request(engine_protocol.encode_score_request(request))
    (named,) = told.shown
    assert told.shown[named] == shown[picture]
    pictures = (replace(spans[0], media=named, key=""),)  # the engine looks features up by itself
    assert told == replace(request, sequences=(replace(seen, pictures=pictures), plain), shown=told.shown)


def test_scores_arrive_to_the_last_bit() -> None:
    scores = [[-0.1234567165374756, -17.25], []]
    assert engine_protocol.decode_scores(engine_protocol.encode_scores(scores)) == scores
    with pytest.raises(NotFound, match="gone"):
        engine_protocol.decode_scores(engine_protocol.encode_error(NotFound("gone")))


STEPS = (TokenStep(TokenLogprob("ü", 7, -0.25), (TokenLogprob("\n", 2, -0.125), TokenLogprob("ü", 7, -0.25))),)


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk("ü\n", 3, 1),
        Chunk("", 3, 2, FinishReason.MAX_TOKENS),
        Chunk("x", 3, 2, FinishReason.STOP, 7, (*STEPS, TokenStep(TokenLogprob("", 0, 0.0)))),
    ],
)
def test_a_chunk_arrives_unchanged_on_one_line(chunk: Chunk) -> None:
    line = engine_protocol.encode_event(chunk)
    assert line.count(b"\n") == 1
    assert engine_protocol.decode_chunk(line) == chunk


def every_error(kind: type[KastorError]) -> list[type[KastorError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in every_error(below))]


@pytest.mark.parametrize("kind", every_error(KastorError))
def test_every_error_arrives_with_its_code(kind: type[KastorError]) -> None:
    with pytest.raises(KastorError) as raised:
        engine_protocol.decode_chunk(engine_protocol.encode_error(kind("what is wrong", reason="WHY")))
    assert (raised.value.code, raised.value.message, raised.value.reason) == (kind.code, "what is wrong", "WHY")
    assert isinstance(
        raised.value,
        kind.__mro__[1]
        if kind.__name__ not in engine_protocol.ERRORS and kind is not KastorError
        else errors.KastorError,
    )


def test_field_violations_arrive() -> None:
    sent = InvalidArgument("two", violations=(FieldViolation("a", "b"), FieldViolation("c", "d")))
    with pytest.raises(InvalidArgument) as raised:
        engine_protocol.decode_count(engine_protocol.encode_error(sent))
    assert raised.value.violations == sent.violations


def test_an_unknown_kind_of_error_is_internal() -> None:
    with pytest.raises(Internal, match="odd"):
        engine_protocol.decode_count(b'{"error":{"kind":"New","message":"odd","reason":"","violations":[]}}')


def test_every_setting_of_sampling_is_sent() -> None:
    body = json.loads(engine_protocol.encode_request(GenerateRequest("base", PROMPT, Sampling())))
    assert set(body["sampling"]) == {field.name for field in dataclasses.fields(Sampling)}

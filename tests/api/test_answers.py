"""What a caller may ask about the shape of answers: several, their log-probabilities, JSON; and no field is ignored."""

import json
from typing import Any

import pytest
from google.ai import generativelanguage as glm
from google.protobuf import json_format

from kastor.api.google.content import GenerateIn, GenerationConfigIn, PartIn
from kastor.domain.generation import ResponseFormat, Sampling
from kastor.domain.request_limits import OPEN
from kastor.store.database import Database
from support.api_world import BASE, World, error_of, fields_of

TUNED = "tunedModels/numbers"
RECORD = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}


def ask(world: World, model: str = BASE, verb: str = "generateContent", **config: Any) -> Any:
    body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}
    return world.call("POST", f"/v1beta/{model}:{verb}", json=body)


def asked(world: World, model: str = BASE, **config: Any) -> Sampling:
    answer = ask(world, model, **config)
    assert answer.status_code == 200, answer.text
    return world.generator.requests[-1].sampling


# ---- several candidates


def test_each_candidate_has_its_index_text_reason_and_count_and_usage_is_of_all(world: World) -> None:
    answer = ask(world, candidateCount=3).json()
    assert world.generator.requests[0].num_candidates == 3
    assert [c["index"] for c in answer["candidates"]] == [0, 1, 2]
    assert {c["content"]["parts"][0]["text"] for c in answer["candidates"]} == {"twenty three"}
    assert [(c["finishReason"], c["tokenCount"]) for c in answer["candidates"]] == [("STOP", 2)] * 3
    usage = answer["usageMetadata"]
    assert (usage["promptTokenCount"], usage["candidatesTokenCount"], usage["totalTokenCount"]) == (7, 6, 13)


def test_each_chunk_of_a_stream_names_its_candidate_and_usage_grows(world: World) -> None:
    chunks = ask(world, verb="streamGenerateContent", candidateCount=2).json()
    candidates = [chunk["candidates"] for chunk in chunks]
    assert [(one["index"], one["content"]["parts"][0]["text"]) for (one,) in candidates] == [
        (0, "twenty "),
        (1, "twenty "),
        (0, "three"),
        (1, "three"),
    ]
    assert [one.get("finishReason") for (one,) in candidates] == [None, None, "STOP", "STOP"]
    assert [chunk["usageMetadata"]["candidatesTokenCount"] for chunk in chunks] == [1, 2, 3, 4]
    text = world.call("GET", "/metrics").text
    assert "kastor_generated_tokens_total 4.0" in text
    assert "kastor_prompt_tokens_total 7.0" in text


# ---- log-probabilities


def test_logprobs_of_the_chosen_tokens_and_their_mean(world: World) -> None:
    (candidate,) = ask(world, responseLogprobs=True).json()["candidates"]
    assert world.generator.requests[0].sampling.top_logprobs == 0
    assert candidate["avgLogprobs"] == -1.0
    assert candidate["logprobsResult"] == {
        "logProbabilitySum": -2.0,
        "chosenCandidates": [
            {"token": "twenty ", "tokenId": 100, "logProbability": -0.5},
            {"token": "three", "tokenId": 101, "logProbability": -1.5},
        ],
    }


def test_the_likeliest_tokens_of_each_step(world: World) -> None:
    (candidate,) = ask(world, responseLogprobs=True, logprobs=2).json()["candidates"]
    top = [
        {"token": "top0", "tokenId": 0, "logProbability": -0.25},
        {"token": "top1", "tokenId": 1, "logProbability": -0.5},
    ]
    assert candidate["logprobsResult"]["topCandidates"] == [{"candidates": top}] * 2


def test_a_streams_chunks_hold_the_steps_of_their_own_text_and_the_last_the_mean(world: World) -> None:
    first, last = (c["candidates"][0] for c in ask(world, verb="streamGenerateContent", responseLogprobs=True).json())
    assert [one["token"] for one in first["logprobsResult"]["chosenCandidates"]] == ["twenty "]
    assert [one["token"] for one in last["logprobsResult"]["chosenCandidates"]] == ["three"]
    assert "avgLogprobs" not in first
    assert last["avgLogprobs"] == -1.0


def test_who_does_not_ask_for_logprobs_gets_none(world: World) -> None:
    (candidate,) = ask(world, responseLogprobs=False).json()["candidates"]
    assert not {"avgLogprobs", "logprobsResult"} & candidate.keys()


# ---- JSON


def test_json_mode_reaches_the_engine_as_json_schema(world: World) -> None:
    mime = {"responseMimeType": "application/json"}
    assert asked(world, **mime).form == ResponseFormat(
        "generationConfig.responseMimeType", '{"type": ["object", "array"]}'
    )
    by_google = asked(world, **mime, responseSchema=RECORD).form
    assert by_google is not None
    assert by_google.field == "generationConfig.responseSchema"
    assert json.loads(by_google.schema)["properties"] == {"a": {"type": "string"}}
    by_json = asked(world, **mime, responseJsonSchema={"type": "array", "items": {"type": "integer"}}).form
    assert by_json is not None
    assert by_json.field == "generationConfig.responseJsonSchema"
    assert json.loads(by_json.schema) == {"type": "array", "items": {"type": "integer"}}


def test_an_enum_reaches_the_engine_as_choices(world: World) -> None:
    schema = {"type": "STRING", "format": "enum", "enum": ["red", "blue"]}
    form = asked(world, responseMimeType="text/x.enum", responseSchema=schema).form
    assert form == ResponseFormat("generationConfig.responseSchema", choices=("red", "blue"))


@pytest.mark.parametrize("mime", ["application/json", "text/x.enum"])
def test_the_strict_profile_refuses_json_of_tuned_models_the_open_one_gives_it(
    world: World, store: Database, mime: str
) -> None:
    world.active()
    config = {"responseMimeType": mime, "responseSchema": {"type": "STRING", "enum": ["a"]}}
    answer = ask(world, TUNED, **config)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == f"Json mode is not enabled for {TUNED}"
    assert fields_of(answer) == ["generationConfig.responseMimeType"]
    assert "gemini-api" in answer.text
    assert asked(World(world.folder, store, limits=OPEN), TUNED, **config).form is not None


def test_turns_reach_a_tuned_model_in_both_profiles(world: World, store: Database) -> None:
    world.active()
    turns = [{"role": role, "parts": [{"text": role}]} for role in ("user", "model", "user")]
    for one in (world, World(world.folder, store, limits=OPEN)):
        assert one.call("POST", f"/v1beta/{TUNED}:generateContent", json={"contents": turns}).status_code == 200
        assert len(one.generator.requests[-1].prompt.contents) == 3


# ---- every field is honoured or refused

SOMETHING: dict[str, Any] = {
    "candidate_count": 2,
    "stop_sequences": ["x"],
    "max_output_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "seed": 5,
    "response_mime_type": "application/json",
    "response_schema": RECORD,
    "response_json_schema": {"type": "object"},
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "response_logprobs": True,
    "logprobs": 3,
}
"""A value for each field of GenerationConfig that is honoured."""
REFUSED: dict[str, Any] = {
    "response_json_schema_ordered": {"type": "object"},
    "response_modalities": ["IMAGE"],
    "speech_config": {"languageCode": "de-DE"},
    "thinking_config": {"thinkingBudget": 100},
    "image_config": {"aspectRatio": "1:1"},
    "media_resolution": "MEDIA_RESOLUTION_LOW",
    "enable_enhanced_civic_answers": True,
}
"""A value for each that is refused."""
NEEDED = {
    "response_schema": {"responseMimeType": "application/json"},
    "response_json_schema": {"responseMimeType": "application/json"},
    "logprobs": {"responseLogprobs": True},
}
"""What else must be said for a field to have a meaning."""


def test_the_tables_name_every_field_of_googles_message() -> None:
    assert {field.name for field in glm.GenerationConfig.pb().DESCRIPTOR.fields} == SOMETHING.keys() | REFUSED.keys()
    assert GenerationConfigIn.model_fields.keys() == SOMETHING.keys() | REFUSED.keys()


@pytest.mark.parametrize("field", SOMETHING)
def test_a_field_that_is_honoured_changes_what_the_engine_is_asked(world: World, field: str) -> None:
    needed = NEEDED.get(field, {})
    ask(world, **needed)
    answer = ask(world, **needed, **{field: SOMETHING[field]})
    assert answer.status_code == 200, answer.text
    without, given = world.generator.requests
    assert without != given


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_is_refused_is_named_with_what_to_do(world: World, field: str) -> None:
    answer = ask(world, **{field: REFUSED[field]})
    assert answer.status_code == 400
    alias = GenerationConfigIn.model_fields[field].alias
    assert fields_of(answer) == [f"generationConfig.{alias}"]
    assert any(word in error_of(answer)["message"] for word in ("leave it out", "is offered"))
    assert world.generator.requests == []


def test_every_field_of_requests_and_parts_is_known_by_name() -> None:
    for kind, message in ((GenerateIn, glm.GenerateContentRequest), (PartIn, glm.Part)):
        assert {field.name for field in message.pb().DESCRIPTOR.fields} <= kind.model_fields.keys()


def test_answers_are_googles_messages(world: World) -> None:
    """With everything in them, read strictly by the published messages."""
    config = {"candidateCount": 2, "responseLogprobs": True, "logprobs": 2}
    whole = ask(world, **config).json()
    for one in (whole, *ask(world, verb="streamGenerateContent", **config).json()):
        json_format.ParseDict(one, glm.GenerateContentResponse.pb()())

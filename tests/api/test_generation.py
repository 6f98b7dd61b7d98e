"""generateContent, streamGenerateContent and countTokens on tuned and base models."""

import base64
import json
import threading
from hashlib import sha256
from io import BytesIO
from typing import Any

import anyio
import PIL.Image
import pytest

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Content, Prompt, Resolution, Role, Text
from kastor.domain.errors import DataLoss, InvalidArgument, ResourceExhausted, Unavailable
from kastor.domain.generation import Sampling
from kastor.domain.request_limits import OPEN
from kastor.store.database import Database
from support.api_world import ALIAS, BASE, World, error_of, fields_of, raised

TUNED = "tunedModels/numbers"
PNG = {"mimeType": "image/png", "data": "iVBORw0KGgo="}
MP4 = {"mimeType": "video/mp4", "fileUri": "https://example.org/a.mp4"}


def ask(world: World, model: str = BASE, verb: str = "generateContent", **body: Any) -> Any:
    body.setdefault("contents", [{"parts": [{"text": "twenty two"}]}])
    return world.call("POST", f"/v1beta/{model}:{verb}", json=body)


def configured(world: World, model: str = BASE, **config: object) -> Any:
    return ask(world, model, generationConfig=config)


def test_an_answer_has_text_reason_usage_and_the_base_that_served(world: World) -> None:
    world.active()
    answer = ask(world, TUNED).json()
    response_id = answer.pop("responseId")
    assert response_id
    assert answer == {
        "candidates": [
            {
                "content": {"parts": [{"text": "twenty three"}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
                "tokenCount": 2,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 7,
            "candidatesTokenCount": 2,
            "totalTokenCount": 9,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
        },
        "modelVersion": "smollm2-135m-instruct",
    }


@pytest.mark.parametrize("model", [BASE, ALIAS])
def test_a_base_and_its_alias_are_served_without_adapter_and_named_truly(world: World, model: str) -> None:
    assert ask(world, model).json()["modelVersion"] == "smollm2-135m-instruct"
    (request,) = world.generator.requests
    assert (request.base_model, request.adapter) == ("smollm2-135m-instruct", None)
    assert request.prompt == Prompt.of("twenty two")


def test_a_tuned_model_is_served_with_its_jobs_adapter_and_its_own_defaults(world: World) -> None:
    job = world.active(temperature=0.0, topK=3)
    ask(world, TUNED)
    ask(world, TUNED, generationConfig={"temperature": 1.5, "topP": 0.5, "topK": 9, "seed": 4})
    own, asked = world.generator.requests
    assert own.adapter == AdapterRef(job.id)
    assert own.sampling == Sampling(temperature=0.0, top_p=0.9, top_k=3, max_output_tokens=1024)
    assert asked.sampling == Sampling(temperature=1.5, top_p=0.5, top_k=9, seed=4, max_output_tokens=1024)


def test_a_bound_above_the_models_own_is_the_models_own(world: World) -> None:
    configured(world, maxOutputTokens=8192)
    configured(world, max_output_tokens="5", stopSequences=["x", "\n"])
    assert [r.sampling.max_output_tokens for r in world.generator.requests] == [1024, 5]
    assert world.generator.requests[1].sampling.stop_sequences == ("x", "\n")


def test_turns_and_a_system_instruction_reach_a_base_model(world: World) -> None:
    contents = [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}]},
        {"parts": [{"text": "d"}]},
    ]
    ask(world, contents=contents, systemInstruction={"role": "user", "parts": [{"text": "be brief"}]})
    turns = (
        Content(Role.USER, (Text("a"), Text("b"))),
        Content(Role.MODEL, (Text("c"),)),
        Content(Role.USER, (Text("d"),)),
    )
    assert world.generator.requests[0].prompt == Prompt(turns, (Text("be brief"),))


def test_googles_own_sample_with_lone_objects_is_answered(world: World) -> None:
    body = {"contents": {"parts": {"text": "Hello"}}, "systemInstruction": {"parts": {"text": "You are a cat."}}}
    for verb in ("generateContent", "streamGenerateContent"):
        assert ask(world, verb=verb, **body).status_code == 200
    (request, streamed) = world.generator.requests
    assert request.prompt == streamed.prompt
    assert request.prompt.system == (Text("You are a cat."),)
    assert [content.parts for content in request.prompt.contents] == [(Text("Hello"),)]
    assert ask(world, verb="countTokens", contents={"parts": {"text": "Hello"}}).json()["totalTokens"] > 0


def test_a_system_instruction_for_a_tuned_model_depends_on_the_profile(world: World, store: Database) -> None:
    world.active()
    instruction = {"parts": [{"text": "be brief"}]}
    answer = ask(world, TUNED, systemInstruction=instruction)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == "Developer instruction is not enabled for tunedModels/numbers"
    assert "profile gemini-api" in answer.text
    lifted = World(world.folder, store, limits=OPEN)
    assert ask(lifted, TUNED, systemInstruction=instruction).status_code == 200


def test_a_prompt_too_long_for_a_tuned_model_is_refused(world: World) -> None:
    world.active()
    answer = ask(world, TUNED, contents=[{"parts": [{"text": "x" * 40_001}]}])
    assert answer.status_code == 400
    assert "40,001 characters, at most 40,000" in error_of(answer)["message"]
    assert "profile gemini-api" in error_of(answer)["message"]
    assert ask(world, BASE, contents=[{"parts": [{"text": "x" * 40_001}]}]).status_code == 200


def test_a_model_that_is_not_ready_says_how_far_it_is(world: World) -> None:
    world.create()
    job = world.start()
    world.step(job, 1)
    answer = ask(world, TUNED)
    assert (answer.status_code, error_of(answer)["status"]) == (400, "FAILED_PRECONDITION")
    assert "is not ready" in error_of(answer)["message"] and "1 of 19 steps" in error_of(answer)["message"]


def test_a_failed_model_says_why(world: World) -> None:
    world.failed()
    answer = ask(world, TUNED)
    assert (answer.status_code, error_of(answer)["status"]) == (400, "FAILED_PRECONDITION")
    assert "cannot be used: No space left" in error_of(answer)["message"]


@pytest.mark.parametrize("model", ["tunedModels/nope", "models/nope"])
@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent", "countTokens"])
def test_an_unknown_model_is_not_found(world: World, model: str, verb: str) -> None:
    assert ask(world, model, verb).status_code == 404


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"topP": 0}, "topP"),
        ({"topP": 1.1}, "topP"),
        ({"topK": 0}, "topK"),
        ({"topK": 1.5}, "topK"),
        ({"maxOutputTokens": 0}, "maxOutputTokens"),
        ({"stopSequences": list("abcdef")}, "stopSequences"),
        ({"stopSequences": [""]}, "stopSequences"),
        ({"stopSequences": 5}, "stopSequences"),
        ({"candidateCount": 9}, "candidateCount"),
        ({"candidate_count": 0}, "candidateCount"),
        ({"responseMimeType": "image/png"}, "responseMimeType"),
        ({"responseSchema": {"type": "STRING"}}, "responseMimeType"),
        ({"responseMimeType": "text/plain", "responseJsonSchema": {"type": "string"}}, "responseMimeType"),
        ({"responseMimeType": "application/json", "responseSchema": {"type": "TEXT"}}, "responseSchema.type"),
        ({"responseMimeType": "application/json", "response_json_schema": {"not": {}}}, "responseJsonSchema.not"),
        ({"responseMimeType": "application/json", "responseSchema": "x"}, "responseSchema"),
        ({"responseMimeType": "text/x.enum"}, "responseMimeType"),
        ({"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING"}}, "responseSchema"),
        ({"responseLogprobs": True, "logprobs": 21}, "logprobs"),
        ({"responseLogprobs": True, "logprobs": -1}, "logprobs"),
        ({"responseLogprobs": "yes"}, "responseLogprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"presencePenalty": 2}, "presencePenalty"),
        ({"presencePenalty": -2.5}, "presencePenalty"),
        ({"frequency_penalty": 2.0}, "frequencyPenalty"),
        ({"thinkingConfig": {"thinkingBudget": 5}}, "thinkingConfig"),
        ({"speechConfig": {"a": 1}}, "speechConfig"),
        ({"responseModalities": ["AUDIO"]}, "responseModalities"),
        ({"mediaResolution": "MEDIA_RESOLUTION_LOW"}, "mediaResolution"),
    ],
)
def test_a_setting_out_of_range_or_not_offered_is_named(world: World, config: dict[str, object], field: str) -> None:
    answer = configured(world, **config)
    assert answer.status_code == 400
    (named,) = fields_of(answer)
    assert named.startswith(f"generationConfig.{field}")
    assert world.generator.requests == []


def test_settings_that_say_nothing_are_no_reason_to_refuse(world: World) -> None:
    config = {"candidateCount": 1, "responseMimeType": "text/plain", "presencePenalty": 0, "thinkingConfig": {}}
    config |= {"thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}, "mediaResolution": 0}
    config |= {
        "responseLogprobs": False,
        "responseSchema": None,
        "responseModalities": ["TEXT"],
        "temperature": None,
        "stopSequences": [],
    }
    assert configured(world, **config).status_code == 200
    assert ask(world, generationConfig={}, tools=[], toolConfig=None, safetySettings=[]).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"toolConfig": {"a": 1}}, "tool_config"),
        ({"cachedContent": "cachedContents/x"}, "cachedContent"),
        ({"model": "models/other"}, "model"),
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "contents[0].role"),
        ({"contents": [{"role": "user"}]}, "contents[0].parts"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0].data"),
        ({"contents": [{"parts": [{"inlineData": {"data": ""}}]}]}, "contents[0].parts[0].inlineData.data"),
        ({"contents": [{"parts": [{"file_data": {"fileUri": "x"}}]}]}, "contents[0].parts[0].fileData.mimeType"),
        ({"contents": [{"parts": [{"inline_data": PNG}]}]}, "contents[0].parts[0].inlineData"),
        ({"contents": [{"parts": [{"fileData": MP4}]}]}, "contents[0].parts[0].fileData"),
        ({"systemInstruction": {"parts": [{"fileData": MP4}]}}, "systemInstruction.parts[0].fileData"),
        ({"contents": [{"parts": [{"fileData": MP4, "text": "x"}]}]}, "contents[0].parts[0].data"),
        ({"contents": [{"parts": [{"text": "x", "videoMetadata": {"fps": 2}}]}]}, "contents[0].parts[0].videoMetadata"),
        ({"generationConfig": {"mediaResolution": 1}}, "generationConfig.mediaResolution"),
        (
            {"contents": [{"parts": [{"fileData": MP4, "videoMetadata": {"startOffset": "5"}}]}]},
            "contents[0].parts[0].videoMetadata.startOffset",
        ),
        (
            {"contents": [{"parts": [{"fileData": MP4, "videoMetadata": {"fps": 25}}]}]},
            "contents[0].parts[0].videoMetadata.fps",
        ),
        ({"contents": [{"role": "model", "parts": [{"text": "x"}]}]}, "contents"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "contents[0].parts[0].text"),
        ({"contents": {"parts": []}}, "contents[0].parts"),
        ({"safetySettings": [{"category": "HARM_CATEGORY_X"}]}, "safetySettings[0].category"),
        ({"safetySettings": [{"category": 7, "threshold": 99}]}, "safetySettings[0].threshold"),
        ({"colour": "blue"}, "colour"),
        ({"generationConfig": {"colour": "blue"}}, "generation_config"),
    ],
)
def test_a_part_of_a_request_that_cannot_be_honoured_is_named(world: World, body: dict[str, Any], field: str) -> None:
    body.setdefault("contents", [{"parts": [{"text": "x"}]}])
    answer = world.call("POST", f"/v1beta/{BASE}:generateContent", json=body)
    assert answer.status_code == 400
    assert fields_of(answer) == [field]


@pytest.mark.parametrize("level", [{"level": 2}, {"level": "MEDIA_RESOLUTION_MEDIUM"}])
def test_a_medium_reaches_the_engine_as_what_is_shown_of_it(world: World, level: object) -> None:
    buffer = BytesIO()
    PIL.Image.new("RGB", (40, 30)).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    parts = [
        {"inline_data": {"mime_type": "image/png", "data": data, "displayName": "black"}, "mediaResolution": level},
        {"inlineData": {"mimeType": "image/png", "data": data}},
        {"text": "?"},
    ]
    config = {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    answer = ask(world, "models/kastor-nano-vl", contents=[{"parts": parts}], generationConfig=config)
    assert answer.status_code == 200, answer.text
    (request,) = world.generator.requests
    first, second = request.shown.values()
    assert [one.planned.view.resolution for one in (first, second)] == [Resolution.MEDIUM, Resolution.LOW]
    assert [one.planned.view.num_tokens for one in (first, second)] == [256, 64]
    assert first.planned.sha256 == second.planned.sha256 == sha256(buffer.getvalue()).hexdigest()
    assert first.path.read_bytes() == buffer.getvalue()


def test_tuned_models_of_the_strict_profile_are_shown_nothing(world: World) -> None:
    world.active()
    for verb in ("generateContent", "countTokens"):
        answer = ask(world, TUNED, verb, contents=[{"parts": [{"text": "x"}, {"inlineData": PNG}]}])
        assert fields_of(answer) == ["contents[0].parts[1]"]
        assert "was tuned on text alone, and reads no media in the profile gemini-api" in answer.text


def test_safety_settings_pass_by_name_and_number(world: World) -> None:
    settings = [{"category": 7, "threshold": 4}, {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]
    assert ask(world, safetySettings=settings).status_code == 200


def events(answer: Any) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\r\n\r\n") if event]


def streamed(world: World, query: str = "?alt=sse") -> Any:
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    return world.call("POST", f"/v1/{BASE}:streamGenerateContent{query}", json=body)


def test_a_stream_of_events_ends_with_reason_and_usage_and_no_done(world: World) -> None:
    first, last = events(streamed(world))
    assert first["candidates"] == [{"content": {"parts": [{"text": "twenty "}], "role": "model"}, "index": 0}]
    assert first["usageMetadata"]["totalTokenCount"] == 8
    assert last["candidates"][0]["finishReason"] == "STOP"
    assert last["usageMetadata"]["totalTokenCount"] == 9
    assert first["responseId"] == last["responseId"]


@pytest.mark.parametrize("query", ["", "?alt=json", "?prettyPrint=false", "?%24alt=json%3Benum-encoding%3Dint"])
def test_without_sse_a_stream_is_one_json_array(world: World, query: str) -> None:
    answer = streamed(world, query)
    assert answer.headers["content-type"].startswith("application/json")
    assert [m["candidates"][0]["content"]["parts"][0]["text"] for m in answer.json()] == ["twenty ", "three"]


@pytest.mark.parametrize(
    ("kind", "status"), [(InvalidArgument, 400), (ResourceExhausted, 429), (Unavailable, 503), (ValueError, 500)]
)
@pytest.mark.parametrize("query", ["?alt=sse", ""])
def test_an_error_before_the_first_piece_is_an_ordinary_one(
    world: World, kind: type[Exception], status: int, query: str
) -> None:
    world.generator.error = kind("broken")
    answer = streamed(world, query)
    assert answer.status_code == status
    assert error_of(answer)["code"] == status


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent"])
def test_a_damaged_adapter_is_an_error_that_names_model_and_file(world: World, verb: str) -> None:
    world.active("numbers")
    world.generator.error = DataLoss("adapter_model.safetensors is damaged.")
    answer = world.call("POST", f"/v1beta/tunedModels/numbers:{verb}", json={"contents": [{"parts": [{"text": "1"}]}]})
    assert (answer.status_code, error_of(answer)["status"]) == (500, "DATA_LOSS")
    assert error_of(answer)["message"] == ("tunedModels/numbers cannot answer. adapter_model.safetensors is damaged.")


def test_an_error_in_mid_stream_is_the_last_event(world: World) -> None:
    world.generator.error, world.generator.fails_at = raised(Unavailable), 1
    first, last = events(streamed(world))
    assert first["candidates"]
    assert last["error"]["status"] == "UNAVAILABLE"
    array = streamed(world, "").json()
    assert array[1]["error"]["code"] == 503


def test_a_bug_in_mid_stream_ends_the_stream_and_not_the_server(world: World) -> None:
    world.generator.error, world.generator.fails_at = ValueError("secret detail"), 1
    answer = streamed(world)
    assert events(answer)[-1]["error"]["status"] == "INTERNAL"
    assert "secret" not in answer.text
    world.generator.error = None
    assert streamed(world).status_code == 200


def test_a_stream_ends_when_the_server_does(world: World) -> None:
    world.generator.between = world.closing.set
    assert [list(event) for event in events(streamed(world))][-1] == ["error"]


def disconnecting(world: World, verb: str) -> list[dict[str, Any]]:
    """What is sent to a caller who hangs up as soon as the model has begun."""
    sent: list[dict[str, Any]] = []
    body = json.dumps({"contents": [{"parts": [{"text": "x"}]}]}).encode()
    scope = {"type": "http", "method": "POST", "path": f"/v1/{BASE}:{verb}", "query_string": b"alt=sse"}
    scope |= {
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
    }
    begun, hung_up, messages = threading.Event(), threading.Event(), iter([body])

    def between() -> None:
        begun.set()
        assert hung_up.wait(5)

    world.generator.between = between

    async def receive() -> dict[str, Any]:
        part = next(messages, None)
        if part is not None:
            return {"type": "http.request", "body": part, "more_body": False}
        await anyio.to_thread.run_sync(begun.wait, 5)
        threading.Timer(0.05, hung_up.set).start()  # after the disconnect was noted
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(world.app, scope, receive, send)
    return sent


@pytest.mark.parametrize("verb", ["streamGenerateContent"])
def test_a_caller_who_hangs_up_ends_the_generation(world: World, verb: str) -> None:
    world.generator.words = tuple("abcdefgh")
    disconnecting(world, verb)
    assert world.generator.closed.is_set()
    text = world.call("GET", "/metrics").text
    assert "kastor_generated_tokens_total 2.0" in text or "kastor_generated_tokens_total 1.0" in text


def test_tokens_are_counted_for_contents_and_for_whole_requests(world: World) -> None:
    world.active()
    contents = [{"parts": [{"text": "one two three"}]}, {"role": "model", "parts": [{"text": "four"}]}]
    expected = {"totalTokens": 4, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}]}
    for model in (BASE, TUNED):
        assert ask(world, model, "countTokens", contents=contents).json() == expected
        whole = {"generateContentRequest": {"model": model, "contents": contents, "generationConfig": {}}}
        assert world.call("POST", f"/v1beta/{model}:countTokens", json=whole).json() == expected


@pytest.mark.parametrize("body", [{}, {"contents": [{"parts": [{"text": "x"}]}], "generateContentRequest": {}}])
def test_a_count_needs_one_of_the_two(world: World, body: dict[str, object]) -> None:
    answer = world.call("POST", f"/v1beta/{BASE}:countTokens", json=body)
    assert answer.status_code == 400


def test_sse_is_for_streams_only_and_other_forms_are_refused(world: World) -> None:
    for target in (f"/v1/{BASE}:generateContent?alt=sse", f"/v1/{BASE}:streamGenerateContent?alt=proto"):
        answer = world.call("POST", target, json={"contents": [{"parts": [{"text": "x"}]}]})
        assert (answer.status_code, fields_of(answer)) == (400, ["alt"])


def test_generated_tokens_are_counted_for_the_operator(world: World) -> None:
    ask(world)
    streamed(world)
    text = world.call("GET", "/metrics").text
    assert "kastor_generated_tokens_total 4.0" in text
    assert "kastor_prompt_tokens_total 14.0" in text

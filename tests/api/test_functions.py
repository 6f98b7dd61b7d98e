"""Function calling on the wire: what is asked for, what comes back, and what is refused by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google import genai
from google.ai import generativelanguage_v1beta as glm
from google.genai import types

from kastor.domain.content import FunctionCall, FunctionResponse, Text
from kastor.domain.request_limits import OPEN
from kastor.domain.tools import parse_declarations
from kastor.store.database import Database
from support.api_world import BASE, World, error_of, fields_of, listening
from support.rpc_calls import speaking

WEATHER = {
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}
TOOLS = [{"functionDeclarations": [WEATHER, {"name": "time"}]}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern", "day": null}}\n</tool_call>'
PART = {"functionCall": {"name": "weather", "args": {"city": "Bern", "day": None}}}
ASKED = [{"role": "user", "parts": [{"text": "Rain?"}]}]
ANSWERED = [
    *ASKED,
    {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Bern"}, "id": "1"}}]},
    {"role": "function", "parts": [{"functionResponse": {"name": "weather", "response": {"rain": None}, "id": "1"}}]},
]


def ask(world: World, model: str = BASE, method: str = "generateContent", **body: Any) -> httpx.Response:
    return world.call("POST", f"/v1beta/{model}:{method}", json={"contents": ASKED, "tools": TOOLS} | body)


def calling(**config: Any) -> dict[str, Any]:
    return {"functionCallingConfig": config}


def test_a_call_in_an_answer_is_a_part_of_its_own(world: World) -> None:
    world.generator.words = ("Let me", " see.\n", CALL[:20], CALL[20:])
    candidate = ask(world).json()["candidates"][0]
    assert candidate["content"]["parts"] == [{"text": "Let me see."}, PART]
    assert candidate["finishReason"] == "STOP"
    (request,) = world.generator.requests
    assert json.loads(request.prompt.tools) == TOOLS
    assert (request.prompt.must_call, request.sampling.form) == (False, None)


def test_a_streamed_call_comes_in_one_piece(world: World) -> None:
    world.generator.words = ("Let me", " see.\n", CALL[:20], CALL[20:])
    pieces = ask(world, method="streamGenerateContent").json()
    parts = [piece["candidates"][0]["content"]["parts"] for piece in pieces]
    assert parts == [[{"text": "Let me"}], [{"text": " see."}], [PART]]
    assert pieces[-1]["candidates"][0]["finishReason"] == "STOP"


def test_without_tools_an_answer_is_text_whatever_it_looks_like(world: World) -> None:
    world.generator.words = (CALL,)
    assert ask(world, tools=[]).json()["candidates"][0]["content"]["parts"] == [{"text": CALL}]
    answer = ask(world, toolConfig=calling(mode="NONE"))
    assert answer.json()["candidates"][0]["content"]["parts"] == [{"text": CALL}]
    assert world.generator.requests[-1].prompt.tools == ""


def test_earlier_calls_and_responses_are_part_of_the_prompt(world: World) -> None:
    assert ask(world, contents=ANSWERED).status_code == 200
    assert [content.parts for content in world.generator.requests[0].prompt.contents] == [
        (Text("Rain?"),),
        (FunctionCall("weather", '{"city":"Bern"}'),),
        (FunctionResponse("weather", '{"rain":null}'),),
    ]


def test_an_answer_that_must_be_a_call_is_held_to_the_schemas_of_the_allowed_functions(world: World) -> None:
    world.generator.words = ('{"name": "weather", ', '"arguments": {"city": "Bern", "day": null}}')
    answer = ask(world, toolConfig=calling(mode="ANY", allowedFunctionNames=["weather"]))
    assert answer.json()["candidates"][0]["content"]["parts"] == [PART]
    (request,) = world.generator.requests
    assert request.prompt.must_call and request.sampling.form is not None
    (schema,) = json.loads(request.sampling.form.schema)["anyOf"]
    assert schema["properties"]["name"] == {"const": "weather"}
    assert schema["properties"]["arguments"]["properties"] == {"city": {"type": "string"}}
    ask(world, toolConfig=calling(mode=2))
    form = world.generator.requests[-1].sampling.form
    assert form is not None and len(json.loads(form.schema)["anyOf"]) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [{"codeExecution": {}}]}, "tools[0].codeExecution"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}]},
            "tools[0].functionDeclarations[0].behavior",
        ),
        ({"tools": [{"functionDeclarations": [{"name": "1f"}]}]}, "tools[0].functionDeclarations[0].name"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]}, "tools"),
        ({"toolConfig": calling(mode="VALIDATED")}, "toolConfig.functionCallingConfig.mode"),
        ({"toolConfig": calling(mode="ANY"), "tools": []}, "toolConfig.functionCallingConfig.mode"),
        (
            {"toolConfig": calling(allowedFunctionNames=["time"])},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        (
            {"toolConfig": calling(mode="ANY", allowedFunctionNames=["tide"])},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        ({"toolConfig": {"retrievalConfig": {}}}, "toolConfig.retrievalConfig"),
        ({"generationConfig": {"responseMimeType": "application/json"}}, "generationConfig.responseMimeType"),
        ({"contents": ANSWERED[2:]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"functionCall": {"name": "time"}}]}]}, "contents[0].parts[0]"),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "parts": [{}]}}]}]},
            "contents[0].parts[0].functionResponse.parts",
        ),
        ({"contents": [{"parts": [{"functionCall": {"args": {}}}]}]}, "contents[0].parts[0].functionCall.name"),
    ],
)
def test_what_of_function_calling_cannot_be_honoured_is_named(world: World, body: dict[str, Any], field: str) -> None:
    answer = ask(world, **body)
    assert answer.status_code == 400
    assert fields_of(answer) == [field]
    assert world.generator.requests == []


def test_unlike_definitions_of_one_name_are_refused(world: World) -> None:
    def declared(name: str, kind: str) -> dict[str, Any]:
        defs = {"$defs": {"D": {"type": kind}}, "type": "object", "properties": {"d": {"$ref": "#/$defs/D"}}}
        return {"name": name, "parametersJsonSchema": defs}

    body = {"toolConfig": calling(mode="ANY")}
    same = [{"functionDeclarations": [declared("a", "string"), declared("b", "string")]}]
    assert ask(world, tools=same, **body).status_code == 200
    unlike = [{"functionDeclarations": [declared("a", "string"), declared("b", "number")]}]
    assert fields_of(ask(world, tools=unlike, **body)) == ["toolConfig.functionCallingConfig"]


def test_the_profile_of_the_gemini_api_has_no_functions_on_tuned_models(world: World) -> None:
    world.active()
    for method in ("generateContent", "countTokens"):
        body: dict[str, Any] = {"contents": ASKED, "tools": TOOLS}
        if method == "countTokens":
            body = {"generateContentRequest": body}
        answer = world.call("POST", f"/v1beta/tunedModels/numbers:{method}", json=body)
        assert answer.status_code == 400
        assert error_of(answer)["message"] == "Function calling is not enabled for tunedModels/numbers"
    refused = ask(world, "tunedModels/numbers", tools=[], contents=ANSWERED)
    assert fields_of(refused) == ["contents[1].parts[0]", "contents[2].parts[0]"]


def test_in_the_open_profile_tuned_models_call_functions(tmp_path: Path, sqlite_database: Database) -> None:
    world = World(tmp_path, sqlite_database, limits=OPEN)
    world.active()
    world.generator.words = (CALL,)
    assert ask(world, "tunedModels/numbers").json()["candidates"][0]["content"]["parts"] == [PART]


def test_counting_counts_functions(world: World) -> None:
    body = {"generateContentRequest": {"contents": ANSWERED, "tools": TOOLS}}
    assert world.call("POST", f"/v1beta/{BASE}:countTokens", json=body).status_code == 200


@pytest.fixture
def client(world: World) -> Iterator[genai.Client]:
    with (
        listening(world) as url,
        genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url)) as made,
    ):
        yield made


def weather(city: str) -> dict[str, str]:
    """Weather of a city.

    Args:
        city: its name

    """
    return {"city": city, "sky": "blue"}


def test_the_sdk_reads_calls_and_sends_responses(world: World, client: genai.Client) -> None:
    world.generator.words = (CALL,)
    off = types.AutomaticFunctionCallingConfig(disable=True)
    config = types.GenerateContentConfig(tools=[weather], automatic_function_calling=off)
    answer = client.models.generate_content(model=BASE, contents="Rain in Bern?", config=config)
    assert answer.function_calls is not None
    (call,) = answer.function_calls
    assert (call.name, call.args) == ("weather", {"city": "Bern", "day": None})
    assert answer.candidates is not None and answer.candidates[0].content is not None
    (declared,) = parse_declarations(world.generator.requests[0].prompt.tools)
    assert (declared.name, declared.parameters["properties"]["city"]["type"]) == ("weather", "string")
    response = types.Part.from_function_response(name="weather", response={"sky": "blue"})
    turns: list[types.ContentUnion] = [
        types.UserContent("Rain in Bern?"),
        answer.candidates[0].content,
        types.UserContent(response),
    ]
    world.generator.words = ("No.",)
    assert client.models.generate_content(model=BASE, contents=turns, config=config).text == "No."


def test_the_sdk_calls_functions_by_itself(world: World, client: genai.Client) -> None:
    """The model calls once; the SDK runs the function and asks again with what it gave."""
    replies = iter([('<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>',), ("Blue.",)])
    world.generator.words = next(replies)

    def next_reply() -> None:
        world.generator.words = next(replies, ("Blue.",))

    world.generator.between = next_reply
    answer = client.models.generate_content(
        model=BASE, contents="Sky over Bern?", config=types.GenerateContentConfig(tools=[weather])
    )
    assert answer.text == "Blue."
    assert world.generator.requests[1].prompt.contents[-1].parts == (
        FunctionResponse("weather", '{"result":{"city":"Bern","sky":"blue"}}'),
    )


def test_over_grpc_functions_are_declared_called_and_answered(world: World) -> None:
    world.generator.words = (CALL,)
    city = glm.Schema(type_=glm.Type.STRING)
    parameters = glm.Schema(type_=glm.Type.OBJECT, properties={"city": city}, required=["city"])
    declared = glm.FunctionDeclaration(name="weather", description="Weather of a city.", parameters=parameters)
    contents = [glm.Content(role="user", parts=[glm.Part(text="Rain?")])]
    request = glm.GenerateContentRequest(
        model=BASE, contents=contents, tools=[glm.Tool(function_declarations=[declared])]
    )
    with speaking(world) as rpc:
        answer = rpc.generation.generate_content(request)
        (part,) = answer.candidates[0].content.parts
        assert (part.function_call.name, dict(part.function_call.args)["city"]) == ("weather", "Bern")
        response = glm.FunctionResponse(name="weather", response={"rain": True})
        given = glm.Content(role="function", parts=[glm.Part(function_response=response)])
        request.contents.extend([answer.candidates[0].content, given])
        rpc.generation.generate_content(request)
    (tool,) = parse_declarations(world.generator.requests[0].prompt.tools)
    assert tool.parameters == {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert world.generator.requests[1].prompt.contents[-1].parts == (FunctionResponse("weather", '{"rain":true}'),)

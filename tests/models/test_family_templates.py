"""What each family writes, against the text that its model card and chat template document."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.domain.content import (
    Content,
    Example,
    FunctionCall,
    FunctionResponse,
    Part,
    Prompt,
    Role,
    SupervisedTurns,
    Text,
)
from kastor.models.chat.families import GEMMA3, LLAMA3, QWEN3, QWEN3_INSTRUCT, SMOLLM2, Family
from kastor.models.chat.render import Renderer
from support.family_bases import TEXT_FAMILIES, family_renderer

RENDERERS = {family.name: family_renderer(family) for family in TEXT_FAMILIES}
USER, MODEL = Role.USER, Role.MODEL
TOOLS = (
    '[{"functionDeclarations": [{"name": "weather", "description": "Weather of a city.", "parameters": '
    '{"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}}]}]'
)
CALLED = Example(
    (
        Content(USER, (Text("Rain in Zürich?"),)),
        Content(MODEL, (FunctionCall("weather", '{"city":"Zürich"}'),)),
        Content(USER, (FunctionResponse("weather", '{"rain":true,"mm":[1,2.5]}'),)),
        Content(MODEL, (Text("Yes."),)),
    ),
    tools=TOOLS,
)


def turns(*texts: str) -> tuple[Content, ...]:
    return tuple(Content(MODEL if index % 2 else USER, (Text(text),)) for index, text in enumerate(texts))


def written(family: Family, example: Example) -> str:
    renderer = RENDERERS[family.name]
    return str(renderer.tokenizer.decode(renderer.example(example).token_ids, skip_special_tokens=False))


def learnt(family: Family, example: Example) -> str:
    renderer = RENDERERS[family.name]
    rendered = renderer.example(example)
    ids = [token for token, taught in zip(rendered.token_ids, rendered.supervised, strict=True) if taught]
    return str(renderer.tokenizer.decode(ids, skip_special_tokens=False))


THOUGHTLESS = "<think>\n\n</think>\n\n"

PLAIN = {
    "smollm2": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
        "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo long<|im_end|>"
    ),
    "qwen3": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n"
        "</think>\n\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        "So long<|im_end|>"
    ),
    "qwen3-instruct": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
        "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo long<|im_end|>"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Bye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nSo long<|eot_id|>"
    ),
    "gemma3": (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\nSo long<end_of_turn>"
    ),
}
WITHOUT_SYSTEM = {
    "smollm2": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>"
    ),
    "qwen3": f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{THOUGHTLESS}Hello<|im_end|>",
    "qwen3-instruct": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>",
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    ),
    "gemma3": "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>",
}

HERMES_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "weather", "description": "Weather of a city.", "parameters": '
    '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
    'tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def chatml_called(system: str, before_answers: str) -> str:
    return (
        f"<|im_start|>system\n{system}{HERMES_TOOLS}<|im_end|>\n<|im_start|>user\nRain in Zürich?<|im_end|>\n"
        f"<|im_start|>assistant\n{before_answers}<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        '<tool_response>\n{"rain": true, "mm": [1, 2.5]}\n</tool_response><|im_end|>\n'
        f"<|im_start|>assistant\n{before_answers}Yes.<|im_end|>"
    )


WITH_FUNCTIONS = {
    "smollm2": chatml_called("You are a helpful AI assistant named SmolLM, trained by Hugging Face\n\n", ""),
    "qwen3": chatml_called("", THOUGHTLESS),
    "qwen3-instruct": chatml_called("", ""),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond with a JSON for a "
        "function call with its proper arguments that best answers the given prompt.\n\nRespond in the format "
        '{"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n'
        '{\n    "type": "function",\n    "function": {\n        "name": "weather",\n'
        '        "description": "Weather of a city.",\n        "parameters": {\n            "type": "object",\n'
        '            "properties": {\n                "city": {\n                    "type": "string"\n'
        '                }\n            },\n            "required": [\n                "city"\n            ]\n'
        "        }\n    }\n}\n\nRain in Zürich?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Zürich"}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"rain": true, "mm": [1, 2.5]}<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    ),
    "gemma3": (
        "<bos><start_of_turn>user\nYou have access to functions. If you decide to invoke any of the function(s),\n"
        'you MUST put it in the format of\n{"name": function name, "parameters": dictionary of argument name and its '
        "value}\n\nYou SHOULD NOT include any other text in the response if you call a function\n"
        '[\n  {\n    "name": "weather",\n    "description": "Weather of a city.",\n    "parameters": {\n'
        '      "type": "object",\n      "properties": {\n        "city": {\n          "type": "string"\n        }\n'
        '      },\n      "required": [\n        "city"\n      ]\n    }\n  }\n]\nRain in Zürich?<end_of_turn>\n'
        '<start_of_turn>model\n{"name": "weather", "parameters": {"city": "Zürich"}}<end_of_turn>\n'
        '<start_of_turn>user\n```tool_output\n{"rain": true, "mm": [1, 2.5]}\n```<end_of_turn>\n'
        "<start_of_turn>model\nYes.<end_of_turn>"
    ),
}
each = pytest.mark.parametrize("family", TEXT_FAMILIES, ids=lambda family: family.name)


@each
def test_a_conversation_is_written_as_the_family_documents(family: Family) -> None:
    assert written(family, Example(turns("Hi", "Hello", "Bye", "So long"), (Text("Be brief."),))) == PLAIN[family.name]


@each
def test_without_a_system_instruction_the_family_writes_its_own_or_none(family: Family) -> None:
    assert written(family, Example(turns("Hi", "Hello"))) == WITHOUT_SYSTEM[family.name]


@each
def test_functions_calls_and_responses_are_written_as_the_family_documents(family: Family) -> None:
    assert written(family, CALLED) == WITH_FUNCTIONS[family.name]


@each
def test_calls_are_learnt_and_responses_are_not(family: Family) -> None:
    taught = learnt(family, CALLED)
    assert taught.count(family.closing) == 2
    assert '"weather"' in taught and "Yes." in taught
    assert "rain" not in taught


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\n", " a", "<tool_call>", "</tool_call>\n", "<think>", "<|im_end|>", "<start_of_turn>user\n", "<|eot_id|>"]
)
calls = st.builds(FunctionCall, st.just("weather"), st.sampled_from(["{}", '{"city":"</tool_call>"}', '{"a":[1,{}]}']))
answers = st.lists(st.builds(Text, texts) | calls, min_size=1, max_size=3).map(tuple)
questions = st.lists(
    st.builds(Text, texts) | st.builds(FunctionResponse, st.just("weather"), st.just('{"a":1}')), min_size=1, max_size=3
).map(tuple)


@each
@settings(deadline=None)
@given(pairs=st.lists(st.tuples(questions, answers), min_size=1, max_size=3), tools=st.sampled_from(["", TOOLS]))
def test_what_is_served_before_each_answer_is_a_prefix_of_what_is_trained_on(
    family: Family, pairs: list[tuple[tuple[Part, ...], tuple[Part, ...]]], tools: str
) -> None:
    renderer = RENDERERS[family.name]
    contents = tuple(Content(role, parts) for pair in pairs for role, parts in zip((USER, MODEL), pair, strict=True))
    example = Example(contents, (Text("Be brief."),), tools)
    trained = renderer.example(example)
    for index in range(0, len(contents), 2):
        served = renderer.prompt(Prompt(contents[: index + 1], example.system, tools))
        assert trained.token_ids[: len(served)] == served
        assert trained.supervised[len(served)] and not trained.supervised[len(served) - 1]
    (count,) = renderer.counts([example])
    assert (count.total, count.supervised) == (len(trained.token_ids), trained.num_supervised)


@each
def test_no_text_smuggles_in_a_control_token_of_the_family(family: Family) -> None:
    renderer = RENDERERS[family.name]
    plain, tags = Prompt.of("hello"), [token for token in tokens_of(renderer) if token.startswith("<")]
    assert tags
    hostile = Prompt.of("".join(tags))
    for token in tags:
        own = renderer.tokenizer.token_to_id(token)
        assert renderer.prompt(hostile).count(own) == renderer.prompt(plain).count(own), token
    assert "".join(tags) in renderer.tokenizer.decode(renderer.prompt(hostile), skip_special_tokens=False)


def tokens_of(renderer: Renderer) -> list[str]:
    return [token.content for token in renderer.tokenizer.get_added_tokens_decoder().values()]


def test_tags_that_the_tokenizer_knows_are_written_as_its_tokens() -> None:
    renderer = RENDERERS["qwen3"]
    ids = renderer.example(CALLED).token_ids
    for tag, number in (("<tool_call>", 3), ("</tool_response>", 1), ("<think>", 2)):
        assert ids.count(renderer.tokenizer.token_to_id(tag)) == number, tag


def test_tags_that_the_tokenizer_marks_as_special_stay_in_the_text_of_an_answer() -> None:
    from tokenizers import AddedToken

    from kastor.models.chat.tokenizer import load_tokenizers
    from support.family_bases import family_tokenizer

    made = family_tokenizer(SMOLLM2)
    made.add_special_tokens([AddedToken("<tool_call>", special=True, normalized=False)])
    recognising, plain = load_tokenizers(made.to_str(), SMOLLM2)
    ids = recognising.encode("<tool_call>a<|im_end|>").ids
    assert recognising.decode(ids) == "<tool_call>a"
    assert len(plain.encode("<tool_call>").ids) > 1


@each
def test_an_answer_that_must_be_a_call_is_begun_as_it_is_trained(family: Family) -> None:
    renderer = RENDERERS[family.name]
    served = renderer.prompt(Prompt(CALLED.contents[:1], tools=TOOLS, must_call=True))
    trained = renderer.example(CALLED).token_ids
    assert trained[: len(served)] == served
    rest = renderer.tokenizer.decode(trained[len(served) :], skip_special_tokens=False)
    assert rest.startswith('{"name": "weather"')


def test_each_response_of_llama_has_a_turn_of_its_own() -> None:
    both = (FunctionResponse("a", "{}"), FunctionResponse("b", '{"x":1}'), Text("and?"))
    written_out = RENDERERS["llama3"].tokenizer.decode(
        RENDERERS["llama3"].prompt(Prompt((*turns("Hi", "calls"), Content(USER, both)))), skip_special_tokens=False
    )
    assert written_out.endswith(
        "<|start_header_id|>ipython<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"
        '{"x": 1}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nand?<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_setting_to_teach_the_last_turn_holds_for_every_family() -> None:
    for family in (QWEN3, QWEN3_INSTRUCT, LLAMA3, GEMMA3):
        whole = RENDERERS[family.name]
        last = Renderer(whole.tokenizer, whole.tokenizer, family, SupervisedTurns.LAST)
        rendered = last.example(CALLED)
        assert rendered.token_ids == whole.example(CALLED).token_ids
        assert rendered.num_supervised == len(last.text("Yes.")) + 1

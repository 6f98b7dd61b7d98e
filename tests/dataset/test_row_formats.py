"""Rows in the forms of other services and of public datasets become examples, or are refused by name."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.formats.issues import FileFacts, Issue, ParsedRow
from kastor.dataset.formats.parse import decode_example
from kastor.dataset.formats.read import read_examples, read_rows
from kastor.dataset.formats.row_formats import Keys, parse_formatted_row
from kastor.dataset.validation.rule_table import RULES
from kastor.domain.content import Content, Example, FunctionCall, FunctionResponse, Media, Role, SupervisedTurns, Text
from kastor.domain.errors import InvalidArgument
from kastor.domain.tools import parse_declarations

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


def jsonl(folder: Path, *values: Any) -> Path:  # any JSON value
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), "utf-8")
    return file


def read(folder: Path, value: Any) -> tuple[ParsedRow, str]:  # any JSON value
    """The one row, and how the file was read."""
    facts = FileFacts()
    (row,) = read_rows(jsonl(folder, value), facts=facts)
    assert isinstance(row, ParsedRow), row
    assert decode_example(encode_example(row.example)) == row.example
    return row, facts.sentence


def refused(folder: Path, value: Any) -> Issue:  # any JSON value
    (first, issue) = read_rows(jsonl(folder, ["1", "2"], value))
    assert isinstance(issue, Issue), issue
    return issue


def notes(row: ParsedRow) -> list[str]:
    return [f"{note.rule}: {note.message}" for note in row.notes]


def user(text: str) -> Content:
    return Content(Role.USER, (Text(text),))


def model(text: str, weight: int = 1) -> Content:
    return Content(Role.MODEL, (Text(text),), weight)


@pytest.mark.parametrize(
    ("value", "prompt", "read_as"),
    [
        (
            {"instruction": "Translate to French.", "input": "dog", "output": "chien"},
            "Translate to French.\n\ndog",
            "Alpaca (instruction, input, output)",
        ),
        ({"instruction": "Name a dog.", "input": "", "output": "chien"}, "Name a dog.", "Alpaca (instruction, input"),
        ({"instruction": "Name a dog.", "input": " \n", "output": "chien"}, "Name a dog.", "Alpaca"),
        (
            {"instruction": "Name a dog.", "input": None, "output": "chien"},
            "Name a dog.",
            "Alpaca (instruction, output)",
        ),
        ({"instruction": "Name a dog.", "output": "chien"}, "Name a dog.", "Alpaca (instruction, output)"),
        (
            {"instruction": "Which animal?", "context": "A dog barks.", "response": "chien"},
            "Which animal?\n\nA dog barks.",
            "Dolly (instruction, context, response)",
        ),
        ({"prompt": "dog", "completion": "chien"}, "dog", "pairs (prompt, completion)"),
        ({"Question": "dog", " Answer ": "chien"}, "dog", "pairs (Question,  Answer )"),
        ({"input": "dog", "output": "chien"}, "dog", "pairs (input, output)"),
        ({"query": "dog", "response": "chien"}, "dog", "pairs (query, response)"),
        ({"input_text": "dog", "output_text": "chien"}, "dog", "pairs (input_text, output_text)"),
        ({"text_input": "dog", "output": "chien"}, "dog", ""),
        ({"textInput": "dog", "output": "chien"}, "dog", ""),
    ],
)
def test_pairs_of_every_name_are_read_and_named(tmp_path: Path, value: object, prompt: str, read_as: str) -> None:
    row, said = read(tmp_path, value)
    assert row.example == Example.pair(prompt, "chien")
    assert said.startswith(read_as)
    assert bool(said) == bool(read_as)
    assert row.notes == ()


def test_a_field_of_a_pair_that_plays_no_part_is_noted(tmp_path: Path) -> None:
    row, _ = read(tmp_path, {"instruction": "a", "context": "", "response": "b", "category": "open_qa", "id": 7})
    assert notes(row) == ["unknown_field: category, id: not used in tuning"]
    row, _ = read(tmp_path, {"text_input": "a", "output": "b", "source": "x", "comment": None})
    assert notes(row) == ["unknown_field: source: not used in tuning"]


def test_a_system_text_and_earlier_turns_of_alpaca_are_read(tmp_path: Path) -> None:
    value = {"instruction": "c", "input": "", "output": "d", "system": "Be kind.", "history": [["a", "b"]]}
    row, _ = read(tmp_path, value)
    assert row.example == Example((user("a"), model("b"), user("c"), model("d")), (Text("Be kind."),))
    row, _ = read(tmp_path, {"system_prompt": "Be kind.", "question": "c", "response": "d"})
    assert row.example == Example((user("c"), model("d")), (Text("Be kind."),))


@pytest.mark.parametrize(
    ("value", "rule", "said"),
    [
        ({"text_input": "a", "textInput": "b", "output": "c"}, "duplicate_key", "one field in two spellings"),
        ({"Output": "a", "text_input": "b", "output": "c"}, "duplicate_key", "'Output' and 'output'"),
        ({"prompt": "a", "input": "b", "output": "c"}, "ambiguous", "'prompt' and 'input', several inputs"),
        ({"question": "a", "answer": "b", "solution": "c"}, "ambiguous", "'answer' and 'solution', several outputs"),
        ({"instruction": "a", "input": "b", "context": "c", "output": "d"}, "ambiguous", "'input' and 'context'"),
        ({"instruction": "a", "text_input": "b", "output": "d"}, "ambiguous", "'instruction' beside 'text_input'"),
        ({"question": "a", "context": "b", "answer": "c"}, "ambiguous", "their order in the prompt is not known"),
        ({"prompt": "a", "completion": "b", "label": False}, "preference_row", "preference tuning"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference_row", "'chosen'"),
        ({"text": "### Human: a ### Assistant: b"}, "text_alone", "does not tell the prompt"),
        ({"question": 1, "answer": "b"}, "type", "question: a number, expected text"),
        ({"history": ["a"], "instruction": "b", "output": "c"}, "type", "history[0]: expected a pair of texts"),
        (
            {"contents": [{"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}], "messages": []},
            "ambiguous",
            "'contents' beside 'messages'",
        ),
        (
            {
                "contents": [{"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
                "text_input": "a",
                "output": "b",
            },
            "ambiguous",
            "'contents' beside 'output' and 'text_input'",
        ),
        (
            {
                "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "conversations": [1],
            },
            "ambiguous",
            "'messages' beside 'conversations'",
        ),
        (
            {
                "contents": [{"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
                "systemInstruction": "a",
                "system_instruction": "b",
            },
            "duplicate_key",
            "one field in two spellings",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_or_not_at_all_is_refused_by_name(
    tmp_path: Path, value: object, rule: str, said: str
) -> None:
    issue = refused(tmp_path, value)
    assert issue.rule == rule
    assert said in str(issue)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"text_input": "a", "output": "b", "output": "c"}', "output"),
        ('{"text_input": "a: b", "output" : "b", "output"\t: "c:"}', "output"),
        ('{"contents": [{"role": "user", "parts": [{"text": "a", "text": "z"}]}, '
         '{"role": "model", "parts": [{"text": "b"}]}]}', "text"),
        ('{"contents":[],"contents":[{"role":"user","parts":[{"text":"a: \\" b"}]},'
         '{"role":"model","parts":[{"text":"b"}]}]}', "contents"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "content": "c"}]}',
         "content"),
        ("{text_input: 'a', output: 'b', output: 'c'}", "output"),
        ("{'text_input': 'a', \"output\": 'b', 'output': 'c'}", "output"),
        ('{"text_input": "a", "output": "b", "outp\\u0075t": "c",}', "output"),
        ('{"text_input":"a\\u003a","output":"b","output":"c"}', "output"),
        ('{"contents":[{"role":"user","parts":[{"text":"a"}]},{"role":"model","parts":[{"text":0,"text":"b\\u003a"}]}]}',
         "text"),
        ('{"contents": [{"role": "user", "parts": [{"text": "a: b"}]}, '
         '{"role":"model","parts":[{"text":0,"text":"b"}]}]}', "text"),
        ('{"systemInstruction":{"parts":[]},"systemInstruction":{"parts":[{"text":"s: s"}]},"contents":[{"role":"user",'
         '"parts":[{"text":"a"}]},{"role":"model","parts":[{"text":"b"}]}]}', "systemInstruction"),
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused_by_name(tmp_path: Path, line: str, key: str) -> None:
    (tmp_path / "d.jsonl").write_text(line + "\n")
    (issue,) = read_rows(tmp_path / "d.jsonl")
    assert isinstance(issue, Issue)
    assert (issue.rule, issue.message) == ("duplicate_key", f"the key '{key}' occurs more than once in one object")


@pytest.mark.parametrize("depth", [129, 300, 1000])
@pytest.mark.parametrize(
    "line",
    [
        "{nested}",
        '{{"contents": {nested}}}',
        '{{"text_input": "a", "output": "b", "tools": {nested}}}',
        '{{"messages": [{{"role": "user", "content": "a"}}], "tools": {nested}}}',
    ],
)
def test_what_is_nested_too_deeply_is_one_issue(tmp_path: Path, line: str, depth: int) -> None:
    text = line.format(nested="[" * depth + "]" * depth)
    (tmp_path / "d.jsonl").write_text('["a", "b"]\n' + text + "\n")
    _, issue = read_rows(tmp_path / "d.jsonl")
    assert isinstance(issue, Issue)
    assert "Nested too deeply: at most 128" in issue.message


def test_colons_in_texts_and_escapes_are_no_keys(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "parts": [{"text": 'a: "b": c'}]},
        {"role": "model", "parts": [{"text": "d\\"}]},
    ]
    line = json.dumps({"contents": turns}).replace("a:", "a\\u003a")
    (tmp_path / "d.jsonl").write_text(line + "\n" + json.dumps({"contents": turns}) + "\n")
    first, second = read_examples(tmp_path / "d.jsonl")
    assert first == second == Example((user('a: "b": c'), model("d\\")))


# ---- OpenAI chat


def test_openai_chat_is_read_with_its_system_message_and_weights(tmp_path: Path) -> None:
    value = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "a", "name": "Ann"},
            {"role": "assistant", "content": "b", "weight": 0},
            {"role": "user", "content": [{"type": "text", "text": "c"}]},
            {"role": "assistant", "content": "d", "weight": 1, "refusal": None},
        ]
    }
    row, said = read(tmp_path, value)
    assert said == "OpenAI chat"
    assert row.example == Example((user("a"), model("b", 0), user("c"), model("d")), (Text("Be kind."),))
    assert row.example.supervised_turns(SupervisedTurns.ALL) == (3,)
    assert notes(row) == ["unknown_field: messages[].name: not used in tuning"]


def test_tools_calls_and_results_of_openai_become_googles(tmp_path: Path) -> None:
    value = {
        "messages": [
            {"role": "user", "content": "Rain in Bern and in Paris?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [CALL, CALL | {"id": "call_2"}],
            },
            {"role": "tool", "tool_call_id": "call_2", "content": "no"},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"rain": true}'},
            {"role": "assistant", "content": "In one of them."},
        ],
        "tools": [WEATHER],
        "parallel_tool_calls": False,
    }
    row, _ = read(tmp_path, value)
    call = FunctionCall("weather", '{"city":"Bern"}')
    responses = FunctionResponse("weather", '{"output":"no"}'), FunctionResponse("weather", '{"rain":true}')
    _, calls, answered, _ = row.example.contents
    assert calls == Content(Role.MODEL, (call, call))
    assert answered == Content(Role.USER, responses)
    (declared,) = parse_declarations(row.example.tools)
    assert (declared.name, declared.parameters["required"]) == ("weather", ["city"])
    assert notes(row) == ["unknown_field: parallel_tool_calls: not used in tuning"]


def test_the_older_functions_of_openai_are_read(tmp_path: Path) -> None:
    value = {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "[1]"},
            {"role": "assistant", "content": "Yes."},
        ],
        "functions": [WEATHER["function"]],
    }
    row, _ = read(tmp_path, value)
    assert row.example.contents[1].parts == (FunctionCall("weather", "{}"),)
    assert row.example.contents[2].parts == (FunctionResponse("weather", '{"output":"[1]"}'),)
    assert len(parse_declarations(row.example.tools)) == 1


def test_images_of_openai_chat_become_media(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png?size=1", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,aGk="}},
        {"type": "image", "image": "shots/7"},
        {"type": "video", "video": "films/a.webm"},
    ]
    row, _ = read(
        tmp_path, {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cat."}]}
    )
    assert row.example.contents[0].parts == (
        Text("What is it?"),
        Media("image/png", "https://example.com/cat.png?size=1"),
        Media("image/webp", data=b"hi"),
        Media("image/jpeg", "shots/7"),
        Media("video/webm", "films/a.webm"),
    )


def test_messages_of_the_user_in_succession_are_one_turn(tmp_path: Path) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    messages = [
        {"role": "user", "content": ""},
        {"role": "user", "content": "Describe this artwork."},
        {"role": "user", "content": "In a word."},
        {"role": "user", "content": picture},
        {"role": "assistant", "content": "Cubist."},
    ]
    row, _ = read(tmp_path, {"messages": messages})
    assert [content.parts for content in row.example.contents] == [
        (Text("Describe this artwork.\n\nIn a word."), Media("image/png", "https://example.com/a.png")),
        (Text("Cubist."),),
    ]


def test_a_text_between_a_call_and_its_result_is_what_is_refused(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "price", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "The price?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "content": "Let me look."},
        {"role": "tool", "tool_call_id": "call_1", "content": "412"},
        {"role": "assistant", "content": "412."},
    ]
    issue = refused(tmp_path, {"messages": messages})
    assert (issue.path, issue.rule) == ("messages[2].role", "turn_order")


@pytest.mark.parametrize(
    "value",
    [
        {"text_input": ["1", "3"], "output": ["2", "4"]},
        {"text_input": {"0": "1", "1": "3"}, "output": {"0": "2", "1": "4"}},
        {"prompt": ["1", "3"], "completion": ["2", "4"]},
    ],
)
def test_columns_in_the_place_of_texts_are_told_how_to_become_rows(tmp_path: Path, value: object) -> None:
    assert "write one row per text" in refused(tmp_path, value).hint


@pytest.mark.parametrize(("value", "hint"), [(5, 'put it in quotes, as "1"'), (None, "")])
def test_only_a_number_is_told_to_stand_in_quotes(tmp_path: Path, value: object, hint: str) -> None:
    assert refused(tmp_path, {"text_input": "a", "output": value}).hint == hint


@pytest.mark.parametrize(
    ("messages", "rule", "said"),
    [
        ([("user", "a")], "last_turn", "the last turn must be the model's"),
        ([("assistant", "a")], "first_turn", "a user turn must come before"),
        ([("system", "a")], "first_turn", "a user message must come before"),
        (
            [("user", "a"), ("assistant", "b"), ("assistant", "c")],
            "turn_order",
            "messages[2].role: follows another model turn: turns alternate (merge both messages into one)",
        ),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "role", "after the first turn"),
        ([("user", "a"), ("narrator", "c")], "role", "messages[1].role: 'narrator', expected one of"),
        ([("user", "a"), ("tool", "c"), ("assistant", "b")], "response_without_call", "answers no earlier call"),
        ([("user", [{"type": "input_audio"}]), ("assistant", "b")], "part_kind", "'input_audio' is not supported"),
        ([("user", [{"type": "image"}]), ("assistant", "b")], "media_address", "has no image address"),
        ([("user", 1), ("assistant", "b")], "type", "messages[0].content: a number"),
    ],
)
def test_a_message_that_cannot_be_read_is_named(tmp_path: Path, messages: Any, rule: str, said: str) -> None:
    issue = refused(tmp_path, {"messages": [{"role": role, "content": content} for role, content in messages]})
    assert issue.rule == rule
    assert said in str(issue)


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ({"role": "assistant", "content": "b", "weight": 2}, "turn_weight"),
        ({"role": "assistant", "content": None, "refusal": "No."}, "message_field"),
        ({"role": "assistant", "content": None, "audio": {"id": "x"}}, "message_field"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{bad"}}]}, "type"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "type"),
        ({"role": "assistant", "tool_calls": ["f"]}, "type"),
    ],
)
def test_a_field_of_a_message_that_cannot_be_read_is_named(tmp_path: Path, message: object, rule: str) -> None:
    issue = refused(tmp_path, {"messages": [{"role": "user", "content": "a"}, message]})
    assert (issue.rule, issue.path[:11]) == (rule, "messages[1]")


def test_a_weight_on_the_users_message_is_refused(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]
    assert refused(tmp_path, {"messages": messages}).rule == "turn_weight"


def test_a_weight_of_0_on_another_message_says_what_is_so(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "s", "weight": 0}, {"role": "user", "content": "a", "weight": 0}]
    row, _ = read(tmp_path, {"messages": [*said, {"role": "assistant", "content": "b", "weight": 1}]})
    assert [content.weight for content in row.example.contents] == [1, 1]
    assert not row.notes


@pytest.mark.parametrize("name", ["train", "training"])
def test_axolotls_names_for_a_weight_are_obeyed(tmp_path: Path, name: str) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", name: False},
        {"role": "user", "content": "c", name: False},
        {"role": "assistant", "content": "d", name: True},
    ]
    row, _ = read(tmp_path, {"messages": turns})
    assert [content.weight for content in row.example.contents] == [1, 0, 1, 1]


def test_fields_of_other_names_are_told_how_they_are_given_and_null_is_named(tmp_path: Path) -> None:
    assert "--input-key and --output-key" in refused(tmp_path, {"inputs": "a", "targets": "b"}).hint
    issue = refused(tmp_path, {"prompt": "a", "completion": None})
    assert (issue.path, issue.message) == ("completion", "null, expected text")


# ---- ShareGPT and others like it


def test_sharegpt_is_read_with_its_functions(tmp_path: Path) -> None:
    value = {
        "id": "x_0",
        "conversations": [
            {"from": "human", "value": "Rain in Bern?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
            {"from": "observation", "value": '{"rain": true}'},
            {"from": "gpt", "value": "Yes."},
        ],
        "system": "Be kind.",
        "tools": json.dumps([WEATHER["function"]]),
    }
    row, said = read(tmp_path, value)
    assert said == "ShareGPT"
    assert row.example.system == (Text("Be kind."),)
    assert row.example.contents == (
        user("Rain in Bern?"),
        Content(Role.MODEL, (FunctionCall("weather", '{"city":"Bern"}'),)),
        Content(Role.USER, (FunctionResponse("weather", '{"rain":true}'),)),
        model("Yes."),
    )
    assert notes(row) == ["unknown_field: id: not used in tuning"]


def test_a_system_turn_of_sharegpt_is_the_system_instruction(tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    row, _ = read(tmp_path, {"conversations": [{"from": name, "value": text} for name, text in turns]})
    assert row.example == Example((user("a"), model("b"), user("c"), model("d")), (Text("Be kind."),))


def test_pictures_beside_a_conversation_are_refused_by_name(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    issue = refused(tmp_path, {"image": "cat.jpg", "conversations": turns})
    assert (issue.path, issue.rule) == ("image", "media_beside")


def test_the_messages_of_chat_bison_and_of_the_first_gemini_are_read(tmp_path: Path) -> None:
    value = {"context": "Be kind.", "messages": [{"author": "user", "content": "a"}, {"author": "bot", "content": "b"}]}
    assert read(tmp_path, value)[0].example == Example((user("a"), model("b")), (Text("Be kind."),))
    value = {"messages": [{"role": "user", "content": "a"}, {"role": "model", "content": "b"}]}
    assert read(tmp_path, value)[0].example == Example((user("a"), model("b")))


def test_a_list_of_messages_alone_is_a_row(tmp_path: Path) -> None:
    row, said = read(tmp_path, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert row.example == Example.pair("a", "b")
    assert said == "OpenAI chat, messages alone"


def test_of_prompt_and_completion_as_messages_the_completion_is_learnt(tmp_path: Path) -> None:
    prompt = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    row, said = read(tmp_path, {"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]})
    assert row.example == Example((user("u"), model("a", 0), user("u"), model("d")))
    assert said == "OpenAI chat (prompt, completion)"


# ---- files as a whole


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference tuning do, which is not supported yet"),
        ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}, "preference tuning"),
        ({"text": "a"}, "'text' alone"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": False},
            "holds 'label', as rows for preference tuning",
        ),
    ],
)
def test_a_file_of_rows_that_cannot_be_tuned_on_is_refused_in_one_sentence(
    tmp_path: Path, value: object, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        list(read_rows(jsonl(tmp_path, *[value] * 9)))
    assert caught.value.message.count("\n") == 0


def test_keys_name_the_fields_that_are_meant(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"q": "a", "Long Answer": "b", "answer": "c", "instruction": "d"})
    (row,) = read_rows(file, input_key="q", output_key="long_answer")
    assert isinstance(row, ParsedRow)
    assert row.example == Example.pair("a", "b")
    assert notes(row) == ["unknown_field: answer, instruction: not used in tuning"]
    (issue,) = read_rows(file, input_key="question", output_key="answer")
    assert isinstance(issue, Issue)
    assert "has no field 'question', which --input-key names; it has 'q', 'Long Answer'" in str(issue)


KEYS = [
    *(
        "contents",
        "messages",
        "conversations",
        "role",
        "from",
        "content",
        "value",
        "parts",
        "text",
        "tools",
        "functions",
    ),
    *("instruction", "input", "output", "prompt", "completion", "history", "system", "weight", "tool_calls", "name"),
    *("function", "arguments", "type", "image_url", "url", "tool_call_id", "label", "function_call", "functions"),
]
WORDS = ["user", "assistant", "system", "tool", "human", "gpt", "model", "text", "image_url", "", " ", "{}", "[1]", "f"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(WORDS) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=14,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS), "content": anything},
        optional={"tool_calls": anything, "weight": anything, "tool_call_id": anything, "function_call": anything},
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing, on a busy machine
@given(
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=6)
    | st.fixed_dictionaries({"messages": messages | anything}, optional={"tools": anything, "system": anything}),
    st.sampled_from([(None, None), ("prompt", None), ("from", "value")]),
)
def test_any_object_is_a_row_that_jobs_keep_as_it_is_or_an_issue(value: Any, keys: Keys) -> None:
    found = parse_formatted_row(1, value, keys)
    if isinstance(found, ParsedRow):
        assert decode_example(encode_example(found.example)) == found.example
    else:
        assert found.rule in RULES


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | anything.map(lambda value: json.dumps(value, indent=1).encode()))
def test_no_file_brings_the_reader_down(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for name in ("d.jsonl", "d.csv"):
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes(data)
        with contextlib.suppress(InvalidArgument):
            list(read_rows(file))


def test_the_assistant_of_contents_is_the_model(tmp_path: Path) -> None:
    turns = [{"role": role, "parts": [{"text": role}]} for role in ("user", "assistant")]
    assert read(tmp_path, {"contents": turns})[0].example == Example.pair("user", "assistant")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([("human", "a"), ("gpt", "b"), ("gpt", "c")], "conversations[2].from: follows another"),
        ([("human", "a")], "conversations[0].from: the last turn"),
        ([("human", "a"), ("narrator", "c")], "conversations[1].from: 'narrator'"),
        ([("human", 1), ("gpt", "b")], "conversations[0].value: a number"),
    ],
)
def test_faults_of_messages_name_the_fields_as_the_row_does(tmp_path: Path, messages: Any, said: str) -> None:
    value = {"conversations": [{"from": role, "value": content} for role, content in messages]}
    assert said in str(refused(tmp_path, value))


def test_a_mark_for_a_medium_in_a_row_without_media_is_named(tmp_path: Path) -> None:
    value = {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]}
    (note,) = read(tmp_path, value)[0].notes
    assert note.rule == "media_placeholder" and "<image> in a text is learnt as text" in str(note)

"""What is read back from an answer: calls that are calls, and every character of what is none."""

import json
from collections.abc import Generator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.domain.content import FunctionCall, Text
from kastor.domain.generation import Chunk, FinishReason, TokenLogprob, TokenStep
from kastor.models.chat.tool_format import GEMMA_JSON, HERMES, LLAMA_JSON, ControlText, ToolFormat
from kastor.models.chat.tool_parser import parse_tool_calls

NAMES = ("f", "weather")


def chunks(pieces: Sequence[str], finish: FinishReason = FinishReason.STOP) -> Generator[Chunk, None, None]:
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        steps = (TokenStep(TokenLogprob(piece, place, -1.0)),)
        yield Chunk(piece, 5, place + 1, finish if last else None, steps=steps)


def heard(style: ToolFormat, pieces: Sequence[str], *, must_call: bool = False) -> list[str | FunctionCall]:
    """What is told, neighbouring texts joined."""
    found: list[str | FunctionCall] = []
    for chunk in parse_tool_calls(chunks(pieces), style, NAMES, must_call=must_call):
        if chunk.call is not None:
            found.append(chunk.call)
        elif found and isinstance(found[-1], str):
            found[-1] += chunk.text
        elif chunk.text:
            found.append(chunk.text)
    return found


def said(style: ToolFormat, parts: Sequence[Text | FunctionCall]) -> str:
    """An answer of these parts, as it is written for training."""
    written = ""
    for place, part in enumerate(parts):
        beside = place and (isinstance(part, FunctionCall) or isinstance(parts[place - 1], FunctionCall))
        written += style.between if beside else ""
        if isinstance(part, FunctionCall):
            written += "".join(one.text if isinstance(one, ControlText) else one for one in style.format_call(part))
        else:
            written += part.text
    return written


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {len(text)})
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


arguments = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers() | st.text(max_size=8) | st.just("</tool_call>"), max_size=3
).map(lambda held: json.dumps(held, ensure_ascii=False, separators=(",", ":")))
calls = st.builds(FunctionCall, st.sampled_from(NAMES), arguments)
words = st.text("ab \n<{", min_size=1, max_size=12)


@settings(deadline=None)
@given(
    parts=st.lists(st.builds(Text, words) | calls, max_size=5),
    places=st.lists(st.integers(0, 200), max_size=8),
)
def test_what_is_written_with_tags_is_read_back_however_it_is_cut(
    parts: list[Text | FunctionCall], places: list[int]
) -> None:
    merged: list[Text | FunctionCall] = []
    for part in parts:
        if isinstance(part, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + part.text)
        else:
            merged.append(part)
    expected = [part.text if isinstance(part, Text) else part for part in merged]
    assert heard(HERMES, cut(said(HERMES, merged), places)) == expected


@pytest.mark.parametrize("style", [LLAMA_JSON, GEMMA_JSON])
@settings(deadline=None)
@given(parts=st.lists(calls, min_size=1, max_size=3), places=st.lists(st.integers(0, 200), max_size=8))
def test_calls_without_tags_are_read_back_however_they_are_cut(
    style: ToolFormat, parts: list[FunctionCall], places: list[int]
) -> None:
    assert heard(style, cut(said(style, parts), places)) == parts


NO_CALLS = [
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',  # not declared
    '<tool_call>\n{"name": "f"}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": {}, "why": 1}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": {"a": 1, "a": 2}}\n</tool_call>',  # one of them would be lost
    '<tool_call>\n{"name": "f", "arguments": {"a": NaN}}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": {"a": 1e999}}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": {"a": "\\ud800"}}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": ' + '{"a":' * 2000 + "{}" + "}" * 2000 + "}\n</tool_call>",
    '<tool_call>\n{"name": "f", "arguments": {}}',  # cut
    "text\n<tool_call>\nand so on",
    "<tool_cal",
    "\n\n",
    "a <tool_call></tool_call> b",
]


@pytest.mark.parametrize("text", NO_CALLS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_is_no_call_stays_text_to_the_last_character(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert heard(HERMES, pieces) == [text]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "g", "parameters": {}}',
        '{"name": "f", "parameters": {}} and more',
        '{"answer": 42}',
        'I call {"name": "f", "parameters": {}}',
        '[{"name": "f", "parameters": {}}]',
        "{",
        " \n",
    ],
)
def test_json_that_is_no_call_stays_text(text: str) -> None:
    assert heard(LLAMA_JSON, list(text)) == [text]
    assert heard(GEMMA_JSON, [text]) == [text]


def test_a_call_after_a_spoilt_one_is_still_heard() -> None:
    spoilt, fine = "<tool_call>\nnone\n</tool_call>", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert heard(HERMES, [spoilt + "\n" + fine]) == [spoilt, FunctionCall("f", "{}")]


def test_text_is_told_at_once_and_a_call_in_one_piece() -> None:
    pieces = [
        "Let me ",
        "see.",
        "\n",
        "<tool",
        "_call>\n",
        '{"name": "f", ',
        '"arguments": {"a": 1}}\n</tool_',
        "call>",
    ]
    told = list(parse_tool_calls(chunks(pieces), HERMES, NAMES))
    assert [(chunk.text, chunk.call) for chunk in told] == [
        ("Let me ", None),
        ("see.", None),
        ("", FunctionCall("f", '{"a":1}')),
    ]
    assert told[-1].finish_reason is FinishReason.STOP
    assert [step.chosen.text for chunk in told for step in chunk.steps] == pieces


def test_an_answer_that_must_be_a_call_is_its_json_alone() -> None:
    assert heard(HERMES, ['{"name": "f",', ' "arguments": {}}'], must_call=True) == [FunctionCall("f", "{}")]
    assert heard(HERMES, ['{"name": "f", "arg'], must_call=True) == ['{"name": "f", "arg']


def test_candidates_are_heard_apart() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'

    def both() -> Generator[Chunk, None, None]:
        for place, pair in enumerate(zip(call, "x" * len(call), strict=True)):
            reason = FinishReason.STOP if place == len(call) - 1 else None
            for index, text in enumerate(pair):
                yield Chunk(text, 1, 1, reason, index)

    told = list(parse_tool_calls(both(), HERMES, NAMES))
    assert [chunk.call for chunk in told if chunk.index == 0] == [FunctionCall("f", "{}")]
    assert "".join(chunk.text for chunk in told if chunk.index == 1) == "x" * len(call)


def test_closing_what_is_heard_closes_what_is_said() -> None:
    closed = []

    def source() -> Generator[Chunk, None, None]:
        try:
            yield Chunk("a", 1, 1)
            yield Chunk("b", 1, 2)
        finally:
            closed.append(True)

    told = parse_tool_calls(source(), HERMES, NAMES)
    next(told)
    told.close()
    assert closed

"""Rows with functions: which are learnt from, and the rule that each other one breaks."""

from dataclasses import replace

import pytest

from kastor.dataset.formats.issues import ParsedRow
from kastor.dataset.validation.function_rules import tool_order_violations, tool_violations
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, InspectMedia, RowOutcome
from kastor.domain.content import (
    Content,
    Example,
    FunctionCall,
    FunctionResponse,
    Media,
    Part,
    Prompt,
    Role,
    SupervisedTurns,
)
from kastor.domain.content import Text as Words
from kastor.domain.dataset_limits import OPEN_DATASET
from kastor.domain.tools import ToolCallSupport
from kastor.domain.vision import VisionSpec
from kastor.models.chat.families import LLAMA3, NANO_VL, SMOLLM2

TOOLS = '[{"functionDeclarations":[{"name":"f"},{"name":"g"}]}]'
CALL, GIVEN = FunctionCall("f", "{}"), FunctionResponse("f", '{"a":1}')
MIXED, APART = ToolCallSupport(text_beside_calls=True), ToolCallSupport(text_beside_calls=False)


def turns(*parts: tuple[Part, ...] | Part, tools: str = "", system: tuple[Part, ...] | None = None) -> Example:
    contents = tuple(
        Content((Role.USER, Role.MODEL)[index % 2], one if isinstance(one, tuple) else (one,))
        for index, one in enumerate(parts)
    )
    return Example(contents, system, tools)


WHOLE = turns(Words("q"), CALL, GIVEN, (Words("a"), CALL), tools=TOOLS)


def broken(example: Example, calling: ToolCallSupport | None = MIXED) -> list[tuple[str, str]]:
    return [(fault.path, fault.rule) for fault in tool_violations(example, calling, "models/b")]


def test_a_row_with_calls_and_their_responses_is_learnt_from() -> None:
    assert broken(WHOLE) == []
    assert broken(replace(WHOLE, tools="")) == []  # what is called need not be declared


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (turns(Words("q"), FunctionCall("h", "{}"), tools=TOOLS), [("contents[1].parts[0]", "call_not_declared")]),
        (turns(GIVEN, Words("a")), [("contents[0].parts[0]", "response_without_call")]),
        (turns(Words("q"), CALL, (GIVEN, GIVEN), Words("a")), [("contents[2].parts[1]", "response_without_call")]),
        (
            turns(Words("q"), CALL, FunctionResponse("g", "{}"), Words("a")),
            [("contents[2].parts[0]", "response_without_call")],
        ),
        (turns(CALL, Words("a")), [("contents[0].parts[0]", "function_role")]),
        (turns(Words("q"), (CALL, GIVEN)), [("contents[1].parts[1]", "function_role")]),
        (turns(Words("q"), Words("a"), system=(CALL,)), [("systemInstruction.parts[0]", "function_role")]),
        (turns(Words("q"), Words("a"), tools='[{"googleSearch":{}}]'), [("tools[0].googleSearch", "tool_declaration")]),
        (turns(Words("q"), Words("a"), tools="[1]"), [("tools[0]", "tool_declaration")]),
    ],
)
def test_each_rule_for_functions_has_its_place_and_name(example: Example, expected: list[tuple[str, str]]) -> None:
    assert broken(example) == expected


def test_text_beside_calls_is_refused_where_the_base_writes_them_apart_only() -> None:
    assert broken(WHOLE, APART) == [("contents[3]", "text_beside_call")]
    assert broken(turns(Words("q"), (CALL, CALL), (GIVEN, Words("and?")), Words("a")), APART) == []
    assert LLAMA3.calling == APART and SMOLLM2.calling == MIXED


def test_a_base_that_knows_no_functions_is_named() -> None:
    assert broken(WHOLE, None) == [
        ("contents[1].parts[0]", "functions_unsupported"),
        ("contents[2].parts[0]", "functions_unsupported"),
        ("contents[3].parts[1]", "functions_unsupported"),
        ("tools", "functions_unsupported"),
    ]


def test_a_prompt_may_end_with_a_response() -> None:
    assert list(tool_order_violations(Prompt(WHOLE.contents[:3]))) == []


def looked_at_nothing() -> InspectMedia:
    def look(media: object) -> dict[Media, object]:
        raise AssertionError("nobody has to look at text")

    return look  # type: ignore[return-value]


def verdicts(
    example: Example, vision: VisionSpec | None = None, supervise: SupervisedTurns = SupervisedTurns.ALL
) -> tuple[str, ...]:
    gate = DatasetValidator(
        OPEN_DATASET, BaseModelLimits("models/b", 99, vision, None, MIXED, supervise), looked_at_nothing()
    )
    (verdict,) = gate.verdicts([ParsedRow(1, example)])
    if verdict.outcome is RowOutcome.ACCEPTED:
        return ()
    return tuple(issue.rule for issue in verdict.issues)


def test_the_gate_accepts_functions_without_looking_at_media() -> None:
    assert verdicts(WHOLE) == ()
    assert verdicts(turns(Words("q"), CALL)) == ()
    assert verdicts(turns(GIVEN, Words("a"))) == ("response_without_call",)


def test_media_in_any_answer_that_is_learnt_are_refused() -> None:
    picture = Media("image/png", "cat.png")
    earlier = turns(Words("draw"), (Words("here"), picture), Words("what is it?"), Words("a cat"))
    assert verdicts(earlier, NANO_VL.vision) == ("media_in_answer",)
    assert verdicts(turns(Words("draw"), picture), NANO_VL.vision, SupervisedTurns.LAST) == (
        "empty_output",
        "media_in_answer",
    )
    with pytest.raises(AssertionError, match="look"):  # it goes on to its media
        verdicts(earlier, NANO_VL.vision, SupervisedTurns.LAST)

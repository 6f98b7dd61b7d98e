"""Answers take the form that was asked for, whatever the model would have said; and a bad form hurts nobody else."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import torch

from kastor.domain.errors import InvalidArgument
from kastor.domain.generation import FinishReason, ResponseFormat
from kastor.models.chat.tool_format import HERMES
from kastor.models.chat.tool_parser import parse_tool_calls
from kastor.services.generation_request import forced_call_format
from kastor.serving.builtin.constrained_decoding import GrammarCompiler
from support.manual_batcher import ManualBatcher, ReceivedChunks

MakeStepper = Callable[..., ManualBatcher]
FIELD = "generationConfig.responseSchema"
COLOURS = ("red", "blue", "red-ish", "über 😀", "a.b*")

SCHEMAS: dict[str, dict[str, Any]] = {
    "any object or list": {"type": ["object", "array"]},
    "boolean": {"type": "boolean"},
    "bounded integer": {"type": "integer", "minimum": -3, "maximum": 120},
    "nullable text": {"type": ["string", "null"], "maxLength": 5},
    "enum": {"enum": ["EAST", "WEST", 3, None]},
    "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4},
    "record": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 2},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "choice": {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^[a-c]{2,3}$"}]},
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
    },
}


def form(schema: object) -> ResponseFormat:
    return ResponseFormat(FIELD, json.dumps(schema))


def check(told: ReceivedChunks, schema: dict[str, Any], most: int) -> bool:
    """Whether the answer came to its end; it is checked to be valid, or cut off at its greatest length."""
    if told.finish is FinishReason.MAX_TOKENS:
        assert told.chunks[-1].output_tokens == most
        return False
    jsonschema_rs.validator_for(schema).validate(json.loads(told.text))
    return True


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_ended_answer_parses_and_validates(stepper: MakeStepper, name: str) -> None:
    crowd, schema = stepper(), SCHEMAS[name]
    asked = [
        crowd.ask("one", ("a", None)[seed % 2], temperature=1.5, seed=seed, max_output_tokens=64, form=form(schema))
        for seed in range(12)
    ]
    asked.append(crowd.ask("one", form=form(schema), max_output_tokens=64))  # greedy
    crowd.steps(160)
    ended = [check(told, schema, 64) for _, told in asked]
    assert sum(ended) > 3


def test_an_answer_cut_off_in_the_middle_says_so(stepper: MakeStepper) -> None:
    told = stepper().answer("one", form=form(SCHEMAS["record"]), max_output_tokens=5)
    assert told.finish is FinishReason.MAX_TOKENS
    assert told.text.startswith("{")


def test_an_answer_ends_as_soon_as_its_form_is_complete(stepper: MakeStepper) -> None:
    told = stepper().answer("one", form=form({"const": 7}), max_output_tokens=64)
    assert (told.text, told.finish, told.chunks[-1].output_tokens) == ("7", FinishReason.STOP, 1)


def test_white_space_between_parts_never_goes_on_for_ever(stepper: MakeStepper) -> None:
    one = stepper()
    grammar = one.grammars.matcher(form({"type": "array", "items": {"type": "boolean"}}))
    space = one.renderer.text(" ")[0]
    grammar.accept(one.renderer.text("[")[0])
    logits = torch.full((one.batcher.model.config.vocab_size,), 0.0)
    num_spaces = 0
    while bool(grammar.mask_logits(logits)[space].isfinite()):
        grammar.accept(space)
        num_spaces += 1
    assert num_spaces == 16


def test_an_answer_of_choices_is_one_of_them_without_quotes(stepper: MakeStepper) -> None:
    one = stepper(max_rows=8)
    asked = [
        one.ask("one", temperature=2, seed=seed, max_output_tokens=64, form=ResponseFormat(FIELD, choices=COLOURS))
        for seed in range(20)
    ]
    one.steps(60)
    assert {told.finish for _, told in asked} == {FinishReason.STOP}
    assert {told.text for _, told in asked} <= set(COLOURS)
    assert len({told.text for _, told in asked}) > 1


def test_rows_with_and_without_a_form_do_not_disturb_one_another(stepper: MakeStepper) -> None:
    mixed = stepper()
    _, free = mixed.ask("one", "a", max_output_tokens=20)
    _, bound = mixed.ask("one", "a", max_output_tokens=64, form=form(SCHEMAS["record"]))
    mixed.steps(3)
    leaving, _ = mixed.ask("goes away", form=form(SCHEMAS["list"]))
    mixed.steps(1)
    leaving.cancel()
    _, late = mixed.ask("two", form=form(SCHEMAS["enum"]), max_output_tokens=64)
    mixed.steps(80)
    assert free.text == stepper().answer("one", "a", max_output_tokens=20).text
    for told, text, adapter, name in ((bound, "one", "a", "record"), (late, "two", None, "enum")):
        alone = stepper().answer(text, adapter, form=form(SCHEMAS[name]), max_output_tokens=64)
        assert told.text == alone.text


def test_candidates_take_the_form_each_by_its_own_way(stepper: MakeStepper) -> None:
    told = stepper().answer(
        "one", None, 4, temperature=1.5, seed=3, max_output_tokens=64, form=form(SCHEMAS["bounded integer"])
    )
    assert len(told.texts) == 4
    assert all(-3 <= json.loads(text) <= 120 for text in told.texts)
    assert len(set(told.texts)) > 1


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"enum": []}, "anyOf is empty"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum (5) is greater than maximum (4)"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": "(" * 400 + ")" * 400}, "nested parentheses"),
        ({"type": "integer", "minimum": -(10**300)}, "10000"),
        ({"$ref": "http://elsewhere/schema"}, "elsewhere"),
        ({"allOf": [{"anyOf": [{"pattern": f"{i}{j}"} for j in range(9)]} for i in range(9)]}, "too large"),
    ],
)
def test_a_form_that_cannot_be_compiled_is_refused_with_field_and_reason(
    stepper: MakeStepper, schema: object, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        stepper().ask("one", form=form(schema))
    assert refused.value.violations[0].field == FIELD
    assert refused.value.message.startswith(f"{FIELD}: cannot be followed: ")
    assert reason in refused.value.message
    assert len(refused.value.message) < 400


def test_a_form_that_becomes_too_complex_ends_its_own_request_only(stepper: MakeStepper) -> None:
    mixed = stepper()
    hostile = form({"type": "string", "pattern": "^(.*a.{200}|.*b.{201})$"})
    _, bad = mixed.ask("one", temperature=2, seed=1, max_output_tokens=64, form=hostile)
    _, good = mixed.ask("one", "a")
    mixed.steps(70)
    assert isinstance(bad.events[-1], InvalidArgument) or bad.finish is FinishReason.MAX_TOKENS
    assert good.text == stepper().answer("one", "a").text


def test_logits_beyond_the_vocabulary_are_never_chosen(stepper: MakeStepper) -> None:
    one = stepper()
    tokenizer = one.renderer.tokenizer
    grammar = GrammarCompiler(tokenizer.to_str(), [2], tokenizer.get_vocab_size()).matcher(form({}))
    masked = grammar.mask_logits(torch.zeros(tokenizer.get_vocab_size() + 50))
    assert not bool(masked[tokenizer.get_vocab_size() :].isfinite().any())
    assert bool(masked.isfinite().any())


def test_an_answer_that_must_be_a_call_is_one_of_an_allowed_function(stepper: MakeStepper) -> None:
    schemas: dict[str, dict[str, Any]] = {
        "turn": {"type": "object", "properties": {"to": {"enum": ["EAST", "WEST"]}}, "required": ["to"]},
        "stop": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    wanted = forced_call_format(schemas, HERMES)
    assert wanted is not None
    crowd = stepper()
    asked = [crowd.ask("go", temperature=1.5, seed=seed, max_output_tokens=64, form=wanted) for seed in range(8)]
    crowd.steps(120)
    names = set()
    for _, told in asked:
        ended = (chunk for chunk in told.chunks)
        calls = [chunk.call for chunk in parse_tool_calls(ended, HERMES, schemas, must_call=True) if chunk.call]
        if told.finish is FinishReason.STOP:
            (call,) = calls
            names.add(call.name)
            jsonschema_rs.validator_for(schemas[call.name]).validate(json.loads(call.arguments))
    assert names == {"turn", "stop"}

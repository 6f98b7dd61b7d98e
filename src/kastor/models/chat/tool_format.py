"""How families of models write functions: what is declared, a model's calls, and what the functions gave. As values.

Calls are read back from a model's answer by `models.calls`. Control strings stand apart from text, so that what callers
hand in is never taken for one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kastor.domain.content import FunctionCall, FunctionResponse
from kastor.domain.tools import FunctionDeclaration, ToolCallSupport


@dataclass(frozen=True, slots=True)
class ControlText:
    """A string of the family's own, in which control tokens are recognised."""

    text: str


SystemText = str | ControlText
Layout = Callable[[Sequence[Mapping[str, Any]]], str]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way of writing them.

    Declarations stand at the end of the system turn, or at the head of the first user turn. `call` and `response` are
    what stands before and after each; `between` stands between a call or a response and whatever is beside it.
    """

    introduction: str
    layout: Layout  # the declarations as text
    conclusion: str
    in_system: bool
    arguments: str  # what a call names its arguments
    call: tuple[str, str]
    response: tuple[str, str]
    between: str
    text_beside_calls: bool  # whether an answer may hold text and calls
    tags: tuple[str, ...] = ()  # control tokens, where the tokenizer has them
    response_opening: str = ""  # opens a turn of its own for each response; empty: they stand in the user's
    system_preface: str = ""  # at the head of the system turn, where functions are declared
    forced: str = ""  # written for a model that must call one: the call's JSON follows, and nothing after it

    @property
    def calling(self) -> ToolCallSupport:
        """What it can hold."""
        return ToolCallSupport(self.text_beside_calls)

    def format_declarations(self, functions: Sequence[FunctionDeclaration]) -> Iterator[SystemText]:
        """The text that tells of the functions."""
        yield from self.split(self.introduction)
        yield self.layout([_object(one) for one in functions])
        yield from self.split(self.conclusion)

    def format_call(self, call: FunctionCall) -> Iterator[SystemText]:
        """A call."""
        before, after = self.call
        yield from self.split(before)
        yield f'{{"name": {_spaced(call.name)}, "{self.arguments}": {_spaced(json.loads(call.arguments))}}}'
        yield from self.split(after)

    def format_response(self, response: FunctionResponse) -> Iterator[SystemText]:
        """What a function gave."""
        before, after = self.response
        yield from self.split(before)
        yield _spaced(json.loads(response.response))
        yield from self.split(after)

    def split(self, text: str) -> Iterator[SystemText]:
        r"""A text of the style's own, its tags apart.

        >>> list(HERMES.split("<tool_call>\n"))
        [ControlText(text='<tool_call>'), '\n']
        """
        if not self.tags:
            yield text
            return
        for piece in re.split("(" + "|".join(map(re.escape, self.tags)) + ")", text):
            if piece:
                yield ControlText(piece) if piece in self.tags else piece


def _spaced(value: object) -> str:
    """JSON as templates write it: a blank after each comma and colon."""
    return json.dumps(value, ensure_ascii=False)


def _object(one: FunctionDeclaration) -> dict[str, Any]:
    held: dict[str, Any] = {"name": one.name, "description": one.description, "parameters": dict(one.parameters)}
    return held | ({"return": dict(one.response)} if one.response is not None else {})


def _wrapped(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": one}


def _lines(functions: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_spaced(_wrapped(one)) for one in functions)


def _paragraphs(functions: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(_wrapped(one), indent=4, ensure_ascii=False) + "\n\n" for one in functions)


def _list(functions: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(functions), indent=2, ensure_ascii=False)


HERMES = ToolFormat(
    introduction=(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    ),
    layout=_lines,
    conclusion=(
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    ),
    in_system=True,
    arguments="arguments",
    call=("<tool_call>\n", "\n</tool_call>"),
    response=("<tool_response>\n", "\n</tool_response>"),
    between="\n",
    text_beside_calls=True,
    tags=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    forced="<tool_call>\n",
)
"""ChatML with tags, as Qwen 2.5 and 3 write it (their tokenizers have the tags as tokens), and Hermes before them."""

LLAMA_JSON = ToolFormat(
    introduction=(
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
        'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        "argument name and its value}.Do not use variables.\n\n"
    ),
    layout=_paragraphs,
    conclusion="",
    in_system=False,
    arguments="parameters",
    call=("", ""),
    response=("", ""),
    between="; ",  # its template knows one call an answer; several are written as vLLM reads them
    text_beside_calls=False,
    response_opening="<|start_header_id|>ipython<|end_header_id|>\n\n",
    system_preface="Environment: ipython\n",
)
"""Llama 3.1 to 3.3, with functions in the first user turn, as its template has them unless told otherwise."""

GEMMA_JSON = ToolFormat(
    introduction=(
        "You have access to functions. If you decide to invoke any of the function(s),\nyou MUST put it in the format "
        'of\n{"name": function name, "parameters": dictionary of argument name and its value}\n\nYou SHOULD NOT '
        "include any other text in the response if you call a function\n"
    ),
    layout=_list,
    conclusion="\n",
    in_system=False,
    arguments="parameters",
    call=("", ""),
    response=("```tool_output\n", "\n```"),
    between="\n",
    text_beside_calls=False,
)
"""Gemma 3, which has no tokens for it: the JSON form of Google's guide to function calling with Gemma."""

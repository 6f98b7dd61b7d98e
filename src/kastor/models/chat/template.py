"""A conversation -> the pieces that one family's models expect, and which of them are learnt. No tokens of text yet.

A piece never depends on what follows it, and a turn is written the same way whether it is served, learnt or history:
so what is served before any of the model's turns is a prefix of what is trained on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from kastor.domain.content import (
    Example,
    FunctionCall,
    FunctionResponse,
    Media,
    Part,
    Prompt,
    Role,
    SupervisedTurns,
    Text,
)
from kastor.domain.errors import InvalidArgument
from kastor.domain.tools import parse_declarations
from kastor.models.chat.families import Family
from kastor.models.chat.tool_format import ControlText, SystemText, ToolFormat

Piece = list[int] | str | Media
"""Control tokens, text in which there are none, or a medium."""
Run = tuple[bool, list[Piece]]
"""Successive pieces, and whether they are learnt."""


class ChatTemplate:
    """Writes turns for one family; `control` gives the tokens of a string of the family's own."""

    def __init__(self, family: Family, control: Callable[[str], list[int]]) -> None:
        self._family = family
        self._control = control
        self._opening = {role: control(text) for role, text in family.opening.items()}
        self._closing, self._separator = control(family.closing), control(family.separator)
        self._closed = self._closing + self._separator  # a turn of the model's
        ends = family.closing if family.user_closing is None else family.user_closing
        self._asked = control(ends + family.separator)  # one that is not
        self._beginning = control(family.beginning) if family.beginning else []

    def prompt(self, prompt: Prompt) -> list[Piece]:
        """What is served: it ends with the opening of the model's turn.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        pieces = self._start(prompt)
        head = self._head(prompt)
        for content in prompt.contents:
            pieces += self._turn(content.role, content.parts, head)
            head = head if content.role is Role.MODEL else []
        pieces.append(self._opening["model"])
        style = self._family.functions
        if prompt.must_call and style is not None:
            pieces += self._joined(style.split(style.forced))
        return pieces

    def example(self, example: Example, supervise: SupervisedTurns) -> list[Run]:
        """What is trained on: each of the model's turns, or the last, is learnt with the token that ends it.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        given, head = self._start(example), self._head(example)
        runs: list[Run] = []
        learnt = example.supervised_turns(supervise)
        for index, content in enumerate(example.contents):
            if index not in learnt:
                given += self._turn(content.role, content.parts, head)
                head = head if content.role is Role.MODEL else []
                continue
            given.append(self._opening["model"])
            answer = self._answer(content.parts)
            runs += [(False, given), (True, [*answer, self._closing])]
            given = [self._separator]
        return runs

    # ---- what stands before the turns

    def _start(self, prompt: Prompt | Example) -> list[Piece]:
        """The beginning and the system turn, where the family has one."""
        pieces: list[Piece] = [self._beginning] if self._beginning else []
        if "system" not in self._opening:
            return pieces
        style, said = self._style(prompt), self._system(prompt)
        if said is None and not (style and style.in_system):
            return pieces
        held: list[SystemText | Media] = [style.system_preface] if style else []
        held += [self._family.preface, *self._parts(said or ())]
        if style is not None and style.in_system:
            held += ["\n\n"] if said else []
            held += style.format_declarations(parse_declarations(prompt.tools))
        return [*pieces, self._opening["system"], *self._joined(held), self._asked]

    def _system(self, prompt: Prompt | Example) -> tuple[Part, ...] | None:
        default = self._family.default_system
        return prompt.system if prompt.system is not None or default is None else (Text(default),)

    def _head(self, prompt: Prompt | Example) -> list[SystemText | Media]:
        """What stands at the head of the first user turn: a system instruction without a turn of its own, functions."""
        head: list[SystemText | Media] = []
        if "system" not in self._opening and prompt.system is not None:
            head += [*self._parts(prompt.system), "\n\n"]
        style = self._style(prompt)
        if style is not None and not style.in_system:
            head += style.format_declarations(parse_declarations(prompt.tools))
        return head

    def _style(self, prompt: Prompt | Example) -> ToolFormat | None:
        """How functions are declared, if any are.

        Raises:
            InvalidArgument: there are tools, and this family's models know none.

        """
        if not prompt.tools or not parse_declarations(prompt.tools):
            return None
        return self._known_style("leave tools out")

    def _known_style(self, hint: str) -> ToolFormat:
        style = self._family.functions
        if style is None:
            raise InvalidArgument(f"This base model cannot call functions; {hint}.")
        return style

    # ---- turns

    def _turn(self, role: Role, parts: Sequence[Part], head: Sequence[SystemText | Media]) -> list[Piece]:
        if len(parts) == 1 and not head and type(parts[0]) is Text:  # as most are
            ends = self._closed if role is Role.MODEL else self._asked
            return [self._opening[role.value], parts[0].text, ends]
        if role is Role.MODEL:
            return [self._opening["model"], *self._joined(self._parts(parts)), self._closed]
        style = self._family.functions
        if style is None or not style.response_opening:
            return [self._opening["user"], *self._joined([*head, *self._parts(parts)]), self._asked]
        return self._user_turns(style, parts, head)

    def _user_turns(self, style: ToolFormat, parts: Sequence[Part], head: Sequence[SystemText | Media]) -> list[Piece]:
        """The user's turn of a family in which each response of a function has a turn of its own."""
        pieces: list[Piece] = []
        for responding, group in groupby(parts, key=lambda part: isinstance(part, FunctionResponse)):
            if not responding:
                pieces += [self._opening["user"], *self._joined([*head, *self._parts(tuple(group))]), self._asked]
                head = []
                continue
            for part in group:
                pieces += [self._control(style.response_opening), *self._joined(self._parts((part,))), self._asked]
        return pieces

    def _answer(self, parts: Sequence[Part]) -> list[Piece]:
        if len(parts) == 1 and type(parts[0]) is Text:  # as most are
            return [parts[0].text]
        for part in parts:
            if isinstance(part, Media):
                raise InvalidArgument(f"{part.name} stands where this base model sees no media: in its own turn.")
        return self._joined(self._parts(parts))

    def _parts(self, parts: Sequence[Part]) -> Iterator[SystemText | Media]:
        before: Part | None = None
        for part in parts:
            if isinstance(part, Text):
                said: Iterable[SystemText | Media] = (part.text,)
            elif isinstance(part, Media):
                said = (part,)
            else:
                style = self._known_style(f"it cannot read {part.name}")
                said = style.format_call(part) if isinstance(part, FunctionCall) else style.format_response(part)
            style_or_none = self._family.functions
            if style_or_none and before and (_is_function(before) or _is_function(part)):
                yield style_or_none.between
            yield from said
            before = part

    def _joined(self, said: Iterable[SystemText | Media]) -> list[Piece]:
        """The pieces; neighbouring texts are one, however they were cut into parts."""
        pieces: list[Piece] = []
        for one in said:
            if isinstance(one, ControlText):
                pieces.append(self._control(one.text))
            elif isinstance(one, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += one
            else:
                pieces.append(one)
        return pieces


def _is_function(part: Part) -> bool:
    return isinstance(part, FunctionCall | FunctionResponse)

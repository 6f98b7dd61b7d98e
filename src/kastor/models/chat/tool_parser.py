"""A model's answer -> its text and the function calls in it, as it comes, in the style of `models.functions`.

Strict: what is not exactly a call of a declared function stays text, whole. Only the line end that the style puts
between text and a call is taken away.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from kastor.domain.content import FunctionCall
from kastor.domain.generation import Chunk, TokenStep
from kastor.domain.stop_sequences import partial_stop_length
from kastor.domain.tools import exceeds_max_depth
from kastor.models.chat.tool_format import ToolFormat

ParsedOutput = str | FunctionCall


def parse_tool_calls(
    chunks: Generator[Chunk, None, None], style: ToolFormat, names: Collection[str], *, must_call: bool = False
) -> Generator[Chunk, None, None]:
    """The chunks with the calls of these functions told as calls; `must_call`: each answer is a call's JSON alone.

    A call is told in one chunk, once it is complete.
    """
    readers: dict[int, ToolCallParser] = {}
    with closing(chunks):
        for chunk in chunks:
            reader = readers.setdefault(chunk.index, _reader(style, names, must_call))
            reader.steps += chunk.steps
            heard = reader.push(chunk.text)
            if chunk.finish_reason is not None:
                heard += reader.end()
            yield from _told(chunk, _merged(heard), reader)


def _reader(style: ToolFormat, names: Collection[str], must_call: bool) -> "ToolCallParser":
    return TaggedCallParser(style, names) if style.call[0].strip() and not must_call else JsonCallParser(style, names)


def _told(chunk: Chunk, heard: list[ParsedOutput], reader: "ToolCallParser") -> Generator[Chunk, None, None]:
    """A chunk for each thing heard; the last has the finish reason, the first the log-probabilities."""
    if not heard and chunk.finish_reason is None:
        return
    last = max(len(heard) - 1, 0)
    for place, one in enumerate(heard or [""]):
        yield replace(
            chunk,
            text=one if isinstance(one, str) else "",
            call=one if isinstance(one, FunctionCall) else None,
            finish_reason=chunk.finish_reason if place == last else None,
            steps=tuple(reader.steps) if place == 0 else (),
        )
    reader.steps = []


def _merged(heard: list[ParsedOutput]) -> list[ParsedOutput]:
    merged: list[ParsedOutput] = []
    for one in heard:
        if isinstance(one, str) and merged and isinstance(merged[-1], str):
            merged[-1] += one
        elif one:
            merged.append(one)
    return merged


@dataclass(slots=True)
class ToolCallParser(ABC):
    """One answer as it comes: give it every piece, then the end."""

    style: ToolFormat
    names: Collection[str]
    steps: list[TokenStep] = field(default_factory=list)  # not yet told
    _held: str = ""

    @abstractmethod
    def push(self, text: str) -> list[ParsedOutput]:
        """What is sure after this piece."""

    @abstractmethod
    def end(self) -> list[ParsedOutput]:
        """What was held back."""

    def _call(self, text: str) -> FunctionCall | None:
        """The call that the text is, if it is one of a declared function and nothing else."""
        try:
            value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
            return self._call_of(value)
        except (ValueError, RecursionError):
            return None

    def _call_of(self, value: Any) -> FunctionCall | None:  # noqa: ANN401  # JSON
        if not isinstance(value, dict) or value.keys() != {"name", self.style.arguments}:
            return None
        name, arguments = value["name"], value[self.style.arguments]
        if not isinstance(name, str) or name not in self.names or not isinstance(arguments, dict):
            return None
        if exceeds_max_depth(arguments):
            return None
        written = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        written.encode()  # half of a character pair, as an escape may spell, goes over no wire
        return FunctionCall(name, written)


@dataclass(slots=True)
class TaggedCallParser(ToolCallParser):
    """Of a style with tags around each call; text may stand before, between and behind calls."""

    _lead: str = ""  # the line end before the tag, which belongs to the text if no call follows
    _inside: bool = False
    _after_call: bool = False

    def push(self, text: str) -> list[ParsedOutput]:
        """What is sure after this piece."""
        self._held += text
        return self._scan()

    def end(self) -> list[ParsedOutput]:
        """What was held back: a tag that no call follows is text, and what follows it may hold calls."""
        heard: list[ParsedOutput] = []
        while self._inside:
            heard.append(self._lead + self._opening)
            self._inside = self._after_call = False
            heard += self._scan()
        heard.append(self._held)
        self._held = ""
        return heard

    @property
    def _opening(self) -> str:
        return self.style.call[0].strip()

    def _scan(self) -> list[ParsedOutput]:
        heard: list[ParsedOutput] = []
        while True:
            found = self._inner() if self._inside else self._outer()
            if found is None:
                return heard
            heard.append(found)

    def _outer(self) -> ParsedOutput | None:
        """The text up to the next tag, or all of it that is no beginning of one."""
        between = self.style.between
        if self._after_call and self._held:
            if between.startswith(self._held) and self._held != between:
                return None
            self._held, self._after_call = self._held.removeprefix(between), False
        at = self._held.find(self._opening)
        if at < 0:
            cut = len(self._held) - partial_stop_length(self._held, (self._opening, between + self._opening))
            text, self._held = self._held[:cut], self._held[cut:]
            return text or None
        text = self._held[:at].removesuffix(between)
        self._lead, self._held = self._held[len(text) : at], self._held[at + len(self._opening) :]
        self._inside = True
        return text

    def _inner(self) -> ParsedOutput | None:
        """The call, once a closing tag makes it one."""
        tag = self.style.call[1].strip()
        at = self._held.find(tag)
        while at >= 0:
            call = self._call(self._held[:at])
            if call is not None:
                self._held, self._inside, self._after_call = self._held[at + len(tag) :], False, True
                return call
            at = self._held.find(tag, at + 1)  # the arguments may spell the tag
        return None


@dataclass(slots=True)
class JsonCallParser(ToolCallParser):
    """Of a style in which an answer is text or calls: it is held as long as it may be calls."""

    _text: bool = False

    def push(self, text: str) -> list[ParsedOutput]:
        """The text, once it is sure to be some."""
        if not self._text:
            self._held += text
            begun = self._held.lstrip()
            if not begun or begun.startswith("{"):
                return []
            self._text, text, self._held = True, self._held, ""
        return [text]

    def end(self) -> list[ParsedOutput]:
        """The calls, if the whole answer is some; else the text that was held."""
        held, self._held = self._held, ""
        return list(self._calls(held)) or [held]

    def _calls(self, text: str) -> list[FunctionCall]:
        """All calls of the text; none if it holds anything else."""
        decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
        found, rest = [], text.strip()
        try:
            while rest:
                _, end = decoder.raw_decode(rest)
                call = self._call(rest[:end])
                if call is None:
                    return []
                found.append(call)
                rest = rest[end:].strip().removeprefix(self.style.between.strip()).strip()
        except (ValueError, RecursionError):
            return []
        return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise ValueError("a name stands there twice")
    return held


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")

"""What is said between a user and a model, as values.

Parsing is in `dataset.parse` and `api`; tokens are made in `models.render`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kastor.domain.excerpt import MAX_CHARS, excerpt


class Role(StrEnum):
    """Who speaks, in the spelling of both wires."""

    USER = "user"
    MODEL = "model"


class SupervisedTurns(StrEnum):
    """Which of the model's turns an example teaches."""

    ALL = "all"
    LAST = "last"


class Resolution(StrEnum):
    """How many tokens a frame or an image may take: LOW 64, MEDIUM 256; HIGH as MEDIUM for video.

    On the wires each has the prefix `MEDIA_RESOLUTION_`.
    """

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


@dataclass(frozen=True, slots=True)
class Text:
    """A part made of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a video or a document: a file named by its address, or the bytes themselves; never both.

    The segment `[start_s, end_s)` and `fps` (frames a second to look at) are for videos; `None` is the whole, at 1.
    """

    mime_type: str
    uri: str = ""  # gs://, s3://, http(s)://, files/… or a local path
    data: bytes = b""
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    resolution: Resolution | None = None  # of this part alone

    @property
    def name(self) -> str:
        """How messages call it."""
        if not self.uri:
            return f"the inline {self.mime_type} of {len(self.data):,} bytes"
        return self.uri if len(self.uri) <= MAX_CHARS else excerpt(self.uri)


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A model's wish to have a function called."""

    name: str
    arguments: str  # a JSON object, keys in the order given


@dataclass(frozen=True, slots=True)
class FunctionResponse:
    """What the function gave."""

    name: str
    response: str  # a JSON object, keys in the order given


Part = Text | Media | FunctionCall | FunctionResponse


def text_of(parts: tuple[Part, ...]) -> str:
    """The text parts, joined without a separator (as the Gemini SDKs' `.text` does)."""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return "".join([part.text for part in parts if isinstance(part, Text)])


@dataclass(frozen=True, slots=True)
class Content:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]
    weight: int = 1  # of a model's turn: 0 where it is given, and not learnt

    @property
    def text(self) -> str:
        """The turn's text parts, joined."""
        return text_of(self.parts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: an optional system instruction and turns of which the last is the user's."""

    contents: tuple[Content, ...]
    system: tuple[Part, ...] | None = None
    tools: str = ""  # a JSON list of the wire's Tool messages; empty for none
    resolution: Resolution | None = None  # of all media that name none of their own
    must_call: bool = False  # the answer is a function call, and its beginning is written for the model

    @property
    def num_chars(self) -> int:
        """Characters (Unicode code points) of the system instruction and all turns."""
        system = 0 if self.system is None else len(text_of(self.system))
        return system + sum([len(content.text) for content in self.contents])

    @property
    def parts(self) -> Iterator[Part]:
        """All parts in order, those of the system instruction first."""
        yield from self.system or ()
        for content in self.contents:
            yield from content.parts

    @classmethod
    def of(cls, text: str, system: str | None = None) -> "Prompt":
        """A single user turn."""
        return cls((Content(Role.USER, (Text(text),)),), None if system is None else (Text(system),))


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: turns of which at least the last is the model's, which is what is learnt."""

    contents: tuple[Content, ...]
    system: tuple[Part, ...] | None = None
    tools: str = ""
    resolution: Resolution | None = None

    @classmethod
    def pair(cls, text_input: str, output: str) -> "Example":
        """The Gemini API's `{text_input, output}`."""
        return cls((Content(Role.USER, (Text(text_input),)), Content(Role.MODEL, (Text(output),))))

    @property
    def prompt(self) -> Prompt:
        """Everything before the last turn: what would be served."""
        return Prompt(self.contents[:-1], self.system, self.tools, self.resolution)

    def supervised_turns(self, supervise: SupervisedTurns) -> tuple[int, ...]:
        """Which turns are learnt: all of the model's, or the last; none whose weight is 0."""
        first = len(self.contents) - 1 if supervise is SupervisedTurns.LAST else 0
        return tuple(
            index
            for index, content in enumerate(self.contents)
            if content.role is Role.MODEL and index >= first and content.weight
        )

    @property
    def others(self) -> tuple[Part, ...]:
        """All parts that are not text, in order, those of the system instruction first."""
        turns = [part for content in self.contents for part in content.parts if type(part) is not Text]
        return (*[part for part in self.system if type(part) is not Text], *turns) if self.system else tuple(turns)

    @property
    def media(self) -> tuple[Media, ...]:
        """All media, in order."""
        return tuple(part for part in self.others if isinstance(part, Media))

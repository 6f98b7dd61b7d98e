"""What is said between a user and a model, as values.

Parsing is in `dataset.parse` and `api`; tokens are made in `models.render`.
"""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who speaks, in the spelling of both wires."""

    USER = "user"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Text:
    """A part made of text."""

    text: str


Part = Text  # media and function calls join this union when they are supported


@dataclass(frozen=True, slots=True)
class Content:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text parts, joined without a separator (as the Gemini SDKs' `.text` does)."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: an optional system instruction and turns of which the last is the user's."""

    contents: tuple[Content, ...]
    system: str | None = None

    @property
    def num_chars(self) -> int:
        """Characters (Unicode code points) of the system instruction and all turns."""
        return len(self.system or "") + sum(len(content.text) for content in self.contents)

    @classmethod
    def of(cls, text: str) -> "Prompt":
        """A single user turn."""
        return cls((Content(Role.USER, (Text(text),)),))


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: turns of which at least the last is the model's, which is what is learnt."""

    contents: tuple[Content, ...]
    system: str | None = None

    @classmethod
    def pair(cls, text_input: str, output: str) -> "Example":
        """The Gemini API's `{text_input, output}`."""
        return cls((Content(Role.USER, (Text(text_input),)), Content(Role.MODEL, (Text(output),))))

    @property
    def prompt(self) -> Prompt:
        """Everything before the last turn: what would be served."""
        return Prompt(self.contents[:-1], self.system)

"""What the prompts of a job's dataset hold besides turns of text: what a model was tuned on, it may be asked with."""

from dataclasses import dataclass
from pathlib import Path

from kastor.dataset.formats.parse import decode_example

MARKS = (b'"systemInstruction":', b'"tools":', b'"functionCall":', b'"inlineData":', b'"fileData":')
"""A line of a job's dataset without any of these holds text alone. In a text, a quotation mark has a backslash."""


@dataclass(frozen=True, slots=True)
class PromptKinds:
    """Whether any prompt holds a system instruction, functions, or media."""

    system: bool = False
    functions: bool = False
    media: bool = False

    def __or__(self, other: "PromptKinds") -> "PromptKinds":
        """What either has."""
        return PromptKinds(self.system or other.system, self.functions or other.functions, self.media or other.media)


EVERYTHING = PromptKinds(system=True, functions=True, media=True)


def prompt_kinds(dataset: Path) -> PromptKinds:
    """What the examples hold that a job keeps in this file; reads it up to the first line after which all is known."""
    found = PromptKinds()
    with dataset.open("rb") as lines:
        for line in lines:
            if any(mark in line for mark in MARKS):
                example = decode_example(line)
                functions = bool(example.tools) or len(example.others) > len(example.media)
                found |= PromptKinds(example.system is not None, functions, bool(example.media))
                if found == EVERYTHING:
                    break
    return found

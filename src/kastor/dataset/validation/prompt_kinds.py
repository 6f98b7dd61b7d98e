"""The kinds of content in a job's prompts besides text turns; a tuned model may be prompted with the same kinds."""

from dataclasses import dataclass
from pathlib import Path

from kastor.dataset.formats.parse import decode_example

MARKS = (b'"systemInstruction":', b'"tools":', b'"functionCall":', b'"inlineData":', b'"fileData":')
"""A stored line without any of these holds only text; inside a text, a quotation mark has a backslash before it."""


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
    """The kinds in a job's stored dataset; stops reading once all kinds were found."""
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

"""The pages of docs/guide as programs: their fenced blocks, in order, aimed at a test's server."""

import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
PRINTED_URL = "http://127.0.0.1:8080"
PRINTED_ENDPOINT = "localhost:8443"  # of gRPC
RUNNABLE = ("python", "js", "sh")
FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<variant>\S+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. One with a variant, as in "```python 3", is for that release of the client only."""

    language: str
    variant: str | None
    code: str


def guide_pages() -> list[Path]:
    """All pages."""
    return sorted(GUIDE.glob("*.md"))


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(**found.groupdict()) for found in FENCE.finditer(text)]


def program(page: str, language: str, *, at: str, printed: str = PRINTED_URL, variant: str | None = None) -> str:
    """What a reader would have typed who copied every block of the page that is meant for this client.

    The address that the page prints is replaced by `at`.
    """
    wanted = [
        block.code
        for block in blocks((GUIDE / page).read_text("utf-8"))
        if block.language == language and block.variant in (None, variant)
    ]
    whole = "\n".join(wanted)
    assert printed in whole, f"{page} has no {language} block that names {printed}"
    return whole.replace(printed, at)

"""Detects text that nearly all prompts share. A model tuned on it expects it, so served prompts must contain it, too.

Keeps the first and last characters of a random sample of the prompts, so memory is flat for any dataset.
"""

import math
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kastor.domain.content import Example, text_of

SAMPLE = 1000  # prompts; results are exact up to this number, and within 3 % above it (two standard errors)
MAX_CHARS = 1500  # of each end of a prompt
MAX_SYSTEMS = 64  # distinct system instructions that are told apart
MIN_CHARS = 8
MIN_PROMPTS = 5
SHARE = 0.9
EDGE = "\0"  # where a kept text was cut or ends


@dataclass(frozen=True, slots=True)
class SharedText:
    """Text shared by `share` of the prompts; `where` is system, beginning, end or prompt (the whole text)."""

    where: str
    text: str
    share: float

    @property
    def notice(self) -> str:
        """A sentence on it."""
        what = {
            "system": "have the system instruction",
            "beginning": "begin with",
            "end": "end with",
            "prompt": "have the text",
        }[self.where]
        shown = self.text if len(self.text) <= 200 else f"{self.text[:200]}…"
        how = " (systemInstruction, or kastor generate --system)" if self.where == "system" else ""
        return f"{self.share:.0%} of the prompts {what} {shown!r}; use it in prompts, too{how}."


class SharedTextDetector:
    """Collects prompts and finds the text that they share."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311  # for a reproducible sample
        self._sample: list[tuple[str, str]] = []
        self._systems: Counter[str] = Counter()
        self._count = 0
        self._next = 0  # index of the next prompt that enters the full sample
        self._weight = 1.0

    def add(self, example: Example) -> None:
        """Add one example's prompt."""
        if example.system:
            self._add_system(text_of(example.system)[:MAX_CHARS])
        self._count += 1
        if self._count <= SAMPLE:
            self._sample.append(_ends(example))
            self._next = self._count if self._count < SAMPLE else self._later()
        elif self._count > self._next:
            self._sample[self._random.randrange(SAMPLE)] = _ends(example)
            self._next = self._later()

    def found(self) -> list[SharedText]:
        """The texts that at least nine tenths of the prompts share, if there are enough prompts."""
        if self._count < MIN_PROMPTS:
            return []
        shared = [
            SharedText("system", text, number / self._count)
            for text, number in self._systems.items()
            if number >= SHARE * self._count
        ]
        first, share = longest_shared_prefix([head for head, _ in self._sample])
        if len(first) > 1 and first.endswith(EDGE):
            return [*shared, SharedText("prompt", first.strip(EDGE), share)]
        last, last_share = longest_shared_prefix([tail[::-1] for _, tail in self._sample])
        ends = (
            SharedText("beginning", _whole_words(first), share),
            SharedText("end", _whole_words(last)[::-1].strip(EDGE), last_share),
        )
        return shared + [one for one in ends if len(one.text) >= MIN_CHARS]

    def _add_system(self, text: str) -> None:
        """Count a system instruction; only the first few are distinguished, which include any that 90 % share."""
        if text in self._systems or len(self._systems) < MAX_SYSTEMS:
            self._systems[text] += 1

    def _later(self) -> int:
        """The index of the next prompt in a uniform sample (Li's algorithm L), without a draw for those skipped."""
        self._weight *= math.exp(math.log(1 - self._random.random()) / SAMPLE)
        skip = math.log(1 - self._random.random()) / math.log1p(-self._weight) if self._weight < 1 else 0
        return max(self._count, self._next) + math.floor(skip)


def longest_shared_prefix(texts: Sequence[str], share: float = SHARE) -> tuple[str, float]:
    """The longest prefix that at least `share` of the texts have, and the share that has it.

    >>> longest_shared_prefix(["Say: a", "Say: b", "Say: c"])
    ('Say: ', 1.0)
    """
    if not texts:
        return "", 0.0
    needed = max(1, math.ceil(share * len(texts)))
    held = sorted(texts)
    pairs = zip(held, held[needed - 1 :], strict=False)  # in sorted order, all share a prefix if the outer two do
    best = max((os.path.commonprefix((low, high)) for low, high in pairs), key=len)
    return best, sum(text.startswith(best) for text in texts) / len(texts)


def _whole_words(text: str) -> str:
    """The text without a last word that may be incomplete."""
    kept = text
    while kept and (kept[-1].isalnum() or kept[-1] in "'’-"):
        kept = kept[:-1]
    return kept


def _ends(example: Example) -> tuple[str, str]:
    """The beginning of the first prompt and the end of the last."""
    first = example.contents[0].text
    last = first if len(example.contents) <= 2 else example.contents[-2].text
    return first[:MAX_CHARS] + EDGE, EDGE + last[-MAX_CHARS:]

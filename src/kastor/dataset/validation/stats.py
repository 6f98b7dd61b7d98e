"""Statistics of a dataset's accepted examples; keeps only a few numbers per row.

The figures are those of Vertex's `SupervisedTuningDataStats`; vertex-api.md §4 defines the histogram.
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kastor.dataset.validation.rules import text_only_num_chars
from kastor.dataset.validation.shared_text import SharedText, SharedTextDetector
from kastor.domain.content import Content, Example, Media, Part, Text
from kastor.domain.media import MediaKind
from kastor.domain.vision import TokenCount

NUM_BINS = 6
NUM_SHOWN_EXAMPLES = 3
MAX_SHOWN_CHARS = 397
MAX_DUPLICATES = 100
TEXT_ONLY = "text only"
WITH_SYSTEM = "with system instruction"
MASK = (1 << 64) - 1

Group = tuple[tuple[str, ...], bool, bool]
"""Groups: the kinds of media, rows with two turns, rows with a system instruction."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bar of a histogram: the number of values from `left` to `right`, both included."""

    count: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of a set of integers."""

    sum: int
    min: float
    max: float
    mean: float
    median: float
    p5: float
    p95: float
    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, values: Sequence[int]) -> "Distribution | None":
        """The distribution of `values`; `None` if there are none.

        >>> Distribution.of([1, 2, 3, 10]).buckets
        (Bucket(count=2, left=1, right=2), Bucket(count=1, left=3, right=4), Bucket(count=1, left=10, right=10))
        """
        if not len(values):
            return None
        held_N = np.asarray(values, dtype=np.int64)
        low, high = int(held_N.min()), int(held_N.max())
        p5, median, p95 = (float(value) for value in np.percentile(held_N, (5, 50, 95)))
        return cls(int(held_N.sum()), low, high, float(held_N.mean()), median, p5, p95, _buckets(held_N, low, high))


def bins(low: int, high: int) -> list[tuple[int, int]]:
    """The histogram's bins over the integers from `low` to `high`: six, or fewer if there are fewer integers.

    left_i = ceil(low + i W) with W = (high - low + 1) / 6, and each ends where the next begins.

    >>> bins(1, 10), bins(2, 2)
    ([(1, 2), (3, 4), (5, 5), (6, 7), (8, 9), (10, 10)], [(2, 2)])
    """
    width = high - low + 1
    lefts = [low + math.ceil(i * width / NUM_BINS) for i in range(NUM_BINS)]
    rights = [left - 1 for left in lefts[1:]] + [high]
    return [(left, right) for left, right in zip(lefts, rights, strict=True) if left <= right]


def _buckets(held_N: "np.ndarray[tuple[int], np.dtype[np.int64]]", low: int, high: int) -> tuple[Bucket, ...]:
    """The bins with their counts, without empty ones."""
    counted = [(int(((held_N >= left) & (held_N <= right)).sum()), left, right) for left, right in bins(low, high)]
    return tuple(Bucket(*bucket) for bucket in counted if bucket[0])


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Repeated examples: the number of repetitions, and some of their lines as pairs (repetition, first)."""

    number: int
    lines: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class DatasetStatistics:
    """The statistics of one file's accepted rows."""

    input_tokens: "array[int]" = field(default_factory=lambda: array("I"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("I"))
    num_messages: "array[int]" = field(default_factory=lambda: array("H"))
    lines: "array[int]" = field(default_factory=lambda: array("Q"))
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    num_characters: int = 0
    num_media_tokens: int = 0  # all tokens of the rows with media
    examples: list[Content] = field(default_factory=list)  # turns of the first examples, with shortened texts
    _groups: dict[Group, int] = field(default_factory=dict)
    _preambles: SharedTextDetector = field(default_factory=SharedTextDetector)

    def add(self, line: int, example: Example, tokens: TokenCount | None) -> None:
        """Count an accepted row."""
        contents = example.contents
        self.lines.append(line)
        self.digests.append(_digest(example))
        self.num_messages.append(len(contents) if len(contents) < 0xFFFF else 0xFFFF)
        num_chars = text_only_num_chars(example)
        self.num_characters += _num_chars(example) if num_chars is None else num_chars
        kinds = _kinds(example) if num_chars is None else ()
        group = (kinds, len(contents) == 2, example.system is not None)
        self._groups[group] = self._groups.get(group, 0) + 1
        self._preambles.add(example)
        if tokens is not None:
            self.input_tokens.append(tokens.total - tokens.supervised)
            self.output_tokens.append(tokens.supervised)
            self.num_media_tokens += tokens.total if kinds else 0
        if len(self.lines) <= NUM_SHOWN_EXAMPLES:
            self.examples += [_cut(content) for content in contents]

    @property
    def slices(self) -> Counter[str]:
        """The number of rows in each group; a row may be in several."""
        found: Counter[str] = Counter()
        for (kinds, two_turns, system), number in self._groups.items():
            found[" and ".join(kinds) if kinds else TEXT_ONLY] += number
            found["one turn" if two_turns else "several turns"] += number
            if system:
                found[WITH_SYSTEM] += number
        return found

    def preambles(self) -> list[SharedText]:
        """The texts that nearly all prompts share."""
        return self._preambles.found()

    @property
    def tokens(self) -> list[int]:
        """The tokens of each row, input and output together; empty if they were not counted."""
        return [given + learnt for given, learnt in zip(self.input_tokens, self.output_tokens, strict=True)]

    @property
    def num_tokens(self) -> int:
        """The tokens of all rows, for one epoch."""
        return sum(self.input_tokens) + sum(self.output_tokens)

    def longest(self, number: int) -> list[tuple[int, int]]:
        """The lines with the most tokens, in descending order: (line, tokens)."""
        if not self.input_tokens:
            return []
        totals_N = np.asarray(self.input_tokens, dtype=np.int64) + np.asarray(self.output_tokens, dtype=np.int64)
        order_N = np.argsort(-totals_N, kind="stable")[:number]
        return [(int(self.lines[place]), int(totals_N[place])) for place in order_N]

    def duplicates(self) -> Duplicates:
        """Rows whose example also occurs on an earlier line."""
        return _repeated(self, self)

    def leaked_from(self, training: "DatasetStatistics") -> Duplicates:
        """Rows of this validation file whose example is also in the training file."""
        return _repeated(self, training)


def _digest(example: Example) -> int:
    """A 64-bit hash of the example, valid in this process only."""
    if example.system is None and not example.tools and example.resolution is None:
        return hash(tuple([content.parts for content in example.contents])) & MASK
    return hash(example) & MASK


def _repeated(rows: DatasetStatistics, among: DatasetStatistics) -> Duplicates:
    digests_M = np.asarray(among.digests, dtype=np.uint64)
    known_K, first_K = np.unique(digests_M, return_index=True)
    digests_N = np.asarray(rows.digests, dtype=np.uint64)
    if not len(known_K) or not len(digests_N):
        return Duplicates(0, ())
    place_N = np.minimum(np.searchsorted(known_K, digests_N), len(known_K) - 1)
    found_N = known_K[place_N] == digests_N
    if rows is among:
        found_N &= first_K[place_N] != np.arange(len(digests_N))
    chosen = np.flatnonzero(found_N)
    pairs = tuple(
        (int(rows.lines[place]), int(among.lines[first_K[place_N[place]]])) for place in chosen[:MAX_DUPLICATES]
    )
    return Duplicates(len(chosen), pairs)


def _num_chars(example: Example) -> int:
    return example.prompt.num_chars + len(example.contents[-1].text)


def _kinds(example: Example) -> tuple[str, ...]:
    others = example.others
    return tuple(sorted({_kind(media) for media in example.media})) if others else ()


def _kind(media: Media) -> str:
    return MediaKind.PDF.value if media.mime_type == "application/pdf" else media.mime_type.partition("/")[0]


def _cut(content: Content) -> Content:
    return replace(content, parts=tuple(map(_cut_part, content.parts)))


def _cut_part(part: Part) -> Part:
    if isinstance(part, Text) and len(part.text) > MAX_SHOWN_CHARS:
        return Text(part.text[:MAX_SHOWN_CHARS] + "...")
    return replace(part, data=b"") if isinstance(part, Media) else part  # may be millions of bytes

"""Draws fresh held-out number pairs of the same kinds as the demo's 64.

The demo's held-out pairs were evaluated while settings were chosen, so their accuracy is optimistic. A draw has as many
pairs of each kind and length as they have, and none of an earlier draw; if no number of a length is left, it takes the
next longer ones.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from kastor.cli.demos.numbers import Pair

SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SPELLED_BELOW = 1000
LONGEST = {"digits": 9, "negative": 9, "thousands": 9, "words": 4}  # digits of a number, words of a spelled one


def kind(text_input: str) -> str:
    """Of which kind an input is.

    >>> [kind(text) for text in ("12", "-7", "2,000", "sixty nine")]
    ['digits', 'negative', 'thousands', 'words']
    """
    if text_input[0] == "-":
        return "negative"
    if text_input.isdigit():
        return "digits"
    return "thousands" if "," in text_input else "words"


def length(text_input: str) -> int:
    """Of how many digits or words an input is.

    >>> [length(text) for text in ("12", "-7", "2,000", "sixty nine")]
    [2, 1, 4, 2]
    """
    return len(text_input.split()) if kind(text_input) == "words" else sum(map(str.isdigit, text_input))


def spelled(number: int) -> str:
    """A number from 0 to 1000 in words, as the demo's pairs have them.

    >>> [spelled(number) for number in (0, 13, 40, 99, 201, 657, 1000)]
    ['zero', 'thirteen', 'forty', 'ninety nine', 'two hundred one', 'six hundred fifty seven', 'one thousand']
    """
    if number == SPELLED_BELOW:
        return "one thousand"
    hundreds, rest = divmod(number, 100)
    words = [SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= len(SMALL):
        words.append(TENS[rest // 10 - 2])
        rest %= 10
    return " ".join([*words, SMALL[rest]] if rest or not words else words)


def draw(number: int, like: Sequence[Pair], known: Collection[str]) -> list[Pair]:
    """The draw of this number, from 1: a pair for each of `like`, none with an input in `known` or an earlier draw."""
    chance, taken = random.Random("held-out numbers"), set(known)  # noqa: S311  # no secret
    for _ in range(number):
        drawn: list[Pair] = []
        wanted = Counter((kind(pair.text_input), length(pair.text_input)) for pair in like)
        for (of, size), num_pairs in sorted(wanted.items()):
            for _ in range(num_pairs):
                pair = next(pair for pair in _candidates(of, size, chance) if pair.text_input not in taken)
                taken.add(pair.text_input)
                drawn.append(pair)
    return drawn


def _candidates(of: str, size: int, chance: random.Random) -> Iterator[Pair]:
    """Pairs of a kind, all the short ones of the size before longer ones."""
    for longer in range(size, LONGEST[of] + 1):
        if of == "words":
            numbers = [number for number in range(SPELLED_BELOW) if length(spelled(number)) == longer]
            write: Callable[[int], str] = spelled
        else:
            low, high = 10 ** (longer - 1) if longer > 1 else 0, 10**longer
            numbers = [number for number in _some(low, high, chance)]
            write = "{:,}".format if of == "thousands" else str
        if of == "negative":
            numbers = [-number for number in numbers if number]
        chance.shuffle(numbers)
        yield from (Pair(write(number), write(number + 1)) for number in numbers)


def _some(low: int, high: int, chance: random.Random) -> Sequence[int]:
    """All numbers of a small range, or a thousand of a large one."""
    return range(low, high) if high - low <= 1000 else chance.sample(range(low, high), 1000)

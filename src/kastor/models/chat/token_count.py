"""How many tokens texts have, without making them: words are counted once and remembered.

A byte-level BPE that cuts as GPT-2 does never merges across a single space between two characters that are not blank,
so a text has the tokens of its words, each with the space before it. Counting them is several times as fast as
tokenising, and exact: what is no such text, or no such tokenizer, is tokenised.
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

MAX_WORDS = 300_000  # remembered; about 40 MB
MAX_WORD_CHARS = 48  # a longer one is hardly met again


class CachedTokenCounter:
    """Counts tokens of texts with one tokenizer, in which no control token is recognised."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, int] = {}  # tokens of each with a space before it; no blank at either end
        self._firsts = {"": 0}  # of the words that texts begin with: no blank at the end
        self._cuts_at_spaces = splits_at_spaces(tokenizer)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text."""
        if not self._cuts_at_spaces:
            return self._tokenised(texts)
        found: list[int] = []
        left: list[tuple[int, list[str]]] = []
        number_of = self._words.__getitem__
        for index, text in enumerate(texts):
            words = text.split(" ")
            first = words.pop(0)
            try:
                found.append(self._firsts[first] + sum(map(number_of, words)))
            except KeyError:
                found.append(0)
                left.append((index, self._pieces(first, words)))
        if left:
            numbers = self._numbers({piece for _, held in left for piece in held})
            for index, held in left:
                found[index] = sum([numbers[piece] for piece in held])
        return found

    def _pieces(self, first: str, words: Sequence[str]) -> list[str]:
        """The text in pieces that may be counted one by one."""
        pieces = [first, *[" " + word for word in words]] if first else [" " + word for word in words]
        known = self._words
        sure = all(_bare(word) for word in words if word not in known) and (not first or not first[-1].isspace())
        return pieces if sure else cacheable_spans(pieces)

    def _numbers(self, pieces: set[str]) -> dict[str, int]:
        """Of each piece its tokens, and what is worth it remembered."""
        numbers = {piece: known for piece in pieces if (known := self._known(piece)) is not None}
        unknown = list(pieces - numbers.keys())
        fresh = dict(zip(unknown, self._tokenised(unknown), strict=True))
        for piece, number in fresh.items():
            if len(piece) <= MAX_WORD_CHARS and len(self._words) + len(self._firsts) < MAX_WORDS:
                if piece[0] == " " and _bare(piece[1:]):
                    self._words[piece[1:]] = number
                elif piece[0] != " " and " " not in piece and not piece[-1].isspace():
                    self._firsts[piece] = number
        return numbers | fresh

    def _known(self, piece: str) -> int | None:
        return self._words.get(piece[1:]) if piece[0] == " " else self._firsts.get(piece)

    def _tokenised(self, texts: Sequence[str]) -> list[int]:
        return [len(one) for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def cacheable_spans(pieces: Sequence[str]) -> list[str]:
    r"""The pieces, each but the first with a space before it, joined where a cut between them would change the tokens.

    That is at blanks that are not a single space.

    >>> cacheable_spans(["a", " b", " ", " c\n", " d"])
    ['a', ' b  c\n d']
    """
    found, begin = [], 0
    for index in range(1, len(pieces)):
        before, after = pieces[index - 1], pieces[index]
        if not before[-1].isspace() and len(after) > 1 and not after[1].isspace():
            found.append("".join(pieces[begin:index]))
            begin = index
    return [*found, "".join(pieces[begin:])]


def _bare(word: str) -> bool:
    """Whether it has no blank at either end, and no space within."""
    return bool(word) and not word[0].isspace() and not word[-1].isspace() and " " not in word


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether it is a byte-level BPE that cuts as GPT-2 does, perhaps with every digit by itself, and nothing else."""
    if tokenizer.normalizer is not None or tokenizer.pre_tokenizer is None or not isinstance(tokenizer.model, BPE):
        return False
    if tokenizer.model.dropout or tokenizer.truncation or tokenizer.padding:
        return False
    if not all(token.special for token in tokenizer.get_added_tokens_decoder().values()):
        return False  # others are recognised in any text
    steps = _steps(json.loads(tokenizer.pre_tokenizer.__getstate__()))
    *before, last = steps
    byte_level = last["type"] == "ByteLevel" and last["use_regex"] and not last["add_prefix_space"]
    return byte_level and all(step["type"] == "Digits" for step in before)


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    return state["pretokenizers"] if state["type"] == "Sequence" else [state]

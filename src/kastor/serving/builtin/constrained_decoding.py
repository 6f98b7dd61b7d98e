"""Constrained decoding: JSON by a schema, or one of several texts.

This is the only module that uses llguidance. Its work for a grammar, and for one step of it, is limited below, so a
hostile schema is refused or ends its own answer, and delays nobody else. Between the parts of a JSON answer at most one
line end with indentation is allowed: a model cannot go on with white space for ever.
"""

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from kastor.domain.errors import InvalidArgument
from kastor.domain.excerpt import shortened
from kastor.domain.generation import ResponseFormat

WHITE_SPACE = r"\n?[ ]{0,16}"
MAX_REASON_CHARS = 300
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 20 ms
    step_lexer_fuel=200_000,  # 14 ms
    step_max_items=50_000,  # 3 ms
    max_lexer_states=20_000,  # 2 kB each
    max_grammar_size=100_000,
    verbose_errors=False,
)


@dataclass(slots=True, eq=False)
class GrammarMatcher:
    """The state of one answer in its grammar."""

    matcher: LLMatcher
    field: str

    def mask_logits(self, logits_V: torch.Tensor) -> torch.Tensor:
        """The logits with -inf for each token that may not come next.

        Raises:
            InvalidArgument: the form is too complex to go on, or nothing fits it.

        """
        words = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed_V = torch.zeros(logits_V.numel(), dtype=torch.bool)
        bits = np.unpackbits(words, bitorder="little", count=min(words.size * 8, logits_V.numel()))
        allowed_V[: bits.size] = torch.from_numpy(bits).bool()
        if not bool(allowed_V.any()):
            raise InvalidArgument.of(self.field, "no text fits it as far as the answer has come; ask for less")
        return logits_V.masked_fill(~allowed_V, -torch.inf)

    def accept(self, token: int) -> bool:
        """Advance by this token, which `mask_logits` allowed; returns whether the answer is complete.

        Raises:
            InvalidArgument: the form is too complex to go on.

        """
        self.matcher.consume_token(token)
        self._check()
        return self.matcher.is_stopped()

    def copy(self) -> "GrammarMatcher":
        """A copy of the state, which advances independently."""
        return GrammarMatcher(self.matcher.deep_copy(), self.field)

    def _check(self) -> None:
        if self.matcher.is_error():
            raise _refused(self.field, self.matcher.get_error())


class GrammarCompiler:
    """Compiles response formats for one base. Thread-safe; slow, so call it outside the generating thread."""

    def __init__(self, tokenizer: str, end_ids: Iterable[int], vocabulary_size: int) -> None:
        """For the tokenizer in `tokenizer` (the text of its tokenizer.json) and logits of `vocabulary_size`."""
        self._text, self._end_ids, self._vocabulary_size = tokenizer, sorted(end_ids), vocabulary_size
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def matcher(self, form: ResponseFormat) -> GrammarMatcher:
        """The matcher of an answer in this format, in its initial state.

        Raises:
            InvalidArgument: the form cannot be compiled; names the caller's field and the reason.

        """
        matcher = LLMatcher(self._lazy_tokenizer(), _grammar(form), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _refused(form.field, matcher.get_error())
        return GrammarMatcher(matcher, form.field)

    def _lazy_tokenizer(self) -> LLTokenizer:
        with self._lock:  # half a second for a vocabulary of 50,000: created at the first use
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(self._text, n_vocab=self._vocabulary_size, eos_token=self._end_ids)
            return self._tokenizer


def _grammar(form: ResponseFormat) -> str:
    if form.choices:
        return LLMatcher.grammar_from_regex("|".join(map(re.escape, form.choices)))
    try:
        return LLMatcher.grammar_from_json_schema(
            json.loads(form.schema), overrides={"whitespace_pattern": WHITE_SPACE}
        )
    except ValueError as error:  # a number beyond its 64 bits
        raise _refused(form.field, str(error)) from error


def _refused(field: str, reason: str) -> InvalidArgument:
    message = reason.partition("\n<")[0].strip()  # llguidance's own state follows in a tag
    message = message.splitlines()[-1].removeprefix("error: ")  # a pattern precedes what is wrong with it
    return InvalidArgument.of(field, f"cannot be followed: {shortened(message, MAX_REASON_CHARS)}")

"""The `filter` parameter of lists, read into conditions (gemini-api.md §3.6).

Terms stand between spaces and all of them hold: words, "quoted phrases", and operators such as `owner:me`.
"""

import re

from kastor.domain.errors import InvalidArgument
from kastor.domain.model_filter import ModelFilter
from kastor.domain.permission import Role

MAX_FILTER_CHARS = 500
TERM = re.compile(r'\s*(?:"([^"]*)"|(\S+))')
OPERATOR = re.compile(r"[-(]*[A-Za-z_.]+[:=].*", re.DOTALL)  # also where it was meant as one
ROLES = {"owner:me": Role.OWNER, "writers:me": Role.WRITER, "readers:me": Role.READER}
EVERYONE = "readers:everyone"
DONE = re.compile(r"\s*done\s*[:=]\s*(true|false)\s*", re.IGNORECASE)


def model_filter(text: str | None) -> ModelFilter:
    """Which tuned models are wanted.

    >>> model_filter('owner:me "number gen" next').texts
    ('number gen', 'next')

    Raises:
        InvalidArgument: there is an operator that is not known, or a quote without its end.

    """
    texts: list[str] = []
    operators: set[str] = set()
    for phrase, word in _terms(text or ""):
        if word is None:
            texts.append(phrase)
        elif OPERATOR.fullmatch(word):
            operators.add(_known(word))
        elif word in ("OR", "NOT"):
            raise _refused(f"{word} is not offered, all terms must hold; put it into quotes to search for the word")
        elif word != "AND":
            texts.append(word)
    roles = frozenset(ROLES[operator] for operator in operators - {EVERYONE})
    return ModelFilter(tuple(filter(None, texts)), roles, everyone=EVERYONE in operators)


def operation_filter(text: str | None) -> ModelFilter:
    """Which models' operations are wanted.

    >>> operation_filter("done=true").done, operation_filter("done:false").done, operation_filter("").done
    (True, False, None)

    Raises:
        InvalidArgument: it asks for something else.

    """
    if not text or not text.strip():
        return ModelFilter()
    asked = DONE.fullmatch(text)
    if asked is None:
        raise _refused(f"{text[:80]!r} is not offered for operations; use done:true or done:false, or leave it out")
    return ModelFilter(done=asked[1].lower() == "true")


def _terms(text: str) -> list[tuple[str, str | None]]:
    """Phrases, or words after an empty one."""
    if len(text) > MAX_FILTER_CHARS or "\0" in text:
        raise _refused(f"{len(text)} characters; use at most {MAX_FILTER_CHARS}, none of them U+0000")
    found: list[tuple[str, str | None]] = []
    for match in TERM.finditer(text):
        phrase, word = match[1], match[2]
        if word is not None and '"' in word:
            raise _refused(f"{word[:80]!r} has a quote that does not open and close a phrase")
        found.append((phrase or "", word))
    return found


def _known(word: str) -> str:
    operator = word.lower()
    if operator != EVERYONE and operator not in ROLES:
        known = ", ".join((*ROLES, EVERYONE))
        raise _refused(f"{word[:80]!r} is not known; use {known}, or put it into quotes to search for the text")
    return operator


def _refused(why: str) -> InvalidArgument:
    return InvalidArgument.of("filter", why)

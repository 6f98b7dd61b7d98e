"""Texts for callers without the server's folders in them. The log keeps the whole sentence."""

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ABSOLUTE = re.compile(
    r"(?:(?<![\w/.~:-])|(?<=:///))/(?P<first>[\w.@+-]+)/(?:[^\s'\"<>:;,()\[\]{}|]*/)*(?P<last>[^\s'\"<>:;,()\[\]{}|/]*)"
)
"""A path of two parts at least; one after a scheme or in the middle of a word is none."""
HIDDEN = "…/"


def without_paths(text: str, roots: Sequence[Path] = ()) -> str:
    """The text with each path of this machine cut down to its last part; those under `roots` whatever is in them.

    A path is one of this machine if its first folder exists here, so the paths of the API stay as they are.

    >>> without_paths("Cannot write to /usr/share/kastor/jobs/a1: no space. See /v1beta/models for a list.")
    'Cannot write to …/a1: no space. See /v1beta/models for a list.'
    >>> without_paths("/data of ours/jobs/a1 is full", [Path("/data of ours")])
    '…/jobs/a1 is full'
    """
    for root in sorted((str(root) for root in roots), key=len, reverse=True):
        if root != "/":
            text = text.replace(root + "/", HIDDEN).replace(root, HIDDEN.rstrip("/"))
    return ABSOLUTE.sub(lambda found: HIDDEN + found["last"] if _exists_here(found["first"]) else found[0], text)


@cache
def _exists_here(first: str) -> bool:
    return os.path.lexists(f"/{first}")

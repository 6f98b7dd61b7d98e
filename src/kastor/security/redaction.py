"""Texts for callers without the server's folders in them. The log keeps the whole sentence."""

import os
import re
from functools import lru_cache
from pathlib import Path

ABSOLUTE = re.compile(
    r"(?:(?<![\w/.~:-])|(?<=:///)|(?<=\\n))/(?P<first>[\w.@+-]+)/(?:[^\s'\"<>:;,()\[\]{}|]*/)*(?P<last>[^\s'\"<>:;,()\[\]{}|/]*)"
)
"""A path of two parts at least; one after a scheme or in the middle of a word is none. JSON spells a line end `\\n`."""
HIDDEN = "…/"


def redact_paths(text: str) -> str:
    """The text with each path of this machine cut down to its last part. A blank ends a path.

    A path is one of this machine if its first folder exists here, so the paths of the API stay as they are.

    >>> redact_paths("Cannot write to /usr/share/kastor/jobs/a1: no space. See /v1beta/models for a list.")
    'Cannot write to …/a1: no space. See /v1beta/models for a list.'
    """
    return ABSOLUTE.sub(lambda found: HIDDEN + found["last"] if exists_here(found["first"]) else found[0], text)


def without_folder(text: str, folder: Path) -> str:
    """The text with paths into one folder cut short, whatever characters its name has.

    >>> without_folder("Cannot write to /my data/jobs/a1: no space.", Path("/my data"))
    'Cannot write to …/jobs/a1: no space.'
    """
    return text.replace(f"{folder}/", HIDDEN)


@lru_cache(maxsize=256)  # messages may repeat what callers sent
def exists_here(first: str) -> bool:
    """Whether the root folder of this machine has an entry of this name."""
    return os.path.lexists(f"/{first}")

"""Uploaded files, and the uploads that become them: values and the rules for names and types.

A file belongs to who uploaded it, is never changed, and is gone after some time. Mirrors gemini-api.md §2.8.
"""

import mimetypes
import re
from dataclasses import dataclass
from datetime import datetime

from kastor.domain.errors import InvalidArgument

FILES = "files/"
MAX_ID_CHARS = 40
MAX_DISPLAY_NAME_CHARS = 512
MAX_MIME_TYPE_CHARS = 255
UNKNOWN_TYPE = "application/octet-stream"
ID_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105  # RFC 9110's word for it
MIME_PATTERN = re.compile(rf"{TOKEN}/{TOKEN}( *; *{TOKEN}=({TOKEN}|\"[\x20-\x21\x23-\x5b\x5d-\x7e]*\"))*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file whose bytes are all there."""

    id: str  # without the `files/` prefix
    owner: str  # e-mail of who uploaded it
    display_name: str
    mime_type: str
    size_bytes: int
    sha256: str  # hexadecimal
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"{FILES}{self.id}"


@dataclass(frozen=True, slots=True)
class Upload:
    """A session in which a file's bytes arrive."""

    id: str  # SHA-256 of the secret in the session's URL, hexadecimal
    file_id: str
    owner: str
    display_name: str
    mime_type: str
    declared_bytes: int | None  # what the client said it would send, if it did
    created_at: datetime


def validated_file_id(name: str) -> str:
    """The id that a client chose, with or without `files/`, if it may be one.

    Raises:
        InvalidArgument: it is too long or breaks the published pattern.

    """
    file_id = name.removeprefix(FILES)
    if len(file_id) > MAX_ID_CHARS:
        raise InvalidArgument.of("file.name", f"{len(file_id)} characters, at most {MAX_ID_CHARS} are allowed")
    if not ID_PATTERN.fullmatch(file_id):
        raise InvalidArgument.of(
            "file.name", f"{name!r} is not files/ID; an ID has lower-case letters, digits and inner hyphens"
        )
    return file_id


def validated_display_name(text: str) -> str:
    """The display name, if it may be one.

    Raises:
        InvalidArgument: it is too long, or holds what is no character.

    """
    if len(text) > MAX_DISPLAY_NAME_CHARS:
        said = f"{len(text)} characters, at most {MAX_DISPLAY_NAME_CHARS} are allowed"
        raise InvalidArgument.of("file.displayName", said)
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidArgument.of("file.displayName", "holds U+0000 or half of a surrogate pair; leave that out")
    return text


def validated_mime_type(declared: str, *names: str) -> str:
    """The type as declared; else the first that one of the file's names tells.

    >>> (validated_mime_type("", "", "numbers.csv"),
    ...  validated_mime_type("image/png", "x.jpg"), validated_mime_type("", "numbers"))
    ('text/csv', 'image/png', 'application/octet-stream')

    Raises:
        InvalidArgument: what was declared is no type.

    """
    if declared:
        if len(declared) > MAX_MIME_TYPE_CHARS or not MIME_PATTERN.fullmatch(declared):
            raise InvalidArgument.of("file.mimeType", f"{declared[:40]!r} is no media type; one is text/plain")
        return declared
    guesses = map(mimetypes.guess_type, names)
    return next((kind for kind, packed in guesses if kind and not packed), UNKNOWN_TYPE)

"""API keys: what they look like, what is kept of them, and how long they live. Where they are kept is the store's.

A key is `kastor_ID_SECRET`: ID, which is no secret, names it for people and in lists; SECRET is 43 characters of 62,
256 bits from the operating system. Secret scanners find one by `KEY_PATTERN`.

Only SHA-256 of the key is kept, and no slow hash such as argon2 or scrypt: those make guessing dear where people choose
the secret. Nobody guesses 256 random bits, whatever the hash, while a slow one would cost each request tens of
milliseconds, and anybody with wrong keys could keep the processor busy.
"""

import hashlib
import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta

from kastor.domain.errors import InvalidArgument
from kastor.domain.permission import validated_email

PREFIX = "kastor_"
KEY_PATTERN = re.compile(r"\bkastor_[a-z0-9]{10}_[A-Za-z0-9]{43}\b")
MAX_LABEL_CHARS = 200
MAX_LIFETIME = timedelta(days=36_500)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_ID_ALPHABET = string.ascii_lowercase + string.digits
_SECRET_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: whose it is, and the digest by which it is known again."""

    id: str
    digest: str  # of the whole key, hexadecimal SHA-256
    email: str
    label: str
    operator: bool
    created_at: datetime
    expires_at: datetime | None = None  # None: never
    revoked_at: datetime | None = None

    def usable(self, at: datetime) -> bool:
        """Whether it lets anybody in at that moment."""
        return self.revoked_at is None and not self.expired(at)

    def expired(self, at: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= at


def new_key(
    email: str, *, at: datetime, label: str = "", operator: bool = False, lifetime: timedelta | None = None
) -> tuple[str, ApiKey]:
    """A fresh key, to be shown once, and what is to be kept of it; without `lifetime` it never expires.

    Raises:
        InvalidArgument: `email` is no e-mail address, or `label` is not a short line of text.

    """
    if len(label) > MAX_LABEL_CHARS or not label.isprintable():
        raise InvalidArgument.of("label", f"has to be one line of at most {MAX_LABEL_CHARS} characters")
    name = _random(_ID_ALPHABET, 10)
    key = f"{PREFIX}{name}_{_random(_SECRET_ALPHABET, 43)}"
    expires_at = None if lifetime is None else at + lifetime
    return key, ApiKey(name, digest(key), validated_email(email, "email"), label, operator, at, expires_at)


def digest(key: str) -> str:
    """SHA-256 of the key, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def lifetime_of(text: str) -> timedelta:
    """The span that `text` names: a number and m, h or d.

    >>> lifetime_of("90d")
    datetime.timedelta(days=90)

    Raises:
        InvalidArgument: it names none, or one beyond a hundred years.

    """
    found = re.fullmatch(r"([0-9]{1,9})([mhd])", text.strip())
    lifetime = int(found[1]) * _UNITS[found[2]] if found else timedelta()
    if not timedelta() < lifetime <= MAX_LIFETIME:
        raise InvalidArgument.of("expires", f"{text[:40]!r} is not a span such as 30m, 12h or 90d (36500d at most)")
    return lifetime


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))

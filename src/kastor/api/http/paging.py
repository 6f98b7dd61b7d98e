"""Page sizes and page tokens.

A token names the last item given, so that what comes or goes between two pages neither repeats nor hides another.
"""

import base64
import binascii
import hashlib
from datetime import UTC, datetime

import orjson

from kastor.api.http.endpoint import ApiRequest
from kastor.domain.errors import InvalidArgument


def page_size(call: ApiRequest, *, default: int = 10, most: int = 1000) -> int:
    """How many items are wanted; more than `most` is `most`.

    Raises:
        InvalidArgument: not a whole number, or negative.

    """
    text = call.query.get("page_size") or "0"
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        raise InvalidArgument.of("pageSize", f"{text[:20]!r} is not a whole number from 0")
    return min(int(text), most) or default


def encode_page_token(*parts: str) -> str:
    """A page token that holds `parts`.

    >>> decode_page_token(encode_page_token("a", "b"), 2)
    ('a', 'b')
    """
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode("ascii").rstrip("=")


def decode_page_token(token: str, count: int) -> tuple[str, ...]:
    """What `encode_page_token` put into the token.

    Raises:
        InvalidArgument: it is none of ours.

    """
    try:
        parts = orjson.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if not isinstance(parts, list) or len(parts) != count or not all(isinstance(part, str) for part in parts):
        raise _bad_token(token)
    return tuple(parts)


def position_token(created_at: datetime, item_id: str, *, of: str = "") -> str:
    """The token of the page that begins after this item, in a list ordered by creation; `of` says which list."""
    return encode_page_token(created_at.isoformat(), item_id, _mark(of))


def page_position(call: ApiRequest, *, of: str = "") -> tuple[datetime, str] | None:
    """The place after which the page begins, in a list ordered by creation; `None` is the beginning.

    Raises:
        InvalidArgument: the token is none of ours, or of another list than `of`: another filter makes another one.

    """
    token = call.query.get("page_token")
    if not token:
        return None
    moment, item_id, mark = decode_page_token(token, 3)
    if mark != _mark(of):
        raise InvalidArgument.of("pageToken", "is of a list with another filter; leave it out to start anew")
    try:
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None or "\0" in item_id:
            raise _bad_token(token)
        return created_at.astimezone(UTC), item_id
    except (ValueError, OverflowError):  # the latter: a moment before the year 1 of UTC, or after the last
        raise _bad_token(token) from None


def _mark(of: str) -> str:
    """A few letters that tell lists apart: against mistakes, not against intent."""
    return hashlib.sha256(of.encode()).hexdigest()[:8]


def _bad_token(token: str) -> InvalidArgument:
    return InvalidArgument.of("pageToken", f"{token[:40]!r} is not a token of this list; leave it out to start anew")

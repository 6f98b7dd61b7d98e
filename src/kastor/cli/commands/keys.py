"""The keys of an installation, on its database: no server is needed, and one that runs sees the change at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kastor.cli.console.output import Output, table
from kastor.security.api_keys import ApiKey, lifetime_of, new_key
from kastor.settings import load_settings
from kastor.store.database import migrate, open_database
from kastor.store.keys import KeyStore


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The key that was asked for."""

    email: str
    label: str
    operator: bool
    expires: str | None  # a span such as 90d


def create(wanted: KeyOptions, data_dir: Path | None, out: Output) -> None:
    """Make a key, keep its digest, show it."""
    lifetime = None if wanted.expires is None else lifetime_of(wanted.expires)
    key, kept = new_key(
        wanted.email, at=datetime.now(UTC), label=wanted.label, operator=wanted.operator, lifetime=lifetime
    )
    with _stored(data_dir) as keys:
        keys.add(kept)
    out.result(_document(kept) | {"key": key}, key)
    if not out.as_json:
        out.say(f"Key {kept.id} of {kept.email}. It is shown only now. To use it: export KASTOR_API_KEY=…")


def list_keys(data_dir: Path | None, out: Output) -> None:
    """All keys, without what lets anybody in."""
    now = datetime.now(UTC)
    with _stored(data_dir) as keys:
        found = keys.all()
    shown = table("id", "e-mail", "label", "may", "created", "expires", "revoked")
    for key in found:
        may = "everything" if key.operator else "their own"
        over = " (over)" if key.expired(now) else ""
        shown.add_row(
            key.id, key.email, key.label, may, _day(key.created_at), _day(key.expires_at) + over, _day(key.revoked_at)
        )
    out.result([_document(key) for key in found], *((shown,) if found else ()))
    if not found:
        out.say("No keys yet. Make one: kastor keys create --email you@example.com")


def revoke(key_id: str, data_dir: Path | None, out: Output) -> None:
    """Make a key useless."""
    with _stored(data_dir) as keys:
        key = keys.revoke(key_id, at=datetime.now(UTC))
    out.result(_document(key), f"revoked {key.id} of {key.email}")


@contextmanager
def _stored(data_dir: Path | None) -> Iterator[KeyStore]:
    """The keys in the database that a server with the same settings uses."""
    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
    try:
        migrate(database)
        yield KeyStore(database)
    finally:
        database.close()


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "email": key.email,
        "label": key.label,
        "operator": key.operator,
        "createTime": key.created_at.isoformat(),
        "expireTime": None if key.expires_at is None else key.expires_at.isoformat(),
        "revokeTime": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }

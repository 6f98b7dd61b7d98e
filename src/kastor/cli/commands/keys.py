"""`kastor keys`: creates, lists and revokes API keys in the database; a running server sees changes at once."""

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
    """Options of a new key."""

    email: str
    label: str
    operator: bool
    expires: str | None  # a span such as 90d


def create(options: KeyOptions, data_dir: Path | None, out: Output) -> None:
    """Create a key, store its digest and print it."""
    lifetime = None if options.expires is None else lifetime_of(options.expires)
    key, stored = new_key(
        options.email, at=datetime.now(UTC), label=options.label, operator=options.operator, lifetime=lifetime
    )
    with _open_key_store(data_dir) as keys:
        keys.add(stored)
    out.result(_document(stored) | {"key": key}, key)
    if not out.as_json:
        out.say(f"Key {stored.id} of {stored.email}. It is not shown again. To use it: export KASTOR_API_KEY=…")


def list_keys(data_dir: Path | None, out: Output) -> None:
    """List all keys without their secrets."""
    now = datetime.now(UTC)
    with _open_key_store(data_dir) as keys:
        found = keys.all()
    rows = table("id", "e-mail", "label", "access", "created", "expires", "revoked")
    for key in found:
        access = "everything" if key.operator else "their own"
        expired = " (expired)" if key.expired(now) else ""
        rows.add_row(
            key.id,
            key.email,
            key.label,
            access,
            _day(key.created_at),
            _day(key.expires_at) + expired,
            _day(key.revoked_at),
        )
    out.result([_document(key) for key in found], *((rows,) if found else ()))
    if not found:
        out.say("No keys yet. To create one: kastor keys create --email you@example.com")


def revoke(key_id: str, data_dir: Path | None, out: Output) -> None:
    """Revoke a key."""
    with _open_key_store(data_dir) as keys:
        key = keys.revoke(key_id, at=datetime.now(UTC))
    out.result(_document(key), f"revoked {key.id} of {key.email}")


@contextmanager
def _open_key_store(data_dir: Path | None) -> Iterator[KeyStore]:
    """The key store in the database of a server with the same settings."""
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

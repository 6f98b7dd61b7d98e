"""API keys as rows. What a key is, and who it lets in, is said in `kastor.security`."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import RowMapping, insert, or_, select, update

from kastor.domain.errors import NotFound
from kastor.security.api_keys import ApiKey
from kastor.store.database import Database
from kastor.store.tables import api_keys


class KeyStore:
    """The table of API keys. Each `find` asks the database, so that a revocation anywhere takes effect at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        with self._database.write() as connection:
            connection.execute(insert(api_keys).values(asdict(key)))

    def find(self, digest: str) -> ApiKey | None:
        """The key with this digest, revoked and expired ones too: one look into a unique index."""
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.digest == digest)).mappings().one_or_none()
        return None if row is None else _api_key(row)

    def all(self) -> list[ApiKey]:
        """Every key there was, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).mappings()
            return [_api_key(row) for row in rows]

    def any_usable(self, at: datetime) -> bool:
        """Whether any key would let somebody in at that moment."""
        alive = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > at)
        query = select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None), alive).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def revoke(self, key_id: str, *, at: datetime) -> ApiKey:
        """The key, which lets nobody in from now on; one that was revoked before keeps its moment.

        Raises:
            NotFound: there is none of this id.

        """
        this = api_keys.c.id == key_id
        with self._database.write() as connection:
            connection.execute(update(api_keys).where(this, api_keys.c.revoked_at.is_(None)).values(revoked_at=at))
            row = connection.execute(select(api_keys).where(this)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"There is no key {key_id[:80]!r}; `kastor keys list` shows the ids.")
        return _api_key(row)


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(**{column.name: row[column] for column in api_keys.c})

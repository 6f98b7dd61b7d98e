"""The table of API keys, on both databases."""

from datetime import timedelta

import pytest

from kastor.domain.errors import NotFound
from kastor.security.api_keys import ApiKey, digest, new_key
from kastor.store.database import Database
from kastor.store.keys import KeyStore
from support.domain_values import START, after


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


def add(keys: KeyStore, email: str = "ada@example.org", seconds: float = 0, **options: object) -> tuple[str, ApiKey]:
    key, kept = new_key(email, at=after(seconds), **options)  # type: ignore[arg-type]
    keys.add(kept)
    return key, kept


def test_a_key_is_found_by_its_digest_as_it_was_kept(keys: KeyStore) -> None:
    key, kept = add(keys, label="Zählen", operator=True, lifetime=timedelta(days=1))
    add(keys, "bo@example.org")
    assert keys.find(digest(key)) == kept
    assert keys.find(digest(key + "x")) is None


def test_keys_are_listed_oldest_first(keys: KeyStore) -> None:
    newer, older = add(keys, seconds=5)[1], add(keys, seconds=1)[1]
    assert keys.all() == [older, newer]


def test_a_revocation_keeps_its_first_moment_and_touches_no_other(keys: KeyStore) -> None:
    (key, kept), (other, _) = add(keys), add(keys)
    assert keys.revoke(kept.id, at=after(10)).revoked_at == after(10)
    assert keys.revoke(kept.id, at=after(20)).revoked_at == after(10)
    found, untouched = keys.find(digest(key)), keys.find(digest(other))
    assert found is not None and not found.usable(after(10))
    assert untouched is not None and untouched.usable(after(10))


def test_a_key_that_is_not_there_cannot_be_revoked(keys: KeyStore) -> None:
    with pytest.raises(NotFound, match="no key 'nobody'; `kastor keys list`"):
        keys.revoke("nobody", at=START)


def test_only_keys_that_let_somebody_in_count(keys: KeyStore) -> None:
    assert not keys.any_usable(START)
    revoked = add(keys)[1]
    keys.revoke(revoked.id, at=START)
    add(keys, lifetime=timedelta(seconds=5))
    assert keys.any_usable(after(4)) and not keys.any_usable(after(5))
    add(keys)
    assert keys.any_usable(after(9_999))

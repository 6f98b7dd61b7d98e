"""What keys look like, and what is kept of them."""

import re
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

import pytest

from kastor.domain.errors import InvalidArgument
from kastor.security.api_keys import KEY_PATTERN, digest, lifetime_of, new_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_key_is_found_by_scanners_and_names_its_id() -> None:
    key, kept = new_key("ada@example.org", at=NOW)
    assert [found.group() for found in KEY_PATTERN.finditer(f'api_key = "{key}"  # mine')] == [key]
    assert key.startswith(f"kastor_{kept.id}_")


def test_nothing_kept_leads_back_to_the_key() -> None:
    key, kept = new_key("ada@example.org", at=NOW, label="mine")
    secret = key.rpartition("_")[2]
    assert secret not in str(astuple(kept))
    assert kept.digest == digest(key) and re.fullmatch("[0-9a-f]{64}", kept.digest)


def test_no_two_keys_are_alike() -> None:
    made = [new_key("ada@example.org", at=NOW) for _ in range(100)]
    assert len({key for key, _ in made}) == len({kept.id for _, kept in made}) == 100


def test_an_address_is_kept_in_lower_case() -> None:
    assert new_key(" Ada@Example.org ", at=NOW)[1].email == "ada@example.org"


@pytest.mark.parametrize(
    "email", ["", "ada", "ada@", "a b@example.org", "a@b@c", "a@" + "x" * 400, "a\x00@example.org"]
)
def test_a_key_is_made_for_an_address_only(email: str) -> None:
    with pytest.raises(InvalidArgument, match="email"):
        new_key(email, at=NOW)


@pytest.mark.parametrize("label", ["two\nlines", "x" * 201, "\x1b[31m"])
def test_a_label_is_a_short_line(label: str) -> None:
    with pytest.raises(InvalidArgument, match="label"):
        new_key("ada@example.org", at=NOW, label=label)


def test_a_key_lives_as_long_as_said() -> None:
    _, kept = new_key("ada@example.org", at=NOW, lifetime=timedelta(days=1))
    assert kept.usable(NOW + timedelta(hours=23)) and not kept.usable(NOW + timedelta(days=1))
    _, kept = new_key("ada@example.org", at=NOW)
    assert kept.usable(NOW + timedelta(days=10_000))


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "0d", "1.5h", "90 d", "1y", "99999d", "999999999d", "٣d"])
def test_a_span_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidArgument, match="90d"):
        lifetime_of(text)

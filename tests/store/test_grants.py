"""The table of grants and who sees which model, on both databases."""

import threading
from collections.abc import Callable

import pytest

from kastor.domain.errors import AlreadyExists, KastorError, NotFound, Superseded
from kastor.domain.permission import Grant, GranteeType, Principal, Role
from kastor.domain.tuned_model import TunedModel
from kastor.store.database import Database
from kastor.store.grants import GrantStore
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore
from support.domain_values import after, make_job, make_model

ADA, BOB, CLEO = (Principal(f"{name}@example.org") for name in ("ada", "bob", "cleo"))
TEAM = "team@example.org"
IN_TEAM = Principal("dan@example.org", groups=frozenset({"other@example.org", TEAM}))


@pytest.fixture
def grants(database: Database) -> GrantStore:
    return GrantStore(database)


@pytest.fixture
def models(database: Database) -> ModelStore:
    return ModelStore(database)


@pytest.fixture
def make(database: Database) -> Callable[..., TunedModel]:
    """Adds a model with its job; Ada's, if nothing else is said."""

    def added(name: str = "numbers", job_id: str | None = None, **changes: object) -> TunedModel:
        job = make_job(job_id or f"job-of-{name}", tuned_model_id=name)
        model = make_model(job, **changes)
        JobStore(database).add(job, model)
        return model

    return added


def make_grant(
    model: TunedModel,
    grant_id: str = "g1",
    to: Principal | str | None = BOB,
    role: Role = Role.READER,
    seconds: float = 0,
) -> Grant:
    """A grant to a user, to a group by its address, or to everybody."""
    if to is None:
        kind, email = GranteeType.EVERYONE, ""
    elif isinstance(to, str):
        kind, email = GranteeType.GROUP, to
    else:
        kind, email = GranteeType.USER, to.email
    return Grant(grant_id, model.id, kind, email, role, after(seconds))


def test_a_grant_comes_back_as_it_was_kept_and_goes(grants: GrantStore, make: Callable[..., TunedModel]) -> None:
    model = make()
    kept = [make_grant(model, "g1"), make_grant(model, "g2", TEAM, Role.WRITER), make_grant(model, "g3", None)]
    for grant in kept:
        grants.add(model, grant)
    assert [grants.get(model.id, grant.id) for grant in kept] == kept
    assert grants.set_role(model.id, "g1", Role.WRITER).role is Role.WRITER
    assert grants.get(model.id, "g1").role is Role.WRITER
    grants.remove(model.id, "g1")
    for act in (grants.get, grants.remove, lambda m, g: grants.set_role(m, g, Role.READER)):
        with pytest.raises(NotFound, match="Permission numbers/permissions/g1 does not exist"):
            act(model.id, "g1")


def test_names_that_no_database_keeps_are_not_found(
    grants: GrantStore, models: ModelStore, make: Callable[..., TunedModel]
) -> None:
    model = make()
    for act in (grants.get, grants.remove, lambda m, g: grants.set_role(m, g, Role.READER)):
        with pytest.raises(NotFound):
            act(model.id, "a\0")
    with pytest.raises(NotFound):
        models.for_caller("a\0", BOB)


def test_a_grant_is_found_under_its_own_model_only(grants: GrantStore, make: Callable[..., TunedModel]) -> None:
    model, other = make(), make("other")
    grants.add(model, make_grant(model))
    for act in (grants.get, grants.remove, lambda m, g: grants.set_role(m, g, Role.WRITER)):
        with pytest.raises(NotFound):
            act(other.id, "g1")
    assert grants.get(model.id, "g1").role is Role.READER


@pytest.mark.parametrize("to", [BOB, TEAM, None, ADA])
def test_a_grantee_has_one_grant_and_the_owner_none(
    grants: GrantStore, make: Callable[..., TunedModel], to: Principal | str | None
) -> None:
    model = make(owner=ADA.email)
    if to is not ADA:
        grants.add(model, make_grant(model, "g1", to))
    with pytest.raises(AlreadyExists):
        grants.add(model, make_grant(model, "g2", to, Role.WRITER))
    grants.add(make("other", owner=CLEO.email), make_grant(make("third", owner=CLEO.email), "g3", to))


def test_grants_are_paged_oldest_first(grants: GrantStore, make: Callable[..., TunedModel]) -> None:
    model, other = make(), make("other")
    for grant_id, seconds in (("c", 1), ("a", 1), ("z", 0), ("b", 2)):
        grants.add(model, make_grant(model, grant_id, Principal(f"{grant_id}@x.org"), seconds=seconds))
    grants.add(other, make_grant(other, "o"))
    seen, place = [], None
    while page := grants.page(model.id, limit=1, after=place):
        (grant,) = page
        seen.append(grant.id)
        place = (grant.created_at, grant.id)
    assert seen == ["z", "a", "c", "b"]


def test_grants_go_with_their_model_and_never_reach_one_of_the_same_name(
    grants: GrantStore, models: ModelStore, make: Callable[..., TunedModel]
) -> None:
    old = make(job_id="job1")
    grants.add(old, make_grant(old))
    models.release(old)
    new = make(job_id="job2", owner=CLEO.email)
    assert grants.page(new.id, limit=9) == []
    for act in (
        lambda: grants.add(old, make_grant(old, "g2")),
        lambda: grants.transfer(old, BOB.email, make_grant(old, "g3", ADA)),
    ):
        with pytest.raises(NotFound):
            act()
    assert models.for_caller(new.id, BOB) == (new, [])


def test_a_transfer_changes_owner_and_grants_together(
    grants: GrantStore, models: ModelStore, make: Callable[..., TunedModel]
) -> None:
    model = make(owner=ADA.email)
    grants.add(model, make_grant(model, "g1", BOB))
    grants.add(model, make_grant(model, "g2", BOB.email))  # a group of the same address keeps its own
    left = make_grant(model, "g3", ADA, Role.WRITER)
    grants.transfer(model, BOB.email, left)
    assert models.get(model.id).owner == BOB.email
    assert [grant.id for grant in grants.page(model.id, limit=9)] == ["g2", "g3"]
    with pytest.raises(Superseded):
        grants.transfer(model, CLEO.email, make_grant(model, "g4", ADA, Role.WRITER))
    assert models.get(model.id).owner == BOB.email


def test_of_many_transfers_at_once_one_is_made(
    grants: GrantStore, models: ModelStore, make: Callable[..., TunedModel]
) -> None:
    model = make(owner=ADA.email)
    won: list[str] = []

    def give(number: int) -> None:
        to = f"user{number}@example.org"
        try:
            grants.transfer(model, to, make_grant(model, f"g{number}", ADA, Role.WRITER))
            won.append(to)
        except KastorError as error:
            assert isinstance(error, Superseded)

    threads = [threading.Thread(target=give, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [models.get(model.id).owner] == won
    assert [(grant.email, grant.role) for grant in grants.page(model.id, limit=9)] == [(ADA.email, Role.WRITER)]


def test_a_caller_gets_every_role_granted_to_them_to_their_groups_and_to_all(
    grants: GrantStore, models: ModelStore, make: Callable[..., TunedModel]
) -> None:
    model, other = make(), make("other")
    for number, (to, role) in enumerate([(IN_TEAM, Role.READER), (TEAM, Role.WRITER), (None, Role.READER)]):
        grants.add(model, make_grant(model, f"g{number}", to, role))
    grants.add(other, make_grant(other, "g9", IN_TEAM.email))  # a group called like the user
    found, granted = models.for_caller(model.id, IN_TEAM)
    assert (found, sorted(granted)) == (model, [Role.READER, Role.READER, Role.WRITER])
    assert models.for_caller(model.id, CLEO) == (model, [Role.READER])
    assert models.for_caller(other.id, IN_TEAM) == (other, [])
    assert models.for_caller(model.id, Principal("x@y.z", groups=frozenset({CLEO.email}))) == (model, [Role.READER])

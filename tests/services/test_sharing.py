"""Sharing never widens by mistake, whatever is called in whatever order."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.domain.errors import KastorError, PermissionDenied
from kastor.domain.permission import OWNER_ID, GranteeType, Principal, Role
from kastor.services.access import ModelAccess
from kastor.services.sharing import NewGrant, SharingService
from kastor.store.database import Database, migrate, open_database
from kastor.store.grants import GrantStore
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore
from support.domain_values import START, make_job, make_model

TEAM = "team@example.org"
ADA = Principal("ada@example.org")  # owns the model
OTHERS = [
    Principal("wendy@example.org"),  # a writer to begin with
    Principal("rita@example.org"),  # a reader
    Principal("tom@example.org", groups=frozenset({TEAM})),  # nobody, but his group may be given something
    Principal("eve@example.org"),  # nobody
]
ADDRESSES = [ADA.email, TEAM, *(caller.email for caller in OTHERS), "EVE@example.org", "", "nobody"]
Grantee = tuple[GranteeType, str]


@dataclass(frozen=True)
class Made:
    """A permission that somebody asks for."""

    new: NewGrant


@dataclass(frozen=True)
class Changed:
    """Another role for the permission at a place in the list."""

    place: int
    role: Role


@dataclass(frozen=True)
class Deleted:
    """No permission any more for the one at a place in the list."""

    place: int


@dataclass(frozen=True)
class GivenAway:
    """Another owner."""

    email: str


Act = Made | Changed | Deleted | GivenAway
ROLES, PLACES, MAILS = st.sampled_from(Role), st.integers(0, 5), st.sampled_from(ADDRESSES)
NEW = st.builds(NewGrant, st.sampled_from(GranteeType), MAILS, ROLES)
ACTS = st.one_of(
    st.builds(Made, NEW), st.builds(Changed, PLACES, ROLES), st.builds(Deleted, PLACES), st.builds(GivenAway, MAILS)
)


@dataclass
class Shared:
    """One model, Ada's, and the rules by which its roles are to follow from what was done."""

    database: Database
    number: int

    def __post_init__(self) -> None:
        job = make_job(f"job{self.number}")
        self.model = make_model(job, owner=ADA.email)
        JobStore(self.database).add(job, self.model)
        ticks = itertools.count()
        self.access = ModelAccess(ModelStore(self.database))
        self.service = SharingService(
            access=self.access,
            grants=GrantStore(self.database),
            clock=lambda: START + timedelta(seconds=next(ticks)),
        )
        self.expected: dict[Grantee, Role] = {}
        for caller, role in zip(OTHERS, (Role.WRITER, Role.READER), strict=False):
            self.act(ADA, Made(NewGrant(GranteeType.USER, caller.email, role)))

    def act(self, caller: Principal, act: Act) -> None:
        """Do it as the caller, and note what it is to lead to if it was let through."""
        model, listed = self.model.id, self.listed()
        if isinstance(act, Made):
            made = self.service.create(model, act.new, caller)
            self.expected[made.grantee_type, made.email] = act.new.role
        elif isinstance(act, GivenAway):
            self.service.transfer(model, act.email, caller)
        else:
            grantee, permission_id, _ = listed[act.place % len(listed)]
            if isinstance(act, Changed):
                self.service.change_role(model, permission_id, act.role, caller)
                self.expected[grantee] = act.role
            else:
                self.service.delete(model, permission_id, caller)
                del self.expected[grantee]

    def listed(self) -> list[tuple[Grantee, str, Role]]:
        """The permissions as their owner sees them."""
        page = self.service.permissions(self.model.id, ADA, limit=99)
        return [((grant.grantee_type, grant.email), grant.id, grant.role) for grant in page.items]

    def role(self, caller: Principal) -> Role | None:
        """What the caller may do, found by trying."""
        found = None
        for role in Role:
            with suppress(PermissionDenied):
                self.access.model(self.model.id, caller, role)
                found = role
        return found

    def expected_role(self, caller: Principal) -> Role | None:
        """What the caller may do by what was done."""
        names = [(GranteeType.USER, caller.email), (GranteeType.EVERYONE, "")]
        names += [(GranteeType.GROUP, group) for group in caller.groups]
        return max((self.expected[n] for n in names if n in self.expected), key=lambda role: role.rank, default=None)


@pytest.fixture(scope="module")
def make_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Shared]]:
    """Makes a model of its own for each sequence."""
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('sharing') / 'kastor.db'}")
    migrate(database)
    numbers = itertools.count()
    yield lambda: Shared(database, next(numbers))
    database.close()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(acts=st.lists(st.tuples(st.sampled_from(OTHERS), ACTS), max_size=25))
def test_nothing_that_others_do_makes_a_second_owner_or_lets_a_stranger_in(
    make_shared: Callable[[], Shared], acts: list[tuple[Principal, Act]]
) -> None:
    shared = make_shared()
    for caller, act in acts:
        before = shared.expected_role(caller)
        try:
            shared.act(caller, act)
        except KastorError as error:
            assert before is Role.WRITER or isinstance(error, PermissionDenied)
        else:
            assert before is Role.WRITER
            assert not isinstance(act, GivenAway)
        listed = shared.listed()
        assert listed[0] == ((GranteeType.USER, ADA.email), OWNER_ID, Role.OWNER)
        assert {grantee: role for grantee, _, role in listed[1:]} == shared.expected
        assert len(listed) == len(shared.expected) + 1
        assert Role.OWNER not in shared.expected.values()
        assert shared.expected.get((GranteeType.EVERYONE, "")) in (None, Role.READER)
        assert (GranteeType.USER, ADA.email) not in shared.expected
        assert [shared.role(one) for one in OTHERS] == [shared.expected_role(one) for one in OTHERS]
        assert shared.role(ADA) is Role.OWNER


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    emails=st.lists(st.sampled_from(OTHERS), min_size=1, max_size=6),
    acts=st.lists(st.tuples(st.sampled_from([ADA, *OTHERS]), ACTS), max_size=10),
)
def test_a_model_has_one_owner_however_often_it_is_given_away(
    make_shared: Callable[[], Shared], emails: list[Principal], acts: list[tuple[Principal, Act]]
) -> None:
    shared, owner = make_shared(), ADA
    root = Principal("root@example.org", operator=True)
    moves: list[tuple[Principal, Act]] = [(ADA, GivenAway(to.email)) for to in emails]
    for caller, act in [pair for pairs in itertools.zip_longest(moves, acts) for pair in pairs if pair]:
        doer = owner if isinstance(act, GivenAway) and caller is ADA else caller
        with suppress(KastorError, KeyError):
            if isinstance(act, GivenAway):
                shared.service.transfer(shared.model.id, act.email, doer)
                owner = next((one for one in (ADA, *OTHERS) if one.email == act.email.lower()), Principal(act.email))
            elif not isinstance(act, Made):
                continue
            else:
                shared.service.create(shared.model.id, act.new, doer)
        items = shared.service.permissions(shared.model.id, root, limit=99).items
        assert [grant.email for grant in items if grant.role is Role.OWNER] == [owner.email]
        users = [grant.email for grant in items if grant.grantee_type is GranteeType.USER]
        assert len(users) == len(set(users))
        assert shared.role(owner) is Role.OWNER

"""Which models and jobs a list holds for whom, on both databases."""

from collections.abc import Callable

import pytest

from kastor.domain.model_filter import ModelFilter
from kastor.domain.permission import Grant, GranteeType, Principal, Role
from kastor.store.database import Database
from kastor.store.grants import GrantStore
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore, page_query
from support.domain_values import START, after, make_job, make_model, make_snapshot

ADA, BOB, CLEO = (Principal(f"{name}@example.org") for name in ("ada", "bob", "cleo"))
DAN = Principal("dan@example.org", groups=frozenset({"team@example.org", "more@example.org"}))
ROOT = Principal("root@example.org", operator=True)
GRANTS = {
    "to-bob": (GranteeType.USER, BOB.email, Role.READER),
    "to-bob-writer": (GranteeType.USER, BOB.email, Role.WRITER),
    "to-team": (GranteeType.GROUP, "team@example.org", Role.READER),
    "to-all": (GranteeType.EVERYONE, "", Role.READER),
}
MINE, WRITE, READ = (ModelFilter(roles=frozenset({role})) for role in (Role.OWNER, Role.WRITER, Role.READER))
EVERYONE, ALL = ModelFilter(everyone=True), ModelFilter()


@pytest.fixture
def listed(database: Database) -> Callable[..., list[str]]:
    """Names of listed models; Ada owns them all but Bob's, and each is shared as its name says."""
    jobs, grants = JobStore(database), GrantStore(database)
    for number, name in enumerate(("own", *GRANTS, "bobs")):
        job = make_job(f"job{number}", tuned_model_id=name, created_at=after(-number))
        model = make_model(job, owner=BOB.email if name == "bobs" else ADA.email)
        jobs.add(job, model)
        if name in GRANTS:
            kind, email, role = GRANTS[name]
            grants.add(model, Grant(f"g{number}", name, kind, email, role, START))

    def names(caller: Principal, where: ModelFilter = ALL) -> list[str]:
        return [model.id for model, _ in ModelStore(database).page(caller, limit=99, where=where)]

    return names


@pytest.mark.parametrize(
    ("caller", "where", "names"),
    [
        (ADA, ALL, ["own", *GRANTS]),
        (ADA, MINE, ["own", *GRANTS]),
        (ADA, WRITE, []),
        (ADA, EVERYONE, ["to-all"]),
        (BOB, ALL, ["to-bob", "to-bob-writer", "bobs"]),
        (BOB, MINE, ["bobs"]),
        (BOB, WRITE, ["to-bob-writer"]),
        (BOB, READ, ["to-bob"]),
        (BOB, EVERYONE, ["to-all"]),
        (BOB, ModelFilter(roles=frozenset({Role.READER, Role.WRITER})), []),
        (BOB, ModelFilter(roles=frozenset({Role.READER}), everyone=True), []),
        (CLEO, ALL, []),
        (CLEO, MINE, []),
        (CLEO, READ, []),
        (CLEO, EVERYONE, ["to-all"]),
        (DAN, ALL, ["to-team"]),
        (DAN, READ, ["to-team"]),
        (DAN, WRITE, []),
        (ROOT, ALL, ["own", *GRANTS, "bobs"]),
        (ROOT, MINE, []),
        (ROOT, EVERYONE, ["to-all"]),
    ],
)
def test_a_list_holds_what_its_reader_owns_or_was_given(
    listed: Callable[..., list[str]], caller: Principal, where: ModelFilter, names: list[str]
) -> None:
    assert listed(caller, where) == names


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (("number",), ["a", "b"]),
        (("NUMBER",), ["a", "b"]),
        (("number", "next"), ["b"]),
        (("wir zählen",), ["c"]),
        (("100%",), ["d"]),
        (("%",), ["d"]),
        (("_",), ["e"]),
        (("\\",), ["f"]),
        (("number generator",), ["a"]),
        (("nothing",), []),
        (("",), ["a", "b", "c", "d", "e", "f"]),
    ],
)
def test_texts_stand_in_name_or_description_in_any_case_and_literally(
    database: Database, texts: tuple[str, ...], names: list[str]
) -> None:
    said = {
        "a": ("Number generator", ""),
        "b": ("counts", "the NEXT number"),
        "c": ("wir zählen", ""),
        "d": ("100% sure", ""),
        "e": ("snake_case", ""),
        "f": ("back\\slash", ""),
    }
    for number, (name, (display_name, description)) in enumerate(said.items()):
        job = make_job(f"job{number}", tuned_model_id=name, created_at=after(-number))
        model = make_model(job, owner=ADA.email, display_name=display_name, description=description)
        JobStore(database).add(job, model)
    found = ModelStore(database).page(ADA, limit=9, where=ModelFilter(texts=texts))
    assert [model.id for model, _ in found] == names


def test_sqlite_lowers_more_than_ascii_as_a_postgresql_does_by_its_locale(sqlite_database: Database) -> None:
    job = make_job()
    JobStore(sqlite_database).add(job, make_model(job, owner=ADA.email, display_name="wir zÄhlen"))
    for text in ("ZäHLEN", "zählen"):
        assert len(ModelStore(sqlite_database).page(ADA, limit=9, where=ModelFilter(texts=(text,)))) == 1


def test_done_is_said_of_the_job(database: Database) -> None:
    jobs, models = JobStore(database), ModelStore(database)
    for number in range(3):
        job = make_job(f"job{number}", created_at=after(number))
        jobs.add(job, make_model(job, owner=ADA.email))
    jobs.request_cancel("job0", at=after(9))
    claimed = jobs.claim(at=after(9), max_active=1)
    assert claimed is not None and claimed.id == "job1"
    for done, ids in ((True, ["job0"]), (False, ["job2", "job1"]), (None, ["job2", "job1", "job0"])):
        assert [job.id for _, job in models.page(ADA, limit=9, where=ModelFilter(done=done))] == ids


def test_pages_of_a_filtered_list_hold_each_model_once(database: Database) -> None:
    jobs, models = JobStore(database), ModelStore(database)
    for number in range(12):
        job = make_job(f"job{number:02}", created_at=after(number // 3))
        owner = ADA if number % 2 else BOB
        jobs.add(job, make_model(job, owner=owner.email, display_name="odd" if number % 2 else "even"))
    seen, before = [], None
    while page := models.page(ADA, limit=2, before=before, where=ModelFilter(texts=("odd",))):
        seen += [job.id for _, job in page]
        before = (page[-1][0].created_at, page[-1][0].id)
    assert seen == ["job11", "job09", "job07", "job05", "job03", "job01"]


def test_jobs_are_those_of_the_callers_models(database: Database, listed: Callable[..., list[str]]) -> None:
    jobs = JobStore(database)
    for caller in (ADA, BOB, CLEO, DAN):
        assert [job.tuned_model_id for job in jobs.page(limit=9, caller=caller)] == listed(caller)


def test_snapshots_of_several_jobs_come_together_all_or_the_latest(database: Database) -> None:
    jobs = JobStore(database)
    for number, steps in enumerate((3, 0, 1)):
        job = make_job(f"job{number}", created_at=after(number))
        jobs.add(job, make_model(job))
        jobs.claim(at=START, max_active=9)
        for step in range(1, steps + 1):
            jobs.record_step(job.id, 1, make_snapshot(step))

    def numbers(latest: int | None) -> dict[str, list[int]]:
        found = jobs.snapshots_of(["job2", "job0", "job1"], latest=latest)
        return {job_id: [snapshot.step for snapshot in steps] for job_id, steps in found.items()}

    assert numbers(None) == {"job0": [1, 2, 3], "job1": [], "job2": [1]}
    assert numbers(2) == {"job0": [2, 3], "job1": [], "job2": [1]}
    jobs.rewind("job0", 1, 2)
    assert numbers(1) == {"job0": [2], "job1": [], "job2": [1]}
    assert jobs.snapshots_of([]) == {}


@pytest.mark.parametrize("caller", [ROOT, ADA, DAN])
@pytest.mark.parametrize("where", [ALL, MINE, READ, EVERYONE, ModelFilter(("a",)), ModelFilter(done=True)])
@pytest.mark.parametrize("before", [None, (START, "x")])
def test_a_page_is_read_from_an_index_from_where_it_begins_and_nothing_is_sorted(
    sqlite_database: Database, caller: Principal, where: ModelFilter, before: tuple[object, str] | None
) -> None:
    query = page_query(caller, limit=10, before=before, where=where)  # type: ignore[arg-type]
    compiled = query.compile(sqlite_database.engine, compile_kwargs={"render_postcompile": True})
    values = ("",) * len(compiled.positiontup or ())  # a plan does not look at them
    with sqlite_database.read() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values).all()
    steps = [row.detail for row in rows]
    assert "_created_at_id" in steps[0], steps
    assert before is None or "(created_at,id)<(?,?)" in steps[0], steps
    assert not any("TEMP B-TREE" in step or step.startswith("SCAN grants") for step in steps), steps

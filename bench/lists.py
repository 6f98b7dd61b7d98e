"""Latency of the first and the last page of 10,000 tuned models: `python -m bench.lists`.

Runs on SQLite in a temporary folder, and on PostgreSQL if `KASTOR_BENCH_POSTGRES` is the URL of an empty database (its
tables are created and stay). Prints the median of 5 in milliseconds, for callers who see all models and who see few.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import insert, text

from kastor.domain.job import AdapterShape, Hyperparameters, State, StepMetrics, TuningJob, TuningSpec
from kastor.domain.model_filter import ModelFilter
from kastor.domain.permission import Grant, GranteeType, Principal, Role
from kastor.domain.tuned_model import TunedModel
from kastor.models.catalog import load_catalog
from kastor.services.tuning import TuningService
from kastor.store import tables
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import Database, migrate, open_database
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore

NUM_MODELS = 10_000
NUM_STEPS = 10  # snapshots of each model: Google's quick start makes 19
NUM_RUNS = 5
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = TuningSpec("smollm2-135m-instruct", Hyperparameters(5, 4, 0.001), AdapterShape(8, 16.0, ("q_proj",)), 8)
OPERATOR = Principal("root@example.org", operator=True)
OWNER = Principal("ada@example.org")  # of all but every hundredth
FEW = Principal("bob@example.org")  # owns every hundredth
SHARED = Principal("cleo@example.org", groups=frozenset({"team@example.org"}))  # every tenth is shared with their group
Place = tuple[datetime, str]


def fill(database: Database) -> None:
    """Models with a finished job each, a second apart."""
    jobs, models, grants, snapshots = [], [], [], []
    for number in range(NUM_MODELS):
        at = START + timedelta(seconds=number)
        owner = FEW if number % 100 == 0 else OWNER
        names = (f"job{number}", f"model-{number}")
        job = TuningJob(*names, SPEC, State.SUCCEEDED, at, at, owner.email, completed_steps=NUM_STEPS)
        name = f"numbers {number}"
        model = TunedModel(job.tuned_model_id, job.id, "x", owner.email, at, at, display_name=name)
        values = asdict(job)
        values.pop("error")
        jobs.append(values)
        models.append(asdict(model))
        steps = [StepMetrics(step, 1, 1.0, 120, 14, 0.5, at) for step in range(1, NUM_STEPS + 1)]
        snapshots += [asdict(step) | {"job_id": job.id} for step in steps]
        if number % 10 == 0:
            group = Grant(f"g{number}", model.id, GranteeType.GROUP, "team@example.org", Role.READER, at)
            grants.append(asdict(group))
    with database.write() as connection:
        connection.execute(insert(tables.jobs), jobs)
        connection.execute(insert(tables.tuned_models), models)
        connection.execute(insert(tables.grants), grants)
        connection.execute(insert(tables.snapshots), snapshots)
        connection.execute(text("ANALYZE"))


def median_ms(ask: Callable[[], object]) -> float:
    """Of some runs after a first one."""
    ask()
    taken = []
    for _ in range(NUM_RUNS):
        begin = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1000


def places(service: TuningService, caller: Principal, size: int, where: ModelFilter) -> tuple[Place | None, int]:
    """Where the last page begins, and how many models the pages hold together."""
    before: Place | None = None
    count = 0
    while True:
        page = service.models(caller, limit=size, before=before, where=where)
        count += len(page.items)
        if not page.more:
            return before, count
        before = (page.items[-1].model.created_at, page.items[-1].model.id)


def lines(service: TuningService) -> Iterator[str]:
    """What was measured."""
    cases = {
        "operator": (OPERATOR, ModelFilter()),
        "owner of 99 %": (OWNER, ModelFilter()),
        "owner of 1 %": (FEW, ModelFilter()),
        "owner of 1 %, owner:me": (FEW, ModelFilter(roles=frozenset({Role.OWNER}))),
        "10 % by group": (SHARED, ModelFilter()),
        "operator, text of one": (OPERATOR, ModelFilter(texts=("NUMBERS 77",))),
    }
    for name, (caller, where) in cases.items():
        for size in (10, 1000):
            last, count = places(service, caller, size, where)
            first_ms = median_ms(partial(service.models, caller, limit=size, where=where))
            last_ms = median_ms(partial(service.models, caller, limit=size, where=where, before=last))
            yield f"{name:24} {count:6} models, pages of {size:4}: first {first_ms:7.2f} ms, last {last_ms:7.2f} ms"


def run(url: str, folder: Path) -> None:
    """Fill the database and measure."""
    with closing(open_database(url)) as database:
        migrate(database)
        fill(database)
        service = TuningService(
            jobs=JobStore(database),
            models=ModelStore(database),
            blobs=JobFiles(folder),
            catalog=load_catalog(),
            clock=lambda: datetime.now(UTC),
            wake=lambda: None,
        )
        for line in lines(service):
            print(line, flush=True)


def main() -> None:
    """Measure on every database there is."""
    with tempfile.TemporaryDirectory() as folder:
        print("SQLite")
        run(f"sqlite:///{folder}/kastor.db", Path(folder))
        if url := os.environ.get("KASTOR_BENCH_POSTGRES"):
            print("PostgreSQL")
            run(url, Path(folder))


if __name__ == "__main__":
    main()

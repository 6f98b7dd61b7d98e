"""How fast earlier jobs trained on a base model, from this installation's database."""

from pathlib import Path

from kastor.dataset.estimate import Speed
from kastor.domain.errors import KastorError
from kastor.settings import Settings
from kastor.store.database import open_database
from kastor.store.jobs import JobStore

NUM_JOBS = 5
NUM_SEARCHED = 100
NUM_STEPS = 50  # the latest ones of each


def measured_speed(base_id: str, settings: Settings) -> Speed | None:
    """Tokens a second over the latest jobs on the base; `None` if there were none, or the database cannot be read."""
    if settings.database_url is None and not (Path(settings.data_dir) / "kastor.db").is_file():
        return None
    try:
        database = open_database(settings.resolved_database_url)
        try:
            return _speed(JobStore(database), base_id)
        finally:
            database.close()
    except KastorError:
        return None  # an estimate is no reason to fail


def _speed(jobs: JobStore, base_id: str) -> Speed | None:
    trained = [
        job.id for job in jobs.page(limit=NUM_SEARCHED) if job.spec.base_model == base_id and job.completed_steps
    ]
    of_jobs = [steps for steps in jobs.snapshots_of(trained[:NUM_JOBS], latest=NUM_STEPS).values() if steps]
    elapsed_s = sum(step.elapsed_s for steps in of_jobs for step in steps)
    if elapsed_s <= 0:
        return None
    num_tokens = sum(step.num_tokens for steps in of_jobs for step in steps)
    jobs_named = "the last job" if len(of_jobs) == 1 else f"the last {len(of_jobs)} jobs"
    return Speed(num_tokens / elapsed_s, f"{jobs_named} on this base here")

"""What the use cases promise beside what the wire's tests show."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kastor.domain.content import Example, Prompt
from kastor.domain.errors import FailedPrecondition, KastorError, NotFound, Unavailable
from kastor.domain.generation import ResolvedMedia
from kastor.domain.job import Rendering, State, TuningJob
from kastor.domain.model_ref import ModelRef
from kastor.domain.permission import Principal
from kastor.domain.request_limits import GEMINI_API
from kastor.domain.tuned_model import TunedModel, random_model_id
from kastor.models.catalog import Catalog, load_catalog
from kastor.services.access import ModelAccess
from kastor.services.generation import GenerationService
from kastor.services.generation_request import GenerationParams
from kastor.services.prompt_media import PromptMediaResolver
from kastor.services.sampling_records import SamplingRecordCache
from kastor.services.trained_prompts import TrainedPromptKinds
from kastor.services.tuning import TuningService
from kastor.services.tuning_request import NewTuning
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import Database, migrate, open_database
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore

ADA = Principal("ada@example.org")
NEW = NewTuning(ModelRef("smollm2-135m-instruct"), GEMINI_API, (Example.pair("1", "2"),), tuned_model_id="numbers")


class NoGenerator:
    """Nothing is generated here."""

    def generate(self, request: object) -> Any:
        raise AssertionError("not asked to")

    def count_tokens(self, base_model: str, prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> int:
        raise AssertionError("not asked to")


class NoEyes:
    """Nothing is looked at here."""

    def inspect(self, *given: object, **limits: object) -> Any:
        raise AssertionError("not asked to")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'kastor.db'}")
    migrate(database)
    yield database
    database.close()


def make_service(store: Database, folder: Path, **parts: Any) -> TuningService:
    given: dict[str, Any] = {
        "jobs": JobStore(store),
        "models": ModelStore(store),
        "blobs": JobFiles(folder),
        "catalog": load_catalog(),
        "clock": lambda: datetime.now(UTC),
        "wake": lambda: None,
    }
    return TuningService(**(given | parts))


@pytest.fixture
def service(store: Database, tmp_path: Path) -> TuningService:
    return make_service(store, tmp_path)


def folders(root: Path) -> list[str]:
    return [path.name for path in (root / "jobs").iterdir()]


def test_a_job_holds_what_decides_its_outcome_and_the_model_its_owner(service: TuningService) -> None:
    tuning = service.create(NEW, ADA)
    assert tuning.model.owner == tuning.job.creator == ADA.email
    assert tuning.job.spec.seed == 0
    assert tuning.job.spec.adapter == load_catalog().base("smollm2-135m-instruct").adapter


class FailingJobs(JobStore):
    """A database that fails in the very moment."""

    def add(self, job: TuningJob, model: TunedModel) -> None:
        raise Unavailable("The database was busy.")


def test_a_create_that_cannot_be_stored_leaves_no_files(store: Database, tmp_path: Path) -> None:
    service = make_service(store, tmp_path, jobs=FailingJobs(store))
    with pytest.raises(Unavailable):
        service.create(NEW, ADA)
    assert folders(tmp_path) == []


def test_of_many_creates_of_one_id_one_wins_and_only_its_files_stay(service: TuningService, tmp_path: Path) -> None:
    won: list[str] = []

    def create() -> None:
        try:
            won.append(service.create(NEW, ADA).job.id)
        except KastorError as error:
            assert error.code.name == "ALREADY_EXISTS"

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folders(tmp_path) == won


def test_a_model_whose_base_left_the_catalog_is_still_listed_but_not_served(
    service: TuningService, store: Database, tmp_path: Path
) -> None:
    job = service.create(NEW, ADA).job
    jobs = JobStore(store)
    claimed = jobs.claim(at=datetime.now(UTC), max_active=1)
    assert claimed is not None
    running = jobs.move(claimed, State.RUNNING, at=datetime.now(UTC))
    jobs.move(running, State.SUCCEEDED, at=datetime.now(UTC))
    nothing = Catalog({}, {})
    emptied = make_service(store, tmp_path, catalog=nothing)
    generation = GenerationService(
        access=ModelAccess(ModelStore(store)),
        jobs=jobs,
        catalog=nothing,
        generator=NoGenerator(),
        sights=PromptMediaResolver(NoEyes(), Path),
        trained=SamplingRecordCache(lambda ref: tmp_path / str(ref)).get,
        prompts=TrainedPromptKinds(ModelStore(store), JobFiles(tmp_path).dataset),
    )
    assert [tuning.job.id for tuning in emptied.models(ADA, limit=5).items] == [job.id]
    with pytest.raises(NotFound):
        generation.stream(ModelRef("numbers", tuned=True), GenerationParams(Prompt.of("1")), ADA, GEMINI_API)


def test_an_interrupted_tidying_is_finished_by_the_next(
    service: TuningService, store: Database, tmp_path: Path
) -> None:
    class StuckBlobs(JobFiles):
        def remove_job(self, job_id: str) -> None:
            raise FailedPrecondition("Cannot write to it.")

    service.create(NEW, ADA)
    stuck = make_service(store, tmp_path, blobs=StuckBlobs(tmp_path))
    stuck.delete_model("numbers", ADA)
    assert len(folders(tmp_path)) == 1
    with pytest.raises(NotFound):
        stuck.model("numbers", ADA)
    service.delete_orphans()
    assert folders(tmp_path) == []
    assert service.jobs(ADA, limit=5).items == ()


def test_what_a_create_left_that_was_killed_before_its_row_goes_after_an_hour(store: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    service = make_service(store, tmp_path, clock=lambda: now)
    kept = service.create(NEW, ADA).job.id
    blobs = JobFiles(tmp_path)
    for job_id in ("killed", "begun"):
        blobs.write_dataset(job_id, [b"{}"])
    blobs.log("begun").touch()  # a job of another database that uses this folder
    service.delete_stale_uploads()
    assert sorted(folders(tmp_path)) == sorted(["begun", "killed", kept])
    now += timedelta(minutes=61)
    service.delete_stale_uploads()
    assert sorted(folders(tmp_path)) == sorted(["begun", kept])


def test_what_a_resume_left_that_was_killed_before_its_row_goes_after_an_hour(store: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    service = make_service(store, tmp_path, clock=lambda: now)
    failed = service.create(NEW, ADA).job.id
    blobs = JobFiles(tmp_path)
    blobs.log(failed).touch()
    saved = blobs.checkpoints(failed) / "step-000004" / "adapter_model.safetensors"
    saved.parent.mkdir(parents=True)
    saved.write_bytes(b"tensors")
    two_hours_ago = (now - timedelta(hours=2)).timestamp()
    os.utime(blobs.job_dir(failed), (two_hours_ago, two_hours_ago))
    blobs.link_job(failed, "killed")
    service.delete_stale_uploads()
    assert sorted(folders(tmp_path)) == sorted([failed, "killed"]), "it is young, however old the other is"
    assert (blobs.checkpoints("killed") / "step-000004" / saved.name).samefile(saved)
    now += timedelta(minutes=61)
    service.delete_stale_uploads()
    assert folders(tmp_path) == [failed] and saved.read_bytes() == b"tensors"


def test_nothing_is_swept_where_there_is_nothing(service: TuningService) -> None:
    service.delete_stale_uploads()


def test_a_new_job_wakes_the_scheduler(store: Database, tmp_path: Path) -> None:
    woken = threading.Event()
    service = make_service(store, tmp_path, wake=woken.set)
    service.create(replace(NEW, tuned_model_id=None), ADA)
    assert woken.is_set()


def test_ids_look_like_googles() -> None:
    made = [random_model_id() for _ in range(200)]
    assert all(len(one) == 12 for one in made) and not set("".join(made)) & set("aeiou01ly-_ABC")

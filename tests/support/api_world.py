"""A whole API over a real store, with fakes where processes would be: a generator that says what it is told to."""

import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import uvicorn
from prometheus_client import CollectorRegistry

from kastor.api.app import Services, make_app
from kastor.api.http.observability import Metrics
from kastor.domain.content import Prompt
from kastor.domain.errors import Code, KastorError, Superseded
from kastor.domain.generation import Chunk, FinishReason, GenerateRequest, ResolvedMedia, TokenLogprob, TokenStep
from kastor.domain.job import JobError, Rendering, State, StepMetrics, TuningJob
from kastor.domain.request_limits import GEMINI_API, Limits
from kastor.media.cache import MediaCache
from kastor.models.catalog import load_catalog
from kastor.security.auth import Authenticator
from kastor.server.http_protocol import LimitedHttpProtocol
from kastor.services.access import ModelAccess
from kastor.services.datasets import DatasetService
from kastor.services.files import FileService
from kastor.services.generation import GenerationService
from kastor.services.media_inspector import LocalMediaInspector
from kastor.services.prompt_media import PromptMediaResolver
from kastor.services.sampling_records import SamplingRecordCache
from kastor.services.sharing import SharingService
from kastor.services.trained_prompts import TrainedPromptKinds
from kastor.services.tuning import TuningService
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.manifests import STATE_FILE, write_manifest
from kastor.store.blobs.upload_blobs import UploadBlobs
from kastor.store.database import Database
from kastor.store.files import FileStore
from kastor.store.grants import GrantStore
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore

ALIAS = "models/gemini-1.5-flash-001-tuning"
BASE = "models/smollm2-135m-instruct"


class FakeGenerator:
    """Says `words`, a piece each; fails with `error` before the piece `fails_at`."""

    def __init__(self, words: Sequence[str] = ("twenty ", "three")) -> None:
        self.words = tuple(words)
        self.error: Exception | None = None
        self.fails_at = 0
        self.requests: list[GenerateRequest] = []
        self.counted_with: list[Rendering] = []
        self.closed = threading.Event()
        self.between: Callable[[], object] = lambda: None

    def generate(self, request: GenerateRequest) -> Generator[Chunk, None, None]:
        self.requests.append(request)
        try:
            for i, word in enumerate(self.words):
                if self.error is not None and i == self.fails_at:
                    raise self.error
                last = i == len(self.words) - 1
                for index in range(request.num_candidates):
                    yield Chunk(word, 7, i + 1, FinishReason.STOP if last else None, index, _steps(request, i, word))
                self.between()
        finally:
            self.closed.set()

    def count_tokens(self, base_model: str, prompt: Prompt, shown: ResolvedMedia, rendering: Rendering) -> int:
        self.counted_with.append(rendering)
        return sum(len(content.text.split()) for content in prompt.contents)


def _steps(request: GenerateRequest, place: int, word: str) -> tuple[TokenStep, ...]:
    """Log-probabilities -0.5, -1.5, … of the words, where they are asked for."""
    num_top = request.sampling.top_logprobs
    if num_top is None:
        return ()
    top = tuple(TokenLogprob(f"top{rank}", rank, -0.25 * (rank + 1)) for rank in range(num_top))
    return (TokenStep(TokenLogprob(word, 100 + place, -0.5 - place), top),)


class Client:
    """Calls the application in this process, without a socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, method: str, target: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, target, **options)

        return anyio.run(ask)


def pairs(count: int = 15) -> list[dict[str, str]]:
    return [{"textInput": str(i), "output": str(i + 1)} for i in range(count)]


def tuning_body(examples: object = None, **changes: object) -> dict[str, Any]:
    """A create request for the number data set."""
    listed = pairs() if examples is None else examples
    task = {"trainingData": {"examples": {"examples": listed}}}
    return {"displayName": "number generator", "baseModel": ALIAS, "tuningTask": task} | changes


@dataclass
class World:
    """Store, service, application."""

    folder: Path
    database: Database
    limits: Limits = GEMINI_API
    keys: Mapping[str, str] = field(default_factory=dict)  # none: everybody is let in
    authenticator: Authenticator | None = None  # one that is more than these keys
    cors_origins: Sequence[str] = ()
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    max_file_bytes: int = 64 * 1024 * 1024
    public_metrics: bool = False

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.database)
        self.models = ModelStore(self.database)
        self.blobs = JobFiles(self.folder)
        self.closing = threading.Event()
        self.woken = threading.Event()
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.service = TuningService(
            jobs=self.jobs,
            models=self.models,
            blobs=self.blobs,
            catalog=load_catalog(),
            clock=self.clock,
            wake=self.woken.set,
        )
        self.sharing = SharingService(
            access=ModelAccess(self.models), grants=GrantStore(self.database), clock=self.clock
        )
        self.files = FileService(
            files=FileStore(self.database),
            blobs=UploadBlobs(self.folder),
            clock=self.clock,
            max_file_bytes=self.max_file_bytes,
            ttl=timedelta(hours=48),
        )
        eyes = LocalMediaInspector(MediaCache(self.folder / "media"))
        generation = GenerationService(
            access=ModelAccess(self.models),
            jobs=self.jobs,
            catalog=load_catalog(),
            generator=self.generator,
            sights=PromptMediaResolver(eyes, self.files.path_of),
            trained=SamplingRecordCache(lambda ref: self.blobs.adapter(ref.job_id)).get,
            prompts=TrainedPromptKinds(self.models, self.blobs.dataset),
        )
        self.shelf = self.folder / "shelf"  # datasets on the server's disk
        datasets = DatasetService(tuning=self.service, files=self.files, blobs=self.blobs, folders=[self.shelf])
        services = Services(self.service, generation, self.sharing, self.files, datasets)
        self.app = make_app(
            services,
            self.authenticator or Authenticator(self.keys, no_auth=not self.keys),
            Metrics(CollectorRegistry()),
            self.closing,
            limits=self.limits,
            instance="this-one",
            cors_origins=self.cors_origins,
            public_metrics=self.public_metrics,
        )
        self.call = Client(self.app)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def create(self, model_id: str = "numbers", **changes: object) -> TuningJob:
        """A tuned model whose job is queued."""
        answer = self.call("POST", f"/v1beta/tunedModels?tunedModelId={model_id}", json=tuning_body(**changes))
        assert answer.status_code == 200, answer.text
        return self.jobs.get(answer.json()["name"].rsplit("/", 1)[1])

    def start(self) -> TuningJob:
        """The oldest queued job, now running."""
        job = self.jobs.claim(at=self.clock(), max_active=10)
        assert job is not None
        return self.jobs.move(job, State.RUNNING, at=self.clock())

    def step(self, job: TuningJob, number: int, mean_loss: float = 1.402067184448242) -> State:
        """One optimizer step of the job."""
        epoch = 1 + (number - 1) * 4 // 15
        snapshot = StepMetrics(number, epoch, mean_loss, 120, 14, 0.5, self.clock())
        return self.jobs.record_step(job.id, job.attempt, snapshot)

    def active(self, model_id: str = "numbers", **changes: object) -> TuningJob:
        """A tuned model that is ready."""
        self.create(model_id, **changes)
        job = self.start()
        for number in range(1, job.spec.total_steps + 1):
            self.step(job, number)
        return self.jobs.move(job, State.SUCCEEDED, at=self.clock())

    def failed(self, model_id: str = "numbers") -> TuningJob:
        """A tuned model whose job failed."""
        self.create(model_id)
        error = JobError(Code.RESOURCE_EXHAUSTED, "No space left on the disk; free some and tune again.")
        return self.jobs.move(self.start(), State.FAILED, at=self.clock(), error=error)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error in the answer, after checking that it has Google's shape."""
    error = answer.json()["error"]
    assert error["code"] == answer.status_code
    assert set(error) <= {"code", "message", "status", "details"}
    assert isinstance(error["message"], str) and error["message"]
    return dict(error)


def fields_of(answer: httpx.Response) -> list[str]:
    """The fields that a 400 names."""
    details = error_of(answer).get("details", [])
    return [v["field"] for d in details if d["@type"].endswith("BadRequest") for v in d["fieldViolations"]]


def raised(kind: type[KastorError]) -> KastorError:
    return kind(f"{kind.__name__} for a test.")


@contextmanager
def listening(world: World) -> Iterator[str]:
    """The world's application on a socket; its URL."""
    config = uvicorn.Config(world.app, port=0, log_config=None, lifespan="off", ws="none", http=LimitedHttpProtocol)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def training(world: World, step_s: float = 0.01) -> Iterator[None]:
    """Something that runs the queued jobs through the store, as scheduler and worker do, a step each `step_s`."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            job = world.jobs.claim(at=datetime.now(UTC), max_active=1)
            if job is None:
                continue
            try:
                running = world.jobs.move(job, State.RUNNING, at=datetime.now(UTC))
            except Superseded:  # cancelled in between
                world.jobs.move(world.jobs.get(job.id), State.CANCELLED, at=datetime.now(UTC))
            else:
                _train(world, running, stop, step_s)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _train(world: World, job: TuningJob, stop: threading.Event, step_s: float) -> None:
    for number in range(1, job.spec.total_steps + 1):
        stop.wait(step_s)
        epoch = 1 + (number - 1) * job.spec.hyperparameters.batch_size // job.spec.num_examples
        snapshot = StepMetrics(number, epoch, 2.5 / number, 120, 14, step_s, datetime.now(UTC))
        if world.jobs.record_step(job.id, job.attempt, snapshot) is State.CANCELLING:
            world.jobs.move(world.jobs.get(job.id), State.CANCELLED, at=datetime.now(UTC))
            return
    world.jobs.move(world.jobs.get(job.id), State.SUCCEEDED, at=datetime.now(UTC))


def keep_checkpoint(root: Path, step: int) -> Path:
    """A sound checkpoint of that step, as far as the server can tell."""
    folder = root / f"step-{step:06d}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", STATE_FILE):
        (folder / name).write_bytes(b"%d of %s" % (step, name.encode()))
    write_manifest(folder, {"step": step, "endsEpoch": True})
    return folder

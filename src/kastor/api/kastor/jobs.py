"""The operator's routes under `/kastor/v1`: jobs as they are, which the dialects hide. Same error shape."""

from collections.abc import Sequence
from typing import Annotated

from starlette.responses import Response
from starlette.routing import Route

from kastor.api.google.hyperparameters import (
    HyperparametersIn,
    HyperparametersOut,
    hyperparameters_out,
    requested_hyperparameters,
)
from kastor.api.google.model_names import parse_source_name, tuned_model_name
from kastor.api.http.endpoint import ApiRequest, ListSchema, Reply, RouteFactory
from kastor.api.http.errors import public_message
from kastor.api.http.paging import page_position, page_size, position_token
from kastor.api.http.protojson import Float32, ProtoModel, enum_field, parse_message, timestamp
from kastor.api.http.streaming import JSON_TYPE
from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import JobEvent, State, StepMetrics, TuningJob
from kastor.domain.request_limits import Limits
from kastor.services.datasets import DatasetService
from kastor.services.tuning import LATEST_STEPS, TuningService
from kastor.services.tuning_request import NewTuning
from kastor.services.views import JobView, RowCounts

PREFIX = "/kastor/v1"
JOBS_PAGE_SIZE = 50


class AdapterOut(ProtoModel):
    """The adapter's shape."""

    rank: int
    alpha: Float32


class ErrorOut(ProtoModel):
    """Why the job failed."""

    code: str
    message: str


class StepOut(ProtoModel):
    """What a step did. Unlike the dialect's, zeros are written."""

    step: int
    epoch: int
    mean_loss: Float32
    num_tokens: int
    tokens_per_second: Float32 | None
    compute_time: str | None


class EventOut(ProtoModel):
    """A line of what happened to the job."""

    at: str | None
    level: str
    message: str


class RowsOut(ProtoModel):
    """What became of the rows of a job's dataset file: those dropped by the check, and those left out since."""

    total: int
    trained_on: int
    left_out: int


class JobOut(ProtoModel):
    """A job."""

    id: str
    tuned_model: str
    operation: str
    state: str
    base_model: str
    num_examples: int
    total_steps: int
    completed_steps: int
    hyperparameters: HyperparametersOut
    supervise: str
    train_tower: bool
    adapter: AdapterOut
    create_time: str | None
    start_time: str | None
    end_time: str | None
    attempt: int
    error: ErrorOut | None
    resumable: bool | None  # true, or absent
    resumed_as: str | None
    last_snapshot: StepOut | None
    eta_seconds: Float32 | None
    events: list[EventOut] | None = None
    snapshots: list[StepOut] | None = None
    rows: RowsOut | None = None
    certificate: dict[str, object] | None = None  # domain.certificate: as it lies beside the adapter


class NewJobIn(ProtoModel):
    """A tuning on a dataset file: what the dialects' messages do not carry.

    `dataset` is an uploaded file, `files/…`, or a path under the operator's `media_folders`.
    """

    dataset: str
    base_model: str = ""
    tuned_model_id: str | None = None
    display_name: str | None = None
    description: str | None = None
    profile: str | None = None
    media_folder: str | None = None
    hyperparameters: HyperparametersIn | None = None
    supervise: Annotated[str, enum_field("Supervise", tuple(SupervisedTurns))] | None = None
    train_tower: bool | None = None


class AdminRoutes:
    """Handlers of the jobs."""

    def __init__(self, service: TuningService, datasets: DatasetService, limits: Limits) -> None:
        self._limits = limits
        self._service = service
        self._datasets = datasets

    def routes(self, endpoints: RouteFactory) -> Sequence[Route]:
        """All of them."""
        jobs, job = f"{PREFIX}/jobs", f"{PREFIX}/jobs/{{job}}"
        return [
            endpoints.route(jobs, "POST", self.create, takes=NewJobIn, gives=JobOut),
            endpoints.route(f"{job}/report", "GET", self.report),
            endpoints.route(
                jobs, "GET", self.list_jobs, query=("page_size", "page_token"), gives=ListSchema("jobs", JobOut)
            ),
            endpoints.route(f"{job}/log", "GET", self.log, query=("offset",)),
            endpoints.route(f"{job}:cancel", "POST", self.cancel, gives=JobOut),
            endpoints.route(f"{job}:resume", "POST", self.resume, gives=JobOut),
            endpoints.route(job, "GET", self.get, query=("view",), gives=JobOut),
        ]

    def create(self, call: ApiRequest) -> Reply:
        """A job that tunes on a dataset file, which is judged before anything is trained."""
        body = parse_message(NewJobIn, call.body)
        new = NewTuning(
            source=parse_source_name(body.base_model),
            limits=self._limits,
            hyperparameters=requested_hyperparameters(body.hyperparameters or HyperparametersIn()),
            supervise=SupervisedTurns(body.supervise or SupervisedTurns.ALL),
            train_tower=bool(body.train_tower),
            tuned_model_id=body.tuned_model_id,
            display_name=body.display_name or "",
            description=body.description or "",
        )
        tuning = self._datasets.create(
            new, body.dataset, call.principal, profile=body.profile, media_folder=body.media_folder
        )
        return job_out(JobView(tuning.job, ())).json_value()

    def report(self, call: ApiRequest) -> Reply:
        """What the gate said of the job's dataset file."""
        return Response(self._datasets.report(call.path["job"], call.principal), media_type=JSON_TYPE)

    def list_jobs(self, call: ApiRequest) -> Reply:
        """Jobs, newest first."""
        size, before = page_size(call, default=JOBS_PAGE_SIZE), page_position(call, of="jobs")
        page = self._service.jobs(call.principal, limit=size, before=before)
        listed: dict[str, object] = {"jobs": [job_out(view).json_value() for view in page.items]}
        if not page.more:
            return listed
        last = page.items[-1].job
        return listed | {"nextPageToken": position_token(last.created_at, last.id, of="jobs")}

    def get(self, call: ApiRequest) -> Reply:
        """One job; with its events, snapshots and certificate if view=full."""
        full = call.query.get("view", "").lower() == "full"
        return job_out(self._service.job(call.path["job"], call.principal, full=full), full=full).json_value()

    def cancel(self, call: ApiRequest) -> Reply:
        """The job, asked to stop."""
        return job_out(self._service.cancel(call.path["job"], call.principal)).json_value()

    def resume(self, call: ApiRequest) -> Reply:
        """A new job that goes on where this one, which failed, kept its last checkpoint."""
        return job_out(self._service.resume(call.path["job"], call.principal)).json_value()

    def log(self, call: ApiRequest) -> Reply:
        """The job's log from a byte on."""
        text = call.query.get("offset") or "0"
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise InvalidArgument.of("offset", f"{text[:20]!r} is not a whole number from 0")
        found, following = self._service.job_log(call.path["job"], call.principal, offset=int(text))
        headers = {"x-kastor-next-offset": str(following)}
        return Response(found, media_type="text/plain; charset=utf-8", headers=headers)


def job_out(view: JobView, *, full: bool = False) -> JobOut:
    """The job as a message."""
    job, spec, snapshots = view.job, view.job.spec, view.snapshots
    return JobOut(
        id=job.id,
        tuned_model=tuned_model_name(job.tuned_model_id),
        operation=f"{tuned_model_name(job.tuned_model_id)}/operations/{job.id}",
        state=job.state.value,
        base_model=f"models/{spec.base_model}",
        num_examples=spec.num_examples,
        total_steps=spec.total_steps,
        completed_steps=job.completed_steps,
        hyperparameters=hyperparameters_out(spec.hyperparameters),
        supervise=spec.supervise.value,
        train_tower=spec.train_tower,
        adapter=AdapterOut(rank=spec.adapter.rank, alpha=spec.adapter.alpha),
        create_time=timestamp(job.created_at),
        start_time=timestamp(job.started_at),
        end_time=timestamp(job.finished_at),
        attempt=job.attempt,
        error=_error(job),
        resumable=view.resumable or None,
        resumed_as=job.resumed_as,
        last_snapshot=_step(snapshots[-1]) if snapshots else None,
        eta_seconds=_eta_s(view),
        events=list(map(_event, view.events)) if full else None,
        snapshots=list(map(_step, snapshots)) if full else None,
        rows=_rows(view.rows),
        certificate=dict(view.certificate) if view.certificate else None,
    )


def _rows(counts: RowCounts | None) -> RowsOut | None:
    if counts is None:
        return None
    return RowsOut(total=counts.num_rows, trained_on=counts.num_accepted, left_out=counts.num_dropped)


def _eta_s(view: JobView) -> float | None:
    """Seconds until a running job's last step, at the pace of its latest ones."""
    latest = view.snapshots[-LATEST_STEPS:]
    if view.job.state is not State.RUNNING or not latest:
        return None
    pace = sum(snapshot.elapsed_s for snapshot in latest) / len(latest)
    return round((view.job.spec.total_steps - latest[-1].step) * pace, 1)


def _error(job: TuningJob) -> ErrorOut | None:
    error = job.error
    return None if error is None else ErrorOut(code=error.code.name, message=public_message(error.code, error.message))


def _step(snapshot: StepMetrics) -> StepOut:
    elapsed = snapshot.elapsed_s
    return StepOut(
        step=snapshot.step,
        epoch=snapshot.epoch,
        mean_loss=snapshot.mean_loss,
        num_tokens=snapshot.num_tokens,
        tokens_per_second=round(snapshot.num_tokens / elapsed, 1) if elapsed > 0 else None,
        compute_time=timestamp(snapshot.computed_at),
    )


def _event(event: JobEvent) -> EventOut:
    return EventOut(at=timestamp(event.at), level=event.level, message=event.message)

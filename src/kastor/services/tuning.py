"""The use cases of tuning: what a caller may do with tuned models and the jobs that make them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta

from kastor.dataset.formats.encode import encode_example
from kastor.domain.errors import FailedPrecondition, InvalidArgument, KastorError, NotFound, ResourceExhausted
from kastor.domain.generation import Sampling
from kastor.domain.job import State, StepMetrics, TuningJob, TuningSpec, resolve_hyperparameters
from kastor.domain.model_filter import ModelFilter
from kastor.domain.model_ref import ModelRef
from kastor.domain.permission import Principal, Role
from kastor.domain.request_limits import Limits
from kastor.domain.tuned_model import TunedModel, random_model_id, validated_model_id
from kastor.models.catalog import BaseModel, Catalog
from kastor.services.access import ModelAccess
from kastor.services.generation import require_active
from kastor.services.generation_request import default_sampling
from kastor.services.job_log import read_log
from kastor.services.model_id import free_model_id
from kastor.services.tuning_request import (
    ModelChange,
    NewTuning,
    TuningStart,
    check_examples,
    check_settings,
    check_tower,
    dataset_file,
)
from kastor.services.views import JobView, Page, RowCounts, TunedModelView, read_certificate
from kastor.store.blobs.checkpoint_folder import CheckpointFolder
from kastor.store.blobs.job_files import JobFiles, reading_errors
from kastor.store.blobs.job_workspace import DATASET, SOURCE
from kastor.store.jobs import JobStore
from kastor.store.models import ALL, ModelStore

ORPHAN_AGE = timedelta(hours=1)  # a create that is under way takes seconds
LATEST_STEPS = 10  # of a job in short: enough to tell its pace


class TuningService:
    """Every use case; safe to use from several threads at once."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        models: ModelStore,
        blobs: JobFiles,
        catalog: Catalog,
        clock: Callable[[], datetime],
        wake: Callable[[], None],
        check_base: Callable[[BaseModel], None] = lambda base: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """`check_base` raises where this installation may not use a base; `make_room` frees some of a full disk."""
        self._check_base = check_base
        self._jobs = jobs
        self._models = models
        self._access = ModelAccess(models)
        self._blobs = blobs
        self._catalog = catalog
        self._clock = clock
        self._wake = wake
        self._make_room = make_room
        self._swept_at: datetime | None = None

    def version(self) -> int | None:
        """A number that is another one after any change to what is stored; `None` if that cannot be told cheaply."""
        return self._jobs.version()

    # tuned models

    def create(self, new: NewTuning, caller: Principal) -> TunedModelView:
        """A new tuned model whose job is queued: everything was checked, and the data set is on disk.

        Raises:
            InvalidArgument: something asked for is wrong; names the fields.
            NotFound: there is no such tuned model to go on from.
            FailedPrecondition: the tuned model to go on from is not ready.
            AlreadyExists: the id is taken.
            ResourceExhausted: the disk is full.

        """
        start = self._start(new.source, caller)
        if new.train_tower:
            check_tower(start.base)
        if new.file is None:
            check_examples(new.examples, new.limits)
        job = self._new_job(new, start, caller)
        model = self._new_model(new, job, start, caller)
        with ExitStack() as undo:
            undo.callback(self._blobs.remove_job, job.id)
            if new.file is None:
                checksums = {DATASET: self._blobs.write_dataset(job.id, map(encode_example, new.examples))}
            else:
                checksums = {SOURCE: self._blobs.keep_source(job.id, new.file.path, new.file.name)}
            job = replace(job, spec=replace(job.spec, checksums=checksums))
            if start.source is not None:
                self._blobs.copy_adapter(start.source.job_id, job.id)
            self._jobs.add(job, model)
            undo.pop_all()
        self._wake()
        return self._tuning(model, job)

    def model(self, model_id: str, caller: Principal) -> TunedModelView:
        """The tuned model.

        Raises:
            NotFound: there is none of this id.
            PermissionDenied: the caller is no reader of it.

        """
        found = self._access.model(model_id, caller)
        return self._tuning(found, self._jobs.get(found.job_id))

    def models(
        self, caller: Principal, *, limit: int, before: tuple[datetime, str] | None = None, where: ModelFilter = ALL
    ) -> Page[TunedModelView]:
        """Up to `limit` tuned models, newest first: the caller's and those shared with them, so far as `where` holds.

        Those shared with everyone are listed only where `where` asks for them.
        """
        found = self._models.page(caller, limit=limit + 1, before=before, where=where)
        snapshots = self._jobs.snapshots_of([job.id for _, job in found[:limit]])
        shown = tuple(self._tuning(model, job, snapshots[job.id]) for model, job in found[:limit])
        return Page(shown, len(found) > limit)

    def update_model(self, model_id: str, change: ModelChange, caller: Principal, limits: Limits) -> TunedModelView:
        """The tuned model after the change; `limits` are those of the caller's dialect.

        Raises:
            InvalidArgument: a value is out of range.
            NotFound: there is none of this id.
            PermissionDenied: the caller is no writer of it.

        """
        present = self._access.model(model_id, caller, Role.WRITER)
        check_settings(replace(present, **change), limits)
        changed = self._models.update(present, change, at=self._clock())
        return self._tuning(changed, self._jobs.get(changed.job_id))

    def delete_model(self, model_id: str, caller: Principal) -> None:
        """Take the model away at once. Its job, if it still runs, is cancelled; what it keeps goes when it has ended.

        Raises:
            NotFound: there is none of this id.
            PermissionDenied: the caller is not its owner.

        """
        model = self._access.model(model_id, caller, Role.OWNER)
        try:
            self._release(model)
        except ResourceExhausted:  # what is to be deleted may be what fills the disk
            self._make_room()
            if self._jobs.get(model.job_id).state.terminal:
                self._blobs.remove_job(model.job_id)
            self._release(model)
        self._wake()
        with suppress(KastorError):  # the model is gone; what is left over is tried again by the next tidying
            self.delete_orphans()

    def _release(self, model: TunedModel) -> None:
        self._jobs.request_cancel(model.job_id, at=self._clock())
        self._models.release(model)

    def delete_orphans(self) -> None:
        """Remove the rows and files of ended jobs whose model was deleted. To be called now and then."""
        for job_id in self._jobs.orphaned():
            self._blobs.remove_job(job_id)  # first: after an interruption the row says that there is more to do
            self._jobs.delete(job_id)

    def delete_stale_uploads(self) -> None:
        """Remove files of creates that a crash cut short before their row. To be called now and then; looks hourly.

        Only what no worker has begun: a folder used with another database holds models whose rows are not here.
        """
        now = self._clock()
        if self._swept_at is not None and now - self._swept_at < ORPHAN_AGE:
            return
        self._swept_at = now
        for job_id in self._blobs.unstarted_job_ids(before=now - ORPHAN_AGE):
            try:
                self._jobs.get(job_id)
            except NotFound:
                self._blobs.remove_job(job_id)

    # jobs of a model

    def model_of_job(self, model_id: str, job_id: str, caller: Principal) -> TunedModelView | None:
        """The tuned model with this job of it; `None` if the model has no such job.

        Raises:
            NotFound: there is no such model.
            PermissionDenied: the caller is no reader of it.

        """
        found = self._access.model(model_id, caller)
        with suppress(NotFound):
            job = self._jobs.get(job_id)
            if job.present_id == found.job_id:
                return self._tuning(found, job)
        return None

    def cancel_model(self, model_id: str, caller: Principal) -> None:
        """Ask the model's job to stop. Nothing happens to one that has ended.

        Raises:
            NotFound: there is no such model.
            PermissionDenied: the caller is no writer of it.

        """
        model = self._access.model(model_id, caller, Role.WRITER)
        self._jobs.request_cancel(model.job_id, at=self._clock())
        self._wake()

    # jobs

    def cancel(self, job_id: str, caller: Principal) -> JobView:
        """The job after it was asked to stop.

        Raises:
            NotFound: there is no such job.
            PermissionDenied: the caller is no writer of its model.

        """
        self.authorized_job(job_id, caller, Role.WRITER)
        job = self._jobs.request_cancel(job_id, at=self._clock())
        self._wake()
        return self._views([job])[0]

    def resume(self, job_id: str, caller: Principal) -> JobView:
        """A new job that makes the model of this one, which failed, from its last sound checkpoint on.

        Its dataset and spec are the same, so it ends with the bits that the failed one would have ended with.

        Raises:
            NotFound: there is no such job.
            PermissionDenied: the caller is no writer of its model.
            FailedPrecondition: it did not fail, kept no sound checkpoint, or another goes on for it already.
            ResourceExhausted: the disk is full.

        """
        failed = self.authorized_job(job_id, caller, Role.WRITER)
        job = failed.resumed(random_model_id(), step=0, at=self._clock())
        checkpoint = CheckpointFolder(self._blobs.checkpoints(job_id)).latest_intact(lambda _: None)
        if checkpoint is None:
            raise FailedPrecondition(f"Job {job_id} kept no sound checkpoint to resume from; tune again.")
        job = replace(job, completed_steps=checkpoint.step)
        with ExitStack() as undo:
            undo.callback(self._blobs.remove_job, job.id)
            self._blobs.link_job(job_id, job.id)
            self._jobs.resume(failed, job)
            undo.pop_all()
        self._wake()
        return self._views([job])[0]

    def job(self, job_id: str, caller: Principal, *, full: bool = False) -> JobView:
        """The job; `full` with its events, all of its snapshots and its certificate.

        Raises:
            NotFound: there is no such job.
            PermissionDenied: the caller is no reader of its model.

        """
        job = self.authorized_job(job_id, caller, Role.READER)
        if not full:
            return self._views([job])[0]
        events = tuple(self._jobs.events(job_id))
        snapshots = tuple(self._jobs.snapshots(job_id))
        rows = RowCounts.of(self._blobs.report(job_id))
        certificate = read_certificate(self._blobs.certificate(job_id), job_id)
        return JobView(job, snapshots, events, certificate, rows, self._resumable(job))

    def jobs(self, caller: Principal, *, limit: int, before: tuple[datetime, str] | None = None) -> Page[JobView]:
        """Up to `limit` jobs, newest first: those of the models that the caller's list holds; for an operator all."""
        lists = None if caller.operator else caller  # an operator sees jobs whose model was deleted, too
        found = self._jobs.page(limit=limit + 1, before=before, caller=lists)
        return Page(self._views(found[:limit]), len(found) > limit)

    def job_log(self, job_id: str, caller: Principal, *, offset: int) -> tuple[bytes, int]:
        """The job's log from byte `offset`, and the offset to go on from; nothing where it has not begun.

        Paths of this machine are for operators.

        Raises:
            NotFound: there is no such job.
            PermissionDenied: the caller is no writer of its model.
            DataLoss: it cannot be read.

        """
        self.authorized_job(job_id, caller, Role.WRITER)
        try:
            with reading_errors("log", job_id):
                hidden = None if caller.operator else self._blobs.root
                with self._blobs.open_log(job_id) as log:
                    return read_log(log, offset, hidden=hidden)
        except FileNotFoundError:
            return b"", offset

    def job_counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return self._jobs.counts()

    def total_steps(self) -> int:
        """Optimizer steps done, over all kept jobs."""
        return self._jobs.total_steps()

    def _start(self, source: ModelRef, caller: Principal) -> TuningStart:
        if source.tuned:
            return self._start_from_tuned(source.id, caller)
        try:
            base = self._catalog.base(f"models/{source.id}")  # so that a second prefix in the id is refused
        except NotFound as error:
            raise InvalidArgument.of("base_model", error.message) from error
        self._check_base(base)
        return TuningStart(base, base.adapter, source.id)

    def _start_from_tuned(self, model_id: str, caller: Principal) -> TuningStart:
        source = self._access.model(model_id, caller)
        job = self._jobs.get(source.job_id)
        require_active(source, job)
        base = self._catalog.base(job.spec.base_model)
        self._check_base(base)
        return TuningStart(base, job.spec.adapter, source.base_model, source, job.spec.rendering)

    def _new_job(self, new: NewTuning, start: TuningStart, caller: Principal) -> TuningJob:
        hyperparameters = resolve_hyperparameters(new.hyperparameters, len(new.examples), new.limits)
        spec = TuningSpec(
            start.base.id,
            hyperparameters,
            start.adapter,
            len(new.examples),
            file=None if new.file is None else dataset_file(new, new.file),
            supervise=new.supervise,
            train_tower=new.train_tower,
            rendering=start.rendering,
            from_tuned=start.source is not None,
        )
        job_id, now = random_model_id(), self._clock()
        asked = new.tuned_model_id
        model_id = (
            free_model_id(new.display_name, self._models) if asked is None else validated_model_id(asked, new.limits)
        )
        return TuningJob(job_id, model_id, spec, State.QUEUED, now, now, caller.email)

    def _new_model(self, new: NewTuning, job: TuningJob, start: TuningStart, caller: Principal) -> TunedModel:
        model = TunedModel(
            id=job.tuned_model_id,
            job_id=job.id,
            base_model=start.base_name,
            source=start.source.id if start.source else None,
            owner=caller.email,
            created_at=job.created_at,
            updated_at=job.created_at,
            display_name=new.display_name,
            description=new.description,
            temperature=new.temperature,
            top_p=new.top_p,
            top_k=new.top_k,
        )
        check_settings(model, new.limits)
        return model

    def authorized_job(self, job_id: str, caller: Principal, role: Role) -> TuningJob:
        """The job, for a caller whose role on its model is at least `role`.

        Raises:
            NotFound: there is no such job.
            PermissionDenied: the caller's role is too small.

        """
        if "\0" in job_id:  # PostgreSQL takes none
            raise NotFound(f"Job {job_id!r} does not exist.")
        job = self._jobs.get(job_id)
        if not caller.operator and self._access.model(job.tuned_model_id, caller, role).job_id != job.present_id:
            raise NotFound(f"Job {job_id} does not exist.")  # its model was deleted, and another has the name now
        return job

    def _tuning(
        self, model: TunedModel, job: TuningJob, snapshots: tuple[StepMetrics, ...] | None = None
    ) -> TunedModelView:
        base = self._catalog.bases.get(job.spec.base_model)  # the operator may have taken it out since
        defaults = default_sampling(model, base.sampling if base else Sampling())
        return TunedModelView(
            model, job, defaults, tuple(self._jobs.snapshots(job.id)) if snapshots is None else snapshots
        )

    def _views(self, found: Sequence[TuningJob]) -> tuple[JobView, ...]:
        latest = self._jobs.snapshots_of([job.id for job in found], latest=LATEST_STEPS)
        return tuple(JobView(job, latest[job.id], resumable=self._resumable(job)) for job in found)

    def _resumable(self, job: TuningJob) -> bool:
        if job.state is not State.FAILED or job.resumed_as is not None:
            return False
        return CheckpointFolder(self._blobs.checkpoints(job.id)).latest() is not None

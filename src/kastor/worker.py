"""One job's process: `python -m kastor.worker JOB_ID ATTEMPT`. Prepares, trains, publishes, and writes the job's end.

It owns the job as long as its attempt is the job's; every write says so, and one that was superseded ends without a
word. Exit code 0: the end is written. 75: stopped in order, a checkpoint is kept. Anything else is a death.
"""

import argparse
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NoReturn

import structlog
import torch

from kastor.dataset.parse import decode_example
from kastor.domain.errors import Code, InvalidArgument, KastorError, Superseded, Unavailable
from kastor.domain.job import Event, JobError, Snapshot, State, TuningJob
from kastor.lifeline import watch_parent
from kastor.logs import configure_logs
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.load import compute_threads, load_base
from kastor.models.render import Rendered, Renderer
from kastor.models.sources import Progress, ensure_local
from kastor.settings import Settings, load_settings
from kastor.store.blobs import Blobs
from kastor.store.database import open_database
from kastor.store.jobs import JobStore
from kastor.training.checkpoints import Checkpoints, restore
from kastor.training.loop import StepReport, Trainer, train
from kastor.training.lora import attach

BEATS_PER_TIMEOUT = 5
SUPERSEDED = 76  # exit code: somebody else owns the job


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Interrupted(BaseException):
    """Cancelled or told to stop while there is nothing to save yet; raised by the signal handler."""


class Ownership:
    """The worker's hold on its job: heartbeats, requests to stop, and the writes that only an owner may make."""

    def __init__(self, jobs: JobStore, job: TuningJob, *, beat_every_s: float) -> None:
        self._jobs = jobs
        self._job = job
        self._beat_every_s = beat_every_s
        self._cancelled = threading.Event()
        self._stopped = threading.Event()
        self._training = False
        self._log = structlog.get_logger()

    @property
    def cancelled(self) -> bool:
        """A cancel has been asked for."""
        return self._cancelled.is_set()

    @property
    def interrupted(self) -> bool:
        """Work should end at the next step, for either reason."""
        return self._cancelled.is_set() or self._stopped.is_set()

    def start(self) -> None:
        """Catch SIGTERM and begin to beat."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def begin_training(self) -> None:
        """From here on a request to stop waits for the end of the step."""
        self._training = True
        if self.interrupted:
            raise Interrupted
        self.move(State.RUNNING)

    def note(self, message: str) -> None:
        """Add a line to the job's events and its log."""
        self._log.info(message)
        self._jobs.add_event(self._job.id, Event(now(), "info", message))

    def record(self, snapshot: Snapshot) -> None:
        """Keep what a step did, and learn of a cancel."""
        self._see(self._jobs.record_step(self._job.id, self._job.attempt, snapshot))

    def rewind(self, step: int) -> None:
        """Forget the steps after `step`."""
        self._jobs.rewind(self._job.id, self._job.attempt, step)

    def move(self, to: State, error: JobError | None = None) -> None:
        """Move the job, whatever a cancel made of its state meanwhile.

        Raises:
            Superseded: another attempt owns it, or it has ended.

        """
        while True:
            job = self._jobs.get(self._job.id)
            if job.attempt != self._job.attempt or not job.state.active:
                raise Superseded(f"Job {job.id} is {job.state} in attempt {job.attempt}.")
            if job.state is State.CANCELLING and to in (State.RUNNING, State.QUEUED):
                self._cancelled.set()
                raise Interrupted
            try:
                self._jobs.move(job, to, at=now(), error=error)
            except Superseded:
                continue
            return

    def _see(self, state: State) -> None:
        if state is State.CANCELLING:
            self._cancelled.set()

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._cancelled.is_set():
            self._stopped.set()
        if not self._training:
            raise Interrupted

    def _beat(self) -> None:
        while True:
            time.sleep(self._beat_every_s)
            try:
                self._see(self._jobs.beat(self._job.id, self._job.attempt, at=now()))
            except Superseded:
                self._log.warning("superseded")
                os._exit(SUPERSEDED)
            except Unavailable as error:
                self._log.warning("heartbeat_failed", reason=error.message)
            if self._cancelled.is_set() and not self._training:
                os.kill(os.getpid(), signal.SIGTERM)  # wakes the main thread out of a download or a load


class Job:
    """What a worker does for its job, in order."""

    def __init__(self, settings: Settings, job: TuningJob, blobs: Blobs, ownership: Ownership) -> None:
        self._settings = settings
        self._job = job
        self._blobs = blobs
        self._ownership = ownership
        self._checkpoints = Checkpoints(blobs.checkpoints(job.id))
        self._log = structlog.get_logger()

    def run(self) -> bool:
        """Train to the end and publish; False when a request ended it early."""
        base = load_catalog(self._settings.catalog_file).base(self._job.spec.base_model)
        folder = ensure_local(base, self._settings.cache_dir, self._on_progress())
        examples = self._examples(base, Renderer.open(folder, base.family))
        model = attach(load_base(folder), self._job.spec.adapter, seed=self._job.spec.seed)
        trainer = Trainer(model, examples, self._job.spec)
        self._resume(model, trainer)
        self._ownership.begin_training()
        self._log.info("training", steps=self._job.spec.total_steps, **_sizes(model, examples))
        if not train(trainer, on_step=self._on_step, save=lambda step, ends: self._save(model, trainer, ends)):
            return False
        self._publish()
        return True

    def _on_progress(self) -> Any:  # noqa: ANN401  # a closure; sources.OnProgress
        told: set[str] = set()

        def tell(progress: Progress) -> None:
            if progress.stage not in told:
                told.add(progress.stage)
                self._ownership.note(f"{progress.stage} the base model {self._job.spec.base_model}")

        return tell

    def _examples(self, base: BaseModel, renderer: Renderer) -> list[Rendered]:
        with self._blobs.dataset(self._job.id).open("rb") as file:
            examples = [renderer.example(decode_example(line)) for line in file]
        longest = base.input_token_limit + base.output_token_limit
        for number, example in enumerate(examples):
            if len(example.token_ids) > longest:
                raise InvalidArgument.of(
                    f"examples[{number}]",
                    f"{len(example.token_ids):,} tokens, at most {longest:,} fit {base.name}; shorten it or leave it out",
                )
        return examples

    def _resume(self, model: Any, trainer: Trainer) -> None:  # noqa: ANN401  # peft model
        checkpoint = self._checkpoints.latest()
        if checkpoint is not None:
            trainer.restore(restore(checkpoint, model))
            self._ownership.note(f"going on from the checkpoint of step {checkpoint.step}")
        self._ownership.rewind(trainer.step)

    def _on_step(self, report: StepReport) -> bool:
        self._ownership.record(
            Snapshot(
                step=report.step,
                epoch=report.epoch,
                mean_loss=report.mean_loss,
                num_tokens=report.num_tokens,
                num_supervised=report.num_supervised,
                elapsed_s=report.elapsed_s,
                computed_at=now(),
            )
        )
        self._log.info(
            "step",
            step=report.step,
            epoch=report.epoch,
            mean_loss=round(report.mean_loss, 5),
            learning_rate=report.learning_rate,
            grad_norm=round(report.grad_norm, 4),
            tokens_per_s=round(report.num_tokens / report.elapsed_s, 1),
        )
        return not self._ownership.interrupted

    def _save(self, model: Any, trainer: Trainer, ends_epoch: bool) -> None:  # noqa: ANN401  # peft model
        spec = self._job.spec
        about = {
            "job": self._job.id,
            "baseModel": spec.base_model,
            "numExamples": spec.num_examples,
            "seed": spec.seed,
            "numEpochs": spec.hyperparameters.num_epochs,
            "batchSize": spec.hyperparameters.batch_size,
            "learningRate": spec.hyperparameters.learning_rate,
        }
        self._checkpoints.save(model, trainer.state(), step=trainer.step, ends_epoch=ends_epoch, about=about)
        self._log.info("checkpoint", step=trainer.step, ends_epoch=ends_epoch)

    def _publish(self) -> None:
        checkpoint = self._checkpoints.latest()
        assert checkpoint is not None  # noqa: S101  # the last step saves one
        self._checkpoints.publish(checkpoint, self._blobs.adapter(self._job.id))


def _sizes(model: Any, examples: Sequence[Rendered]) -> dict[str, object]:  # noqa: ANN401  # peft model
    return {
        "examples": len(examples),
        "tokens": sum(len(example.token_ids) for example in examples),
        "supervised_tokens": sum(example.num_supervised for example in examples),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def failure(error: Exception) -> JobError:
    """The sentence a user reads about what ended the job."""
    if isinstance(error, KastorError):
        return JobError(error.code, error.message)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return JobError(Code.RESOURCE_EXHAUSTED, f"The disk is full{where}: free some space and tune again.")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        message = "Memory ran out: use a smaller batch size, shorter examples or a smaller base model."
        return JobError(Code.RESOURCE_EXHAUSTED, message)
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return JobError(Code.INTERNAL, f"The worker failed with {said}; the traceback stands in the job's log.")


def work(job: Job, ownership: Ownership) -> int:
    """Run the job and write how it ended; the process's exit code."""
    log = structlog.get_logger()
    try:
        try:
            if job.run():
                ownership.move(State.SUCCEEDED)
                return 0
        except Superseded:
            raise
        except Exception as error:  # the worker's loop: whatever it was, the job must end with a reason
            log.exception("job_failed")
            ownership.move(State.FAILED, failure(error))
            return 0
    except Interrupted:
        pass  # before anything was learnt
    except Superseded as error:
        log.warning("superseded", reason=error.message)
        return SUPERSEDED
    if ownership.cancelled:
        ownership.move(State.CANCELLED)
        return 0
    return _back_to_queue(ownership)


def _back_to_queue(ownership: Ownership) -> int:
    try:
        ownership.move(State.QUEUED)
    except Interrupted:  # cancelled at the last moment
        ownership.move(State.CANCELLED)
        return 0
    return os.EX_TEMPFAIL


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Composition root: read the settings, put the parts together, run."""
    parser = argparse.ArgumentParser(prog="kastor.worker", description=__doc__)
    parser.add_argument("job_id")
    parser.add_argument("attempt", type=int)
    parser.add_argument("--parent-fd", type=int, help="ends this process when the pipe's other end closes")
    given = parser.parse_args(arguments)
    settings = load_settings()
    configure_logs("json")
    structlog.contextvars.bind_contextvars(job_id=given.job_id, attempt=given.attempt)
    torch.set_num_threads(settings.num_threads or compute_threads())
    jobs = JobStore(open_database(settings.resolved_database_url))
    job = jobs.get(given.job_id)
    if job.attempt != given.attempt:
        sys.exit(SUPERSEDED)
    ownership = Ownership(jobs, job, beat_every_s=settings.heartbeat_timeout_s / BEATS_PER_TIMEOUT)
    ownership.start()
    if given.parent_fd is not None:
        watch_parent(given.parent_fd, lambda: os.kill(os.getpid(), signal.SIGTERM))
    sys.exit(work(Job(settings, job, Blobs(settings.data_dir), ownership), ownership))


if __name__ == "__main__":
    main()

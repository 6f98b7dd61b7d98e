"""What a worker does for its job, in order: fetch, judge, look, render, load, resume, train, certify, publish."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch

from kastor.domain.counts import counted
from kastor.domain.job import StepMetrics, TuningJob
from kastor.models.catalog import load_catalog
from kastor.models.chat.render import RenderedExample
from kastor.models.download import Progress, ensure_local
from kastor.models.load import compute_dtype, compute_threads, load_base
from kastor.models.vision.encoder import PREPROCESSING
from kastor.models.vision.specs import TOWER_FILE
from kastor.runtime.storage_errors import is_disk_full
from kastor.settings import Settings
from kastor.store.blobs.checkpoint_folder import Checkpoint
from kastor.store.blobs.job_workspace import JobWorkspace
from kastor.store.blobs.manifests import manifest
from kastor.training.checkpoints import CheckpointWriter, load_adapter, restore
from kastor.training.loop import SAVE_EVERY_S, StepReport, Trainer, train
from kastor.training.lora import add_lora
from kastor.training.vision_inputs import VisionInputs
from kastor.worker.certify import certify_adapter
from kastor.worker.job_monitor import JobInterrupted
from kastor.worker.lease import JobLease
from kastor.worker.media_config import dataset_config
from kastor.worker.pipeline.streaming_examples import ExamplePreparation, PreparedExamples
from kastor.worker.vision_setup import build_vision_inputs

ROOM_WAIT_S = 5.0  # so often a full disk is tried again
SAVE_EVERY_S_AFTER_DEATH = 20.0  # what interrupted it once may do so again: less is lost then


class JobRunner:
    """The steps of one job."""

    def __init__(self, settings: Settings, job: TuningJob, workspace: JobWorkspace, lease: JobLease) -> None:
        self._settings = settings
        self._job = job
        self._workspace = workspace
        self._lease = lease
        self._checkpoints = CheckpointWriter(workspace.checkpoints)
        self._log = structlog.get_logger()

    def run(self) -> bool:
        """Train to the end and publish; False when a request ended it early."""
        with ExitStack() as stack:
            return self._run(stack)

    def _run(self, stack: ExitStack) -> bool:
        num_threads = self._settings.num_threads or compute_threads()
        torch.set_num_threads(num_threads)
        base = load_catalog(self._settings.catalog_file).base(self._job.spec.base_model)
        folder = ensure_local(
            base, self._settings.cache_dir, self._on_progress(), accepted=self._settings.accepted_licences
        )
        config = dataset_config(self._settings, self._job, self._lease.log_event)
        preparing = ExamplePreparation(self._job, config, self._workspace, self._lease, stack, self._lease.store_spec)
        checkpoint = self._checkpoints.latest_intact(self._on_damage)
        done = 0 if checkpoint is None else checkpoint.step
        prepared = preparing.prepared(base, folder, done=done, num_threads=num_threads)
        self._job = replace(self._job, spec=prepared.spec)
        model = add_lora(
            load_base(folder, dtype=compute_dtype(self._settings.base_dtype)),
            self._job.spec.adapter,
            seed=self._job.spec.seed,
        )
        if self._job.spec.from_tuned:
            load_adapter(self._workspace.initial_adapter, model)
        eyes = self._sight(model, prepared, folder, checkpoint)
        trainer = Trainer(model, prepared.examples, self._job.spec, eyes, on_event=self._lease.log_event)
        self._resume(model, trainer, checkpoint)
        self._lease.begin_training()
        self._log.info("training", steps=self._job.spec.total_steps, **_sizes(model, prepared, eyes))
        if not self._trained(trainer, self._saver(model, trainer, prepared, eyes)):
            return False
        self._publish(lambda adapter: self._certificate(model, prepared, eyes, adapter))
        return True

    def _trained(self, trainer: Trainer[RenderedExample], save: Callable[[int, bool], None]) -> bool:
        try:
            every_s = SAVE_EVERY_S if self._job.deaths == 0 else SAVE_EVERY_S_AFTER_DEATH
            return train(trainer, on_step=self._on_step, save=save, save_every_s=every_s)
        except JobInterrupted:  # while it waited between two steps, for media or for room on the disk
            if trainer.step:
                save(trainer.step, trainer.ends_epoch)
            return False

    def _on_progress(self) -> Any:  # noqa: ANN401  # a closure; sources.OnProgress
        told: set[str] = set()

        def tell(progress: Progress) -> None:
            if progress.stage not in told:
                told.add(progress.stage)
                self._lease.log_event(f"{progress.stage} the base model {self._job.spec.base_model}")

        return tell

    def _on_damage(self, checkpoint: Checkpoint) -> None:
        self._lease.warn(f"the checkpoint of step {checkpoint.step} is damaged and not used; check the disk")

    def _sight(
        self,
        model: Any,  # noqa: ANN401  # peft model
        prepared: PreparedExamples,
        base: Path,
        checkpoint: Checkpoint | None,
    ) -> VisionInputs | None:
        spec = self._job.spec
        initial = self._workspace.initial_adapter if spec.from_tuned else None
        held = checkpoint.folder if checkpoint else initial
        return build_vision_inputs(
            model,
            prepared.examples,
            prepared.seeing,
            held,
            base,
            seed=spec.seed,
            train_tower=spec.train_tower,
            tell=self._lease.log_event,
        )

    def _resume(self, model: Any, trainer: Trainer[RenderedExample], checkpoint: Checkpoint | None) -> None:  # noqa: ANN401  # peft model
        if checkpoint is not None:
            trainer.restore(restore(checkpoint, model))
            self._lease.log_event(f"going on from the checkpoint of step {checkpoint.step}")
        self._lease.rewind(trainer.step)

    def _on_step(self, report: StepReport) -> bool:
        self._lease.record(
            StepMetrics(
                step=report.step,
                epoch=report.epoch,
                mean_loss=report.mean_loss,
                num_tokens=report.num_tokens,
                num_supervised=report.num_supervised,
                elapsed_s=report.elapsed_s,
                computed_at=datetime.now(UTC),
                learning_rate=report.learning_rate,
                grad_norm=report.grad_norm,
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
        return not self._lease.interrupted

    def _saver(
        self,
        model: Any,  # noqa: ANN401  # peft model
        trainer: Trainer[RenderedExample],
        prepared: PreparedExamples,
        eyes: VisionInputs | None,
    ) -> Callable[[int, bool], None]:
        about = self._manifest_fields(prepared, eyes)
        projector, tower = (None, None) if eyes is None else (eyes.projector, eyes.tower)
        began_at = trainer.step

        def save(step: int, ends_epoch: bool) -> None:
            state = trainer.state()
            self._lease.confirm()
            write = partial(
                self._checkpoints.save,
                *(model, state),
                step=step,
                ends_epoch=ends_epoch,
                about=about,
                projector=projector,
                tower=tower,
            )
            self._with_room(f"the checkpoint of step {step}", write)
            self._log.info("checkpoint", step=step, ends_epoch=ends_epoch)
            if step > began_at:
                self._lease.record_progress()

        return save

    def _manifest_fields(self, prepared: PreparedExamples, eyes: VisionInputs | None) -> dict[str, object]:
        """What the manifest of each checkpoint says of the job, beside its files and its step."""
        spec = self._job.spec
        fields: dict[str, object] = {
            "job": self._job.id,
            "baseModel": spec.base_model,
            "numExamples": spec.num_examples,
            "seed": spec.seed,
            "numEpochs": spec.hyperparameters.num_epochs,
            "batchSize": spec.hyperparameters.batch_size,
            "learningRate": spec.hyperparameters.learning_rate,
        }
        if prepared.seeing is not None:
            fields["vision"] = {"tower": prepared.seeing.tower, "preprocessing": PREPROCESSING}
        elif eyes is not None:  # of the model that this one goes on from, and takes its projector from
            fields["vision"] = manifest(self._workspace.initial_adapter).get("vision")
        return fields

    def _certificate(
        self,
        model: Any,  # noqa: ANN401  # peft model
        prepared: PreparedExamples,
        eyes: VisionInputs | None,
        adapter: Path,
    ) -> str:
        began, spec = time.monotonic(), self._job.spec
        proof = certify_adapter(
            model,
            prepared.examples,
            None if eyes is None else eyes.without_corrections(),
            prepared.renderer,
            adapter,
            base_model=spec.base_model,
            seed=spec.seed,
            check_cancelled=self._lease.raise_if_cancelled,
        )
        self._lease.log_event(
            f"served as trained: {counted(proof.num_tokens, 'token')} of {counted(len(proof.rows), 'example')}, "
            f"log-probabilities at most "
            f"{proof.largest_difference:.2g} apart in {proof.compared_in} ({proof.tolerance.largest:.2g} is tolerated)"
        )
        if proof.rounding is not None:
            self._lease.log_event(
                f"{proof.dtype} rounds them by {proof.rounding.served.mean:.2g} on average, and by "
                f"{proof.rounding.stock.mean:.2g} in transformers and peft"
            )
        if not proof.effect:
            self._lease.log_event(
                "nothing was learnt: the tuned model answers as its base does; use a larger learning rate"
            )
        self._log.info("certificate", seconds=round(time.monotonic() - began, 2), effect=round(proof.effect, 4))
        return proof.encoded()

    def _publish(self, prove: Callable[[Path], str]) -> None:
        checkpoint = self._checkpoints.latest()
        assert checkpoint is not None  # noqa: S101  # the last step saves one
        own, initial = self._workspace.sampling, self._workspace.initial_adapter
        beside = next(([file] for file in (own, initial / own.name) if file.exists()), [])
        if (initial / TOWER_FILE).exists() and not self._job.spec.train_tower:
            beside.append(initial / TOWER_FILE)  # frozen now, and as much a part of the model as before
        target, proofs = self._workspace.adapter, list[str]()

        def prove_once(adapter: Path) -> str:
            if not proofs:  # once only: it leaves the model as served, and holds for another copy of the same files
                proofs.append(prove(adapter))
            return proofs[0]

        self._with_room("the adapter", lambda: self._checkpoints.publish(checkpoint, target, prove_once, beside))

    def _with_room(self, what: str, write: Callable[[], object]) -> None:
        """Write it; on a full disk as soon as there is room, with all that was learnt kept in memory meanwhile."""
        while True:
            try:
                write()
            except Exception as error:  # safetensors has a class of its own for it; others pass
                if not is_disk_full(error):
                    raise
            else:
                return
            self._lease.await_room(what, wait_s=ROOM_WAIT_S)


def _sizes(model: Any, prepared: PreparedExamples, eyes: VisionInputs | None) -> dict[str, object]:  # noqa: ANN401  # peft model
    sight = {} if eyes is None else {"sight_parameters": sum(p.numel() for p in eyes.parameters.values())}
    return {
        "examples": len(prepared.examples),
        "tokens": prepared.tokens.total,
        "supervised_tokens": prepared.tokens.supervised,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **sight,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }

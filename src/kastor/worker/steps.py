"""What a worker does for its job, in order: fetch, render, load, resume, train, certify, publish."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch

from kastor.dataset.manifest import decode_row
from kastor.dataset.parse import decode_example
from kastor.dataset.rules import token_faults
from kastor.domain.errors import Internal, InvalidArgument
from kastor.domain.job import Snapshot, TuningJob
from kastor.domain.vision import TokenCount
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.load import compute_threads, load_base
from kastor.models.render import Rendered, Renderer
from kastor.models.sources import Progress, ensure_local
from kastor.settings import Settings
from kastor.store.blobs import Blobs
from kastor.training.checkpoints import Checkpoints, load_adapter, restore
from kastor.training.loop import StepReport, Trainer, train
from kastor.training.lora import attach
from kastor.worker.certify import certified
from kastor.worker.judging import Judging
from kastor.worker.ownership import Ownership, now


class Steps:
    """The steps of one job."""

    def __init__(self, settings: Settings, job: TuningJob, blobs: Blobs, ownership: Ownership) -> None:
        self._settings = settings
        self._job = job
        self._blobs = blobs
        self._ownership = ownership
        self._checkpoints = Checkpoints(blobs.checkpoints(job.id))
        self._judging = Judging(settings, job, blobs, ownership)
        self._log = structlog.get_logger()

    def run(self) -> bool:
        """Train to the end and publish; False when a request ended it early."""
        torch.set_num_threads(self._settings.num_threads or compute_threads())
        base = load_catalog(self._settings.catalog_file).base(self._job.spec.base_model)
        folder = ensure_local(base, self._settings.cache_dir, self._on_progress())
        renderer = Renderer.open(folder, base.family)
        self._job = replace(self._job, spec=self._judging.settled(base, renderer))
        examples = self._examples(base, renderer)
        model = attach(load_base(folder), self._job.spec.adapter, seed=self._job.spec.seed)
        if self._job.spec.from_tuned:
            load_adapter(self._blobs.initial_adapter(self._job.id), model)
        trainer = Trainer(model, examples, self._job.spec)
        self._resume(model, trainer)
        self._ownership.begin_training()
        self._log.info("training", steps=self._job.spec.total_steps, **_sizes(model, examples))
        if not train(trainer, on_step=self._on_step, save=lambda step, ends: self._save(model, trainer, ends)):
            return False
        self._publish(lambda adapter: self._certificate(model, examples, renderer, adapter))
        return True

    def _on_progress(self) -> Any:  # noqa: ANN401  # a closure; sources.OnProgress
        told: set[str] = set()

        def tell(progress: Progress) -> None:
            if progress.stage not in told:
                told.add(progress.stage)
                self._ownership.note(f"{progress.stage} the base model {self._job.spec.base_model}")

        return tell

    def _examples(self, base: BaseModel, renderer: Renderer) -> list[Rendered]:
        if self._job.spec.file is not None:
            return list(self._planned(renderer))
        with self._blobs.dataset(self._job.id).open("rb") as file:
            examples = [renderer.example(decode_example(line)) for line in file]
        longest = base.input_token_limit + base.output_token_limit
        for number, example in enumerate(examples):
            for fault in token_faults(len(example.token_ids), longest, base.name):
                raise InvalidArgument.of(f"examples[{number}]", f"{fault.message}; {fault.hint}")
        return examples

    def _planned(self, renderer: Renderer) -> Iterator[Rendered]:
        """The examples that the gate accepted, each exactly as it was planned."""
        paths = self._blobs.dataset(self._job.id), self._blobs.plan(self._job.id)
        with paths[0].open("rb") as examples, paths[1].open("rb") as plans:
            for line, plan in zip(examples, plans, strict=True):
                example, planned = decode_example(line), decode_row(plan)
                rendered = renderer.example(example, planned.views(example))
                if TokenCount(len(rendered.token_ids), rendered.num_supervised) != planned.tokens:
                    raise Internal(
                        f"Line {planned.line} became {len(rendered.token_ids)} tokens, {rendered.num_supervised} of "
                        f"them supervised; planned were {planned.tokens.total} and {planned.tokens.supervised}."
                    )
                yield rendered

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

    def _certificate(self, model: Any, examples: Sequence[Rendered], renderer: Renderer, adapter: Path) -> str:  # noqa: ANN401
        began, spec = time.monotonic(), self._job.spec
        proof = certified(
            model,
            examples,
            renderer,
            adapter,
            base_model=spec.base_model,
            seed=spec.seed,
            heed=self._ownership.heed,
        )
        self._ownership.note(
            f"served as trained: {proof.num_tokens} tokens of {len(proof.rows)} examples, log-probabilities at most "
            f"{proof.largest_difference:.2g} apart ({proof.tolerance.largest:g} is tolerated)"
        )
        self._log.info("certificate", seconds=round(time.monotonic() - began, 2), effect=round(proof.effect, 4))
        return proof.encoded()

    def _publish(self, prove: Callable[[Path], str]) -> None:
        checkpoint = self._checkpoints.latest()
        assert checkpoint is not None  # noqa: S101  # the last step saves one
        self._checkpoints.publish(checkpoint, self._blobs.adapter(self._job.id), prove)


def _sizes(model: Any, examples: Sequence[Rendered]) -> dict[str, object]:  # noqa: ANN401  # peft model
    return {
        "examples": len(examples),
        "tokens": sum(len(example.token_ids) for example in examples),
        "supervised_tokens": sum(example.num_supervised for example in examples),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }

"""The training loop: trains an adapter on examples. It knows nothing of job storage or of the API.

The loss of a step is the sum over all its rows divided by the objective's denominator for the whole step, so it does
not depend on how the step is cut into rows. When memory runs out, the step is repeated in shorter rows with the same
result.
"""

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import torch

from kastor.domain.counts import counted
from kastor.domain.errors import FailedPrecondition, ResourceExhausted
from kastor.domain.job import MAX_ROW_TOKENS, TuningSpec, epoch_of_step
from kastor.runtime.out_of_memory import is_out_of_memory
from kastor.training.fused_llama_cpu import use_fused_layers
from kastor.training.held_out import Evaluation, HeldOut
from kastor.training.loss import row_outputs, use_packed_attention
from kastor.training.objectives.objective import Example, Objective
from kastor.training.objectives.sft import SupervisedFineTuning
from kastor.training.packing import PackedRow, pack_step, step_examples
from kastor.training.schedule import learning_rate
from kastor.training.vision_inputs import PROJECTOR, TOWER, VisionInputs

MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.0
BETAS = (0.9, 0.999)
ROW_TOKENS, CORRECTION = "row_tokens", "correction."  # keys of a training state; the second is a prefix of media keys
SAVE_EVERY_S = 120.0
FACTOR = "factor"  # key of an optimizer group: its learning rate as a multiple of the step's
SFT = SupervisedFineTuning()


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did."""

    step: int  # from 1
    epoch: int  # from 1
    mean_loss: float  # summed loss over the objective's denominator; for SFT nats per supervised token
    learning_rate: float
    grad_norm: float  # L2 norm over adapter and projector, before clipping
    num_tokens: int
    num_supervised: int
    elapsed_s: float
    ends_epoch: bool  # the step contains the last example of an epoch
    metrics: Mapping[str, float] = field(default_factory=dict)  # the objective's own, as means
    evaluation: Evaluation | None = None  # on held-out examples, after steps at which they are evaluated


@dataclass(frozen=True, slots=True)
class _MeanLoss:
    loss: float
    metrics: dict[str, float]


class Trainer(Generic[Example]):
    """One job's model, optimizer and position in the stream of examples.

    `step` is the number of finished steps, `row_tokens` the token budget of a row. `state()` and `restore()` carry
    everything that the next step depends on.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401  # peft model
        examples: Sequence[Example],
        spec: TuningSpec,
        vision: VisionInputs | None = None,
        *,
        objective: Objective[Example] = SFT,  # type: ignore[assignment]  # for examples of other types give another
        held_out: HeldOut[Example] | None = None,
        row_tokens: int = MAX_ROW_TOKENS,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Examples with pictures need `vision`; its projector, and its tower if it has one, are trained as well.

        Examples with no tokens are skipped. `on_event` receives a sentence when rows are shortened after running out of
        memory. The default objective takes `RenderedExample`s.
        """
        if len(examples) != spec.num_examples:
            raise FailedPrecondition(
                f"The job was created for {counted(spec.num_examples, 'example')}, but its dataset has {len(examples)}."
            )
        self._model = model
        self._examples = examples
        self._spec = spec
        self._vision = vision
        self._objective = objective
        self._held_out = held_out
        self._on_event = on_event
        self.row_tokens = row_tokens
        adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = [{"params": list(adapter.values()), FACTOR: 1.0}]
        self._parameters = adapter
        for factor, parameters in () if vision is None else vision.param_groups:
            groups.append({"params": list(parameters.values()), FACTOR: factor})
            self._parameters = self._parameters | parameters
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=spec.hyperparameters.learning_rate,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            foreach=True,
        )
        self.step = 0
        use_packed_attention(model)
        use_fused_layers(model)
        model.eval()  # neither base nor adapter uses dropout

    @property
    def done(self) -> bool:
        """Whether all steps are finished."""
        return self.step >= self._spec.total_steps

    @property
    def ends_epoch(self) -> bool:
        """Whether the last finished step was the last of an epoch."""
        asked, size = self._spec.hyperparameters, len(self._examples)
        seen = min(self.step * asked.batch_size, size * asked.num_epochs)
        return seen // size > (self.step - 1) * asked.batch_size // size

    def run_step(self) -> StepReport:
        """Train on the next step's examples.

        Raises:
            FailedPrecondition: the loss is no longer a finite number; the step leaves the adapter unchanged.
            ResourceExhausted: memory does not hold a single example; the step leaves the adapter unchanged.

        """
        started = time.perf_counter()
        number, asked = self.step + 1, self._spec.hyperparameters
        chosen = self._with_tokens([self._examples[index] for index in self._indices(number)])
        mean = self._mean_loss(chosen, self._gradients)
        rate = learning_rate(number, self._spec.total_steps, asked.learning_rate)
        grad_norm = self._update(mean.loss, rate) if chosen else 0.0  # a step with no tokens left only counts
        self.step = number
        elapsed_s = time.perf_counter() - started
        sequences = [one for example in chosen for one in self._objective.sequences(example)]
        return StepReport(
            step=number,
            epoch=epoch_of_step(number, len(self._examples), asked.batch_size),
            mean_loss=mean.loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            num_tokens=sum(len(one.token_ids) for one in sequences),
            num_supervised=sum(sum(one.supervised[1:]) for one in sequences),
            elapsed_s=elapsed_s,
            ends_epoch=self.ends_epoch,
            metrics=mean.metrics,
            evaluation=self._held_out_evaluation(),
        )

    def evaluate(self, examples: Sequence[Example]) -> Evaluation:
        """The objective on these examples, as the adapter would be served, without gradients.

        Training is not affected, except that its rows too become shorter if memory runs out here.

        Raises:
            FailedPrecondition: there is nothing in these examples to compute a loss on.
            ResourceExhausted: memory does not hold a single example.

        """
        started = time.perf_counter()
        chosen = self._with_tokens(examples)
        if not self._objective.denominator(chosen):
            raise FailedPrecondition(
                f"The held-out dataset of {counted(len(examples), 'example')} has no supervised tokens to evaluate."
            )
        mean = self._mean_loss(chosen, self._loss_as_served)
        return Evaluation(mean.loss, mean.metrics, len(chosen), time.perf_counter() - started)

    def state(self) -> dict[str, torch.Tensor]:
        """Optimizer state by parameter name, for a checkpoint. The adapter's weights are saved apart."""
        tensors = {"step": torch.tensor(self.step), ROW_TOKENS: torch.tensor(self.row_tokens)}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": value.contiguous() for key, value in moments.items()}
        corrections = {} if self._vision is None else self._vision.corrections
        return tensors | {CORRECTION + key: tensor for key, tensor in corrections.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state`; the adapter's weights must have been loaded before."""
        self.step = int(state["step"])
        self.row_tokens = int(state.get(ROW_TOKENS, self.row_tokens))  # absent in states of the first versions
        for name, parameter in self._parameters.items():
            if f"step.{name}" in state or not name.startswith((PROJECTOR, TOWER)):  # else no step had pictures yet
                # the same memory layout as the parameter, as before the interruption
                like = {key: torch.empty_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
                moments = {key: tensor.copy_(state[f"{key}.{name}"]) for key, tensor in like.items()}
                self._optimizer.state[parameter] = {"step": state[f"step.{name}"].clone(), **moments}
        if self._vision is not None:
            prefixed = {name: tensor for name, tensor in state.items() if name.startswith(CORRECTION)}
            corrections = {name.removeprefix(CORRECTION): tensor for name, tensor in prefixed.items()}
            self._vision = replace(self._vision, corrections=corrections)

    def _indices(self, step: int) -> list[int]:
        asked = self._spec.hyperparameters
        return step_examples(
            step,
            seed=self._spec.seed,
            num_examples=len(self._examples),
            num_epochs=asked.num_epochs,
            batch_size=asked.batch_size,
        )

    def _with_tokens(self, examples: Sequence[Example]) -> list[Example]:
        """The examples of which no sequence is empty; one is empty if its medium could not be read."""
        return [one for one in examples if all(part.token_ids for part in self._objective.sequences(one))]

    def _held_out_evaluation(self) -> Evaluation | None:
        if self._held_out is None or self.step not in self._held_out.at_steps:
            return None
        return self.evaluate(self._held_out.examples)

    def _mean_loss(
        self, examples: Sequence[Example], row_loss: Callable[[PackedRow, Sequence[Example], int], _MeanLoss]
    ) -> _MeanLoss:
        """Loss and metrics over rows that memory holds; `row_loss` computes the contribution of one row."""
        denominator = self._objective.denominator(examples)
        groups = [self._objective.sequences(example) for example in examples]
        while True:
            rows, losses = pack_step(groups, self.row_tokens), list[_MeanLoss]()
            try:
                for indices, row in rows:
                    losses.append(row_loss(row, [examples[index] for index in indices], denominator))
                return _total(losses)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # after the except clause, because the traceback holds references to the tensors of the failed pass
            self._optimizer.zero_grad(set_to_none=True)
            indices, row = rows[len(losses)]
            self._shorten(row, is_single=len(indices) == 1)

    def _gradients(self, row: PackedRow, examples: Sequence[Example], denominator: int) -> _MeanLoss:
        """Add the row's gradients to those of the parameters."""
        computed = self._objective.row_loss(row_outputs(self._model, row, self._vision), examples)
        loss = computed.loss / denominator
        loss.backward()
        return _MeanLoss(loss.item(), {name: value / denominator for name, value in computed.metrics.items()})

    def _loss_as_served(self, row: PackedRow, examples: Sequence[Example], denominator: int) -> _MeanLoss:
        vision = None if self._vision is None else self._vision.without_corrections()
        with torch.no_grad():
            computed = self._objective.row_loss(row_outputs(self._model, row, vision), examples)
        loss = (computed.loss / denominator).item()
        return _MeanLoss(loss, {name: value / denominator for name, value in computed.metrics.items()})

    def _shorten(self, row: PackedRow, *, is_single: bool) -> None:
        """Halve the row budget from the length of this row, which did not fit in memory."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        num_tokens = len(row.token_ids_T)
        if is_single:
            raise ResourceExhausted(
                f"Memory ran out in step {self.step + 1} on an example of {num_tokens:,} tokens, alone in its row: a "
                "smaller batch would not help. Shorten or leave out examples of this length (media at a lower "
                "resolution, fewer frames), close other programs, or tune a smaller base."
            )
        self.row_tokens = num_tokens // 2
        self._on_event(
            f"memory ran out in step {self.step + 1} on a row of {num_tokens:,} tokens: from here on rows have at most "
            f"{self.row_tokens:,}; batch size and results stay the same"
        )

    def _clipping_groups(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        """Parameters clipped together: adapter and projector; and the tower, whose gradients are 25 times larger."""
        tower = {name for name in self._parameters if name.startswith(TOWER)}
        others = [parameter for name, parameter in self._parameters.items() if name not in tower]
        return others, [self._parameters[name] for name in sorted(tower)]

    def _update(self, loss: float, rate: float) -> float:
        """Do the optimizer step and return the gradient norm."""
        norm, tower_norm = (
            torch.nn.utils.clip_grad_norm_(group, MAX_GRAD_NORM).item() for group in self._clipping_groups()
        )
        if not all(map(math.isfinite, (loss, norm, tower_norm))):
            self._optimizer.zero_grad(set_to_none=True)
            raise FailedPrecondition(
                f"The loss became {loss} in step {self.step + 1}: training diverged. Use a learning rate below "
                f"{self._spec.hyperparameters.learning_rate:g}, for instance a third of it."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group[FACTOR]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm


def _total(rows: Sequence[_MeanLoss]) -> _MeanLoss:
    metrics = Counter[str]()
    for row in rows:
        metrics.update(row.metrics)
    return _MeanLoss(sum(row.loss for row in rows), dict(metrics))


def train(
    trainer: Trainer[Example],
    *,
    on_step: Callable[[StepReport], bool],
    save: Callable[[int, bool], None],
    save_every_s: float = SAVE_EVERY_S,
) -> bool:
    """Run the remaining steps and return whether all are finished.

    `on_step` returns whether to continue. `save(step, ends_epoch)` is called at the end of every epoch, every
    `save_every_s` seconds in between, and when `on_step` stops the run early, so that no step is lost.
    """
    saved_at = time.monotonic()
    while not trainer.done:
        report = trainer.run_step()
        continues = on_step(report)
        if report.ends_epoch or not continues or time.monotonic() - saved_at >= save_every_s:
            save(report.step, report.ends_epoch)
            saved_at = time.monotonic()
        if not continues:
            return trainer.done
    return True

"""The training loop: examples in, a trained adapter out. Knows neither where jobs are kept nor who asked.

Loss of a step = sum over its supervised tokens / their number in the whole step, however the step is cut into rows. So
where memory runs out the step is done again in shorter rows, and stays the step that it was.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kastor.domain.counts import counted
from kastor.domain.errors import FailedPrecondition, ResourceExhausted
from kastor.domain.job import TuningSpec, epoch_of_step
from kastor.models.chat.render import RenderedExample
from kastor.runtime.out_of_memory import is_out_of_memory
from kastor.training.fused_llama_cpu import use_fused_layers
from kastor.training.loss import sum_loss, use_packed_attention
from kastor.training.packing import MAX_ROW_TOKENS, PackedRow, pack_step, step_examples
from kastor.training.schedule import learning_rate
from kastor.training.vision_inputs import PROJECTOR, TOWER, VisionInputs

MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.0
BETAS = (0.9, 0.999)
ROW_TOKENS, CORRECTION = "row_tokens", "correction."  # of a training state; the latter before a medium's key
SAVE_EVERY_S = 120.0
FACTOR = "factor"  # of an optimizer's group: its learning rate as a multiple of the step's


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did."""

    step: int  # from 1
    epoch: int  # from 1
    mean_loss: float  # nats per supervised token
    learning_rate: float
    grad_norm: float  # of adapter and projector, before clipping
    num_tokens: int
    num_supervised: int
    elapsed_s: float
    ends_epoch: bool  # the step took the last example of an epoch


class Trainer:
    """One job's model, optimizer and place in the stream of examples.

    `step` is the number of steps done, `row_tokens` the budget of a row. `state()` and `restore()` carry everything
    that the next step depends on.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401  # peft model
        examples: Sequence[RenderedExample],
        spec: TuningSpec,
        sight: VisionInputs | None = None,
        *,
        row_tokens: int = MAX_ROW_TOKENS,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`sight` is needed where examples hold pictures; its projector is trained along, and its tower, if it has one.

        An example without tokens has been left out: its step is made of the others. `tell` is told in a sentence when
        memory ran out and rows have become shorter.
        """
        if len(examples) != spec.num_examples:
            raise FailedPrecondition(
                f"The job was made for {counted(spec.num_examples, 'example')}, not for {len(examples)}."
            )
        self._model = model
        self._examples = examples
        self._spec = spec
        self._sight = sight
        self._tell = tell
        self.row_tokens = row_tokens
        adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = [{"params": list(adapter.values()), FACTOR: 1.0}]
        self._parameters = adapter
        for factor, parameters in () if sight is None else sight.param_groups:
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
        model.eval()  # the base has no dropout to train with; the adapter has none

    @property
    def done(self) -> bool:
        """No step is left."""
        return self.step >= self._spec.total_steps

    @property
    def ends_epoch(self) -> bool:
        """The step that was done last was the last of an epoch."""
        asked, size = self._spec.hyperparameters, len(self._examples)
        seen = min(self.step * asked.batch_size, size * asked.num_epochs)
        return seen // size > (self.step - 1) * asked.batch_size // size

    def run_step(self) -> StepReport:
        """Train on the next step's examples.

        Raises:
            FailedPrecondition: the loss is not a number any more; the adapter is unchanged by this step.
            ResourceExhausted: memory does not hold one example by itself; so is it then.

        """
        started = time.perf_counter()
        number, asked = self.step + 1, self._spec.hyperparameters
        chosen = [one for index in self._indices(number) if (one := self._examples[index]).token_ids]
        num_supervised = sum(sum(example.supervised[1:]) for example in chosen)
        total = self._gradients(chosen, num_supervised)
        rate = learning_rate(number, self._spec.total_steps, asked.learning_rate)
        grad_norm = self._update(total, rate) if chosen else 0.0  # nothing is left of the step: it only counts
        self.step = number
        return StepReport(
            step=number,
            epoch=epoch_of_step(number, len(self._examples), asked.batch_size),
            mean_loss=total,
            learning_rate=rate,
            grad_norm=grad_norm,
            num_tokens=sum(len(example.token_ids) for example in chosen),
            num_supervised=num_supervised,
            elapsed_s=time.perf_counter() - started,
            ends_epoch=self.ends_epoch,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Optimizer state by parameter name, for a checkpoint. The adapter's weights are saved as an adapter."""
        tensors = {"step": torch.tensor(self.step), ROW_TOKENS: torch.tensor(self.row_tokens)}
        for name, parameter in self._parameters.items():
            kept = self._optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": value.contiguous() for key, value in kept.items()}
        corrections = {} if self._sight is None else self._sight.corrections
        return tensors | {CORRECTION + key: tensor for key, tensor in corrections.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on where `state` was taken; the adapter's weights must have been loaded before."""
        self.step = int(state["step"])
        self.row_tokens = int(state.get(ROW_TOKENS, self.row_tokens))  # states of the first versions have none
        for name, parameter in self._parameters.items():
            if f"step.{name}" in state or not name.startswith((PROJECTOR, TOWER)):  # else no step had pictures so far
                # laid out in memory as the parameter is, as they were before
                like = {key: torch.empty_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
                mine = {key: tensor.copy_(state[f"{key}.{name}"]) for key, tensor in like.items()}
                self._optimizer.state[parameter] = {"step": state[f"step.{name}"].clone(), **mine}
        if self._sight is not None:
            held = {name: tensor for name, tensor in state.items() if name.startswith(CORRECTION)}
            corrections = {name.removeprefix(CORRECTION): tensor for name, tensor in held.items()}
            self._sight = replace(self._sight, corrections=corrections)

    def _indices(self, step: int) -> list[int]:
        asked = self._spec.hyperparameters
        return step_examples(
            step,
            seed=self._spec.seed,
            num_examples=len(self._examples),
            num_epochs=asked.num_epochs,
            batch_size=asked.batch_size,
        )

    def _gradients(self, chosen: Sequence[RenderedExample], num_supervised: int) -> float:
        """The step's mean loss, its gradients left in the parameters, in rows that memory holds."""
        while True:
            rows, losses = pack_step(chosen, self.row_tokens), list[float]()
            try:
                for row in rows:
                    losses.append(self._row_loss(row, num_supervised))
                return sum(losses)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # only out here does nothing refer to what the pass had in memory any more
            self._optimizer.zero_grad(set_to_none=True)
            self._shorten(rows[len(losses)])

    def _row_loss(self, row: PackedRow, num_supervised: int) -> float:
        loss = sum_loss(self._model, row, self._sight) / num_supervised
        loss.backward()
        return loss.item()

    def _shorten(self, row: PackedRow) -> None:
        """Make rows half as long as this one, which memory did not hold."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        num_tokens = len(row.token_ids_T)
        if len(row.lengths) == 1:
            raise ResourceExhausted(
                f"Memory ran out in step {self.step + 1} on an example of {num_tokens:,} tokens, alone in its row: a "
                "smaller batch would not help. Shorten or leave out examples of this length (media at a lower "
                "resolution, fewer frames), close other programs, or tune a smaller base."
            )
        self.row_tokens = num_tokens // 2
        self._tell(
            f"memory ran out in step {self.step + 1} on a row of {num_tokens:,} tokens: from here on rows have at most "
            f"{self.row_tokens:,}; batch size and results stay the same"
        )

    def _clipped(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        """What is clipped together: adapter and projector; a tower, whose gradients are 25 times theirs, by itself."""
        tower = {name for name in self._parameters if name.startswith(TOWER)}
        others = [parameter for name, parameter in self._parameters.items() if name not in tower]
        return others, [self._parameters[name] for name in sorted(tower)]

    def _update(self, loss: float, rate: float) -> float:
        norm, tower_norm = (torch.nn.utils.clip_grad_norm_(part, MAX_GRAD_NORM).item() for part in self._clipped())
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


def train(
    trainer: Trainer,
    *,
    on_step: Callable[[StepReport], bool],
    save: Callable[[int, bool], None],
    save_every_s: float = SAVE_EVERY_S,
) -> bool:
    """Run the steps that are left and say whether the end was reached.

    `on_step` returns whether to go on. `save(step, ends_epoch)` is called at the end of every epoch, every
    `save_every_s` between, and when `on_step` ends the run early, so that nothing learnt is lost.
    """
    saved_at = time.monotonic()
    while not trainer.done:
        report = trainer.run_step()
        goes_on = on_step(report)
        if report.ends_epoch or not goes_on or time.monotonic() - saved_at >= save_every_s:
            save(report.step, report.ends_epoch)
            saved_at = time.monotonic()
        if not goes_on:
            return trainer.done
    return True

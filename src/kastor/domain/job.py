"""The tuning job: its states and moves, what it is asked to do, and the arithmetic of epochs and steps."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum, StrEnum

from kastor.domain.content import SupervisedTurns
from kastor.domain.errors import Code, FailedPrecondition, FieldViolation, InvalidArgument
from kastor.domain.request_limits import Limits


class State(StrEnum):
    """Where a job stands.

    QUEUED ──> PREPARING ──> RUNNING ──> SUCCEEDED
      │ ▲         │ │           │ │
      │ └─────────┴─│───────────┘ │        back to the queue: its worker died, or its server shut down
      │             ├─────────────┴──> FAILED
      │             └─> CANCELLING ──> CANCELLED
      └────────────────────────────────────^
    """

    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """No move leads out of it."""
        return not MOVES[self]

    @property
    def active(self) -> bool:
        """A worker owns the job."""
        return self in ACTIVE


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.PREPARING, State.CANCELLED, State.FAILED}),
    State.PREPARING: frozenset({State.RUNNING, State.QUEUED, State.CANCELLING, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.QUEUED, State.CANCELLING, State.FAILED}),
    # a job that ends by itself before the request reaches it stays ended as it did
    State.CANCELLING: frozenset({State.CANCELLED, State.FAILED, State.SUCCEEDED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, targets in MOVES.items() if not targets)
ACTIVE = frozenset({State.PREPARING, State.RUNNING, State.CANCELLING})

MAX_ROW_TOKENS = 4096
"""Token budget of a row, in which training packs examples end to end; a longer example has a row of its own. It bounds
the memory of a forward pass."""


@dataclass(frozen=True, slots=True)
class RequestedHyperparameters:
    """What the user asked for; `None` where they said nothing. At most one of the two rates may be set."""

    num_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    learning_rate_multiplier: float | None = None


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a job trains with: resolved once, at creation, and stored with it."""

    num_epochs: int  # >= 1
    batch_size: int  # examples per optimizer step, >= 1
    learning_rate: float  # peak of the schedule, > 0


LARGE_SET_EXAMPLES = 500
"""From this many examples on, the larger defaults hold (the threshold is not published; gemini-api.md §2.3)."""


def default_hyperparameters(num_examples: int, *, has_media: bool = False) -> Hyperparameters:
    """The service's defaults: 5 epochs, batch 4, rate 0.001; batch 16 and rate 0.0002 for large sets.

    With media: batch 8 and rate 0.0005, for large sets as well.

    >>> default_hyperparameters(15)
    Hyperparameters(num_epochs=5, batch_size=4, learning_rate=0.001)
    >>> default_hyperparameters(500)
    Hyperparameters(num_epochs=5, batch_size=16, learning_rate=0.0002)
    """
    if has_media:
        return Hyperparameters(num_epochs=5, batch_size=8, learning_rate=0.0005)
    if num_examples < LARGE_SET_EXAMPLES:
        return Hyperparameters(num_epochs=5, batch_size=4, learning_rate=0.001)
    return Hyperparameters(num_epochs=5, batch_size=16, learning_rate=0.0002)


def resolve_hyperparameters(
    asked: RequestedHyperparameters, num_examples: int, limits: Limits, *, has_media: bool = False
) -> Hyperparameters:
    """Concrete numbers for what was asked: the service's defaults where nothing was.

    Raises:
        InvalidArgument: a value is out of range, or both rates are set; names each field.

    """
    wrong = _violations(asked, limits)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))
    default = default_hyperparameters(num_examples, has_media=has_media)
    rate, name = asked.learning_rate, "learning_rate"
    if rate is None:
        multiplier = 1.0 if asked.learning_rate_multiplier is None else asked.learning_rate_multiplier
        rate, name = default.learning_rate * multiplier, "learning_rate_multiplier"
    if not _float32(rate) > 0:
        said = f"makes a learning rate of {rate:g}, which is 0 in the 32-bit numbers of training; use a larger one"
        raise InvalidArgument.of(name, said)
    return Hyperparameters(
        num_epochs=default.num_epochs if asked.num_epochs is None else asked.num_epochs,
        batch_size=default.batch_size if asked.batch_size is None else asked.batch_size,
        learning_rate=rate,
    )


def _float32(value: float) -> float:
    """The nearest number of 32 bits.

    >>> _float32(1e-50), _float32(0.5)
    (0.0, 0.5)
    """
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _violations(asked: RequestedHyperparameters, limits: Limits) -> list[FieldViolation]:
    wrong = []
    for name, value, most in (
        ("num_epochs", asked.num_epochs, limits.max_epochs),
        ("batch_size", asked.batch_size, limits.max_batch_size),
    ):
        if value is not None and not 1 <= value <= most:
            wrong.append(FieldViolation(name, f"{value} is out of range; use a whole number from 1 to {most}"))
    rate, multiplier, most_rate = asked.learning_rate, asked.learning_rate_multiplier, limits.max_learning_rate
    if rate is not None and multiplier is not None:
        wrong.append(FieldViolation("learning_rate_multiplier", "set either it or a learning rate, not both"))
    if rate is not None and not 0 < rate <= most_rate:
        wrong.append(FieldViolation("learning_rate", f"{rate} is out of range; use one above 0, at most {most_rate}"))
    if multiplier is not None and not 0 < multiplier <= 1000:
        wrong.append(FieldViolation("learning_rate_multiplier", f"{multiplier} is out of range (0, 1000]; 1 is usual"))
    return wrong


def total_steps(num_examples: int, num_epochs: int, batch_size: int) -> int:
    """Optimizer steps of a job: the examples of all epochs are one stream, cut every `batch_size`.

    The figures of Google's notebooks:

    >>> total_steps(15, 5, 4), total_steps(15, 5, 2), total_steps(15, 100, 4)
    (19, 38, 375)
    """
    return math.ceil(num_examples * num_epochs / batch_size)


def epoch_of_step(step: int, num_examples: int, batch_size: int) -> int:
    """The epoch, from 1, in which step `step` (from 1) takes its first example.

    >>> [epoch_of_step(s, 15, 4) for s in (1, 4, 5, 19)]
    [1, 1, 2, 5]
    """
    return 1 + (step - 1) * batch_size // num_examples


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The LoRA adapter to train: delta W = (alpha / rank) * B A on every linear layer named in `targets`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """The file that a job is to be trained on, until the gate has judged it."""

    name: str  # as the caller named it
    profile: str  # of domain.dataset_limits
    media_base: str  # folder where its relative names of media begin; empty for none
    asked: RequestedHyperparameters  # resolved once the number of examples is known
    settled: bool = False  # judged: the number of examples and the hyperparameters are final


class Rendering(IntEnum):
    """How a conversation becomes tokens. What was tuned with one is served, counted for and tuned further with it."""

    FIRST = 1  # of the first release: tokenizers as transformers rebuilds them; stored with no job
    PUBLISHED = 2  # as the base's publisher has it, who may write a system instruction where none is given
    TUNED = 3  # the same without that instruction, which says nothing of what a model is tuned for


@dataclass(frozen=True, slots=True)
class TuningSpec:
    """Everything that decides the outcome of a job; changes after creation only where a dataset file is settled."""

    base_model: str  # catalog id, never an alias
    hyperparameters: Hyperparameters
    adapter: AdapterShape
    num_examples: int
    seed: int = 0
    file: DatasetFile | None = None  # absent where the examples came with the request
    supervise: SupervisedTurns = SupervisedTurns.ALL  # the turns that examples teach
    train_tower: bool = False  # the vision tower is trained, too, and no features of pictures are kept
    rendering: Rendering = Rendering.FIRST
    from_tuned: bool = False  # starts from a copy of another tuned model's adapter instead of a fresh one
    checksums: Mapping[str, str] = field(default_factory=dict)  # sha256 of what it is trained on

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole job."""
        return total_steps(self.num_examples, self.hyperparameters.num_epochs, self.hyperparameters.batch_size)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job ended without a model: one sentence that says what to do."""

    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class TuningJob:
    """A job as the store last saw it."""

    id: str  # 12 x [a-z0-9]; the operation's id on the Gemini wire
    tuned_model_id: str
    spec: TuningSpec
    state: State
    created_at: datetime
    updated_at: datetime
    creator: str  # e-mail of who asked for it, whoever owns its model later: as whom its `files/…` are read
    attempt: int = 0  # counts claims; a worker of an older attempt may no longer write
    deaths: int = 0  # claims that ended with the worker's death, since the job last came further
    started_at: datetime | None = None
    finished_at: datetime | None = None
    heartbeat_at: datetime | None = None
    completed_steps: int = 0
    error: JobError | None = None
    resumed_as: str | None = None  # the job that goes on in its place, after it failed

    @property
    def present_id(self) -> str:
        """The job that makes the tuned model now: this one, or the one that goes on in its place."""
        return self.resumed_as or self.id

    def resumed(self, job_id: str, *, step: int, at: datetime) -> "TuningJob":
        """A new job that goes on where this one, which failed, kept a checkpoint after `step` steps.

        Raises:
            FailedPrecondition: it did not fail, or another goes on for it already.

        """
        if self.resumed_as is not None:
            raise FailedPrecondition(f"Job {self.id} was resumed already: job {self.resumed_as} goes on in its place.")
        if self.state is not State.FAILED:
            raise FailedPrecondition(f"Job {self.id} is {self.state}; only a job that failed can be resumed.")
        return TuningJob(
            id=job_id,
            tuned_model_id=self.tuned_model_id,
            spec=self.spec,
            state=State.QUEUED,
            created_at=at,
            updated_at=at,
            creator=self.creator,
            completed_steps=step,
        )

    def moved_to(self, state: State, *, at: datetime, error: JobError | None = None) -> "TuningJob":
        """The job after the move.

        Raises:
            FailedPrecondition: `MOVES` does not allow it.

        """
        if state not in MOVES[self.state]:
            raise FailedPrecondition(f"Job {self.id} is {self.state}; it cannot become {state}.")
        return replace(
            self,
            state=state,
            updated_at=at,
            started_at=at if state is State.PREPARING and self.started_at is None else self.started_at,
            heartbeat_at=at if state in ACTIVE else None,
            finished_at=at if state.terminal else None,
            error=error,
        )


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimizer step did."""

    step: int  # from 1
    epoch: int  # from 1
    mean_loss: float  # nats per supervised token, over the step
    num_tokens: int  # all tokens that went through the model in this step
    num_supervised: int  # tokens with a loss
    elapsed_s: float  # wall time of the step
    computed_at: datetime
    learning_rate: float | None = None  # of the adapter; absent in steps of release 0.1
    grad_norm: float | None = None  # over adapter and projector, before clipping; absent in steps of release 0.1


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's log."""

    at: datetime
    level: str  # info | warning | error
    message: str

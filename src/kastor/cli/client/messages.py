"""The server's answers as values and the CLI's requests as JSON: the client side of the wire.

Written by hand rather than shared with the server's pydantic models, for speed: importing `kastor.api.kastor.jobs`
loads 600 modules in 0.7 s of processor time, where this module and all below it load 100 in 0.07 s, and a
`kastor jobs list` takes 0.5 to 0.7 s as a whole. Reading is lenient, too: the server may be of another version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kastor.domain.content import Example, Role, SupervisedTurns
from kastor.domain.counts import counted
from kastor.domain.job import State


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value).astimezone(UTC) if value else None


@dataclass(frozen=True, slots=True)
class Step:
    """Metrics of one optimizer step."""

    step: int
    epoch: int
    mean_loss: float
    tokens_per_second: float | None

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Step":
        """Parse a snapshot of `/kastor/v1/jobs`."""
        return cls(item["step"], item.get("epoch", 1), item.get("meanLoss", 0.0), item.get("tokensPerSecond"))


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry in the history of a job."""

    at: datetime | None
    level: str
    message: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "JobEvent":
        """Parse an event of `/kastor/v1/jobs`."""
        at = item.get("at") or item.get("time") or item.get("createTime")
        return cls(_time(at), item.get("level", "info"), item.get("message", ""))


@dataclass(frozen=True, slots=True)
class Job:
    """A tuning job; `raw` is the server's JSON, printed by `--json`."""

    id: str
    tuned_model: str
    state: State
    base_model: str
    num_examples: int
    total_steps: int
    completed_steps: int
    num_epochs: int | None
    attempt: int
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None
    last: Step | None
    eta_s: float | None
    events: tuple[JobEvent, ...]
    steps: tuple[Step, ...]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Job":
        """Parse a job of `/kastor/v1/jobs`."""
        last = item.get("lastSnapshot")
        return cls(
            id=item["id"],
            tuned_model=item.get("tunedModel", ""),
            state=State(item["state"]),
            base_model=item.get("baseModel", ""),
            num_examples=item.get("numExamples") or 0,
            total_steps=item.get("totalSteps", 0),
            completed_steps=item.get("completedSteps", 0),
            num_epochs=(item.get("hyperparameters") or {}).get("epochCount"),
            attempt=item.get("attempt", 0),
            created_at=_time(item.get("createTime")),
            started_at=_time(item.get("startTime")),
            ended_at=_time(item.get("endTime")),
            error=(item.get("error") or {}).get("message"),
            last=Step.of(last) if last else None,
            eta_s=item.get("etaSeconds"),
            events=tuple(JobEvent.of(event) for event in item.get("events") or []),
            steps=tuple(Step.of(step) for step in item.get("snapshots") or []),
            raw=item,
        )

    @property
    def examples(self) -> str:
        """Number of training examples; with the number of rows if some were left out."""
        rows = self.raw.get("rows")
        if not isinstance(rows, dict) or not rows.get("leftOut"):
            return f"{self.num_examples:,}"
        return f"{rows.get('trainedOn', 0):,} of {counted(rows.get('total', 0), 'row')}, {rows['leftOut']:,} left out"


@dataclass(frozen=True, slots=True)
class TunedModelRecord:
    """A tuned model; `raw` is the server's JSON."""

    name: str
    display_name: str
    state: str
    base_model: str
    created_at: datetime | None
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "TunedModelRecord":
        """Parse a TunedModel."""
        return cls(
            item["name"],
            item.get("displayName", ""),
            item.get("state", ""),
            item.get("baseModel", ""),
            _time(item.get("createTime")),
            item,
        )


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer, or one chunk of it."""

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    served_by: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "GeneratedAnswer":
        """Parse a GenerateContentResponse; the CLI asks for one candidate only."""
        candidate: Mapping[str, Any] = next(iter(item.get("candidates", [])), {})
        parts = candidate.get("content", {}).get("parts", [])
        text = "".join(part.get("text", "") for part in parts)
        return cls(text, candidate.get("finishReason", ""), item.get("usageMetadata", {}), item.get("modelVersion", ""))


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Sampling parameters and system instruction; `None` leaves a value to the model's defaults."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    system: str | None = None

    def body(self, prompt: str) -> dict[str, object]:
        """A GenerateContentRequest."""
        config = {
            "temperature": self.temperature,
            "topP": self.top_p,
            "topK": self.top_k,
            "maxOutputTokens": self.max_tokens,
            "seed": self.seed,
            "stopSequences": list(self.stop) or None,
        }
        given = {name: value for name, value in config.items() if value is not None}
        body: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
        if self.system is not None:
            body["systemInstruction"] = {"parts": [{"text": self.system}]}
        return body | {"generationConfig": given}


@dataclass(frozen=True, slots=True)
class NewTuning:
    """A request to start tuning; `None` leaves a value to the service's defaults."""

    base_model: str
    examples: Sequence[Example]
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    model_id: str | None = None
    display_name: str | None = None
    supervise: SupervisedTurns = SupervisedTurns.ALL
    train_tower: bool = False

    @property
    def pairs_only(self) -> bool:
        """Whether every example is one input and one output: all that the tunedModels API can carry."""
        return all(
            [turn.role for turn in example.contents] == [Role.USER, Role.MODEL]
            and all(content.weight for content in example.contents)
            and example.system is None
            and not example.others
            and not example.tools
            for example in self.examples
        )

    def body(self) -> dict[str, object]:
        """A TunedModel to create; for pairs only."""
        task: dict[str, object] = {
            "hyperparameters": self._hyperparameters(),
            "trainingData": {"examples": {"examples": text_pairs(self.examples)}},
        }
        return self._model_fields() | {"tuningTask": task}

    def job_body(self, dataset: str, media_folder: str, profile: str | None) -> dict[str, object]:
        """A new job for `/kastor/v1/jobs` on an uploaded dataset file."""
        beside = any(media.uri and "://" not in media.uri for example in self.examples for media in example.media)
        named: dict[str, object] = {"tunedModelId": self.model_id, "profile": profile, "trainTower": self.train_tower}
        named["mediaFolder"] = media_folder if beside else ""
        if self.supervise is not SupervisedTurns.ALL:
            named["supervise"] = self.supervise.value
        given = {name: value for name, value in named.items() if value}
        return self._model_fields() | given | {"dataset": dataset, "hyperparameters": self._hyperparameters()}

    def _model_fields(self) -> dict[str, object]:
        base = self.base_model if "/" in self.base_model else f"models/{self.base_model}"
        named: dict[str, object] = {"displayName": self.display_name} if self.display_name else {}
        return {"baseModel": base} | named

    def _hyperparameters(self) -> dict[str, object]:
        values = {"epochCount": self.epochs, "batchSize": self.batch_size, "learningRate": self.learning_rate}
        return {name: value for name, value in values.items() if value is not None}


def text_pairs(examples: Sequence[Example]) -> list[dict[str, str]]:
    """Single-turn examples as `{textInput, output}` objects."""
    return [{"textInput": example.contents[0].text, "output": example.contents[1].text} for example in examples]

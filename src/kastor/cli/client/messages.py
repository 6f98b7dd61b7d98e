"""What the server's JSON says, as values; and what the CLI asks for, as JSON. The CLI's own crossing of the wire."""

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
    """A snapshot: what one optimizer step did."""

    step: int
    epoch: int
    mean_loss: float
    tokens_per_second: float | None

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Step":
        """From the admin wire's snapshot."""
        return cls(item["step"], item.get("epoch", 1), item.get("meanLoss", 0.0), item.get("tokensPerSecond"))


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of what happened to a job."""

    at: datetime | None
    level: str
    message: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "JobEvent":
        """From the admin wire's event."""
        at = item.get("at") or item.get("time") or item.get("createTime")
        return cls(_time(at), item.get("level", "info"), item.get("message", ""))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the admin wire gives it; `raw` is that answer, for `--json`."""

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
        """From the admin wire's job."""
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
        """How many examples are trained on; of how many rows, where some were left out."""
        rows = self.raw.get("rows")
        if not isinstance(rows, dict) or not rows.get("leftOut"):
            return f"{self.num_examples:,}"
        return f"{rows.get('trainedOn', 0):,} of {counted(rows.get('total', 0), 'row')}, {rows['leftOut']:,} left out"


@dataclass(frozen=True, slots=True)
class TunedModelRecord:
    """A tuned model as the Gemini wire gives it."""

    name: str
    display_name: str
    state: str
    base_model: str
    created_at: datetime | None
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "TunedModelRecord":
        """From the wire's TunedModel."""
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
    """What a model said, or a piece of it."""

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    served_by: str

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "GeneratedAnswer":
        """From the wire's GenerateContentResponse; only the first candidate exists."""
        candidate: Mapping[str, Any] = next(iter(item.get("candidates", [])), {})
        parts = candidate.get("content", {}).get("parts", [])
        text = "".join(part.get("text", "") for part in parts)
        return cls(text, candidate.get("finishReason", ""), item.get("usageMetadata", {}), item.get("modelVersion", ""))


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose tokens, and by which system instruction; what is `None` is left to the model's defaults."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    system: str | None = None

    def body(self, prompt: str) -> dict[str, object]:
        """The wire's GenerateContentRequest."""
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
    """What `kastor tune` asks for; what is `None` is left to the service's defaults."""

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
        """Whether every example is one input and one output, which is all that the tunedModels API carries."""
        return all(
            [turn.role for turn in example.contents] == [Role.USER, Role.MODEL]
            and all(content.weight for content in example.contents)
            and example.system is None
            and not example.others
            and not example.tools
            for example in self.examples
        )

    def body(self) -> dict[str, object]:
        """The wire's TunedModel; only of pairs."""
        task: dict[str, object] = {
            "hyperparameters": self._asked(),
            "trainingData": {"examples": {"examples": read_pairs(self.examples)}},
        }
        return self._described() | {"tuningTask": task}

    def job_body(self, dataset: str, media_folder: str, profile: str | None) -> dict[str, object]:
        """The admin wire's new job, on an uploaded dataset file."""
        beside = any(media.uri and "://" not in media.uri for example in self.examples for media in example.media)
        named: dict[str, object] = {"tunedModelId": self.model_id, "profile": profile, "trainTower": self.train_tower}
        named["mediaFolder"] = media_folder if beside else ""
        if self.supervise is not SupervisedTurns.ALL:
            named["supervise"] = self.supervise.value
        given = {name: value for name, value in named.items() if value}
        return self._described() | given | {"dataset": dataset, "hyperparameters": self._asked()}

    def _described(self) -> dict[str, object]:
        base = self.base_model if "/" in self.base_model else f"models/{self.base_model}"
        named: dict[str, object] = {"displayName": self.display_name} if self.display_name else {}
        return {"baseModel": base} | named

    def _asked(self) -> dict[str, object]:
        asked = {"epochCount": self.epochs, "batchSize": self.batch_size, "learningRate": self.learning_rate}
        return {name: value for name, value in asked.items() if value is not None}


def read_pairs(examples: Sequence[Example]) -> list[dict[str, str]]:
    """The examples, each one input and one output, as the wire's `{textInput, output}`."""
    return [{"textInput": example.contents[0].text, "output": example.contents[1].text} for example in examples]

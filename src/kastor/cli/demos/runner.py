"""What the demos share: steps that are told, a job that is followed, many questions asked at once, rows with media."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from kastor.cli.client.client import Client
from kastor.cli.client.connection import ServerConnection
from kastor.cli.client.follow import follow
from kastor.cli.client.messages import Job
from kastor.cli.commands.tune import report
from kastor.cli.console.loss_chart import loss_chart
from kastor.cli.console.output import Output
from kastor.cli.console.progress import create_display
from kastor.domain.content import Resolution
from kastor.domain.errors import KastorError
from kastor.domain.job import State

SEEING_BASE = "kastor-nano-vl"
MAX_ASKED_AT_ONCE = 16  # what the engine answers side by side


@dataclass(frozen=True, slots=True)
class Step:
    """Tells which of a demo's steps begins."""

    out: Output
    total: int

    def say(self, number: int, what: str, detail: str) -> None:
        """The `number`-th, from 1."""
        self.out.err.print(Text.assemble((f"{number}/{self.total} ", "cyan"), (f"{what:<11}", "bold"), detail))


@dataclass(frozen=True, slots=True)
class DemoExample:
    """A question about media and its right answer; `media` are parts as both wires write them."""

    media: tuple[Mapping[str, object], ...]
    question: str
    answer: str
    resolution: Resolution = Resolution.LOW

    @property
    def turn(self) -> dict[str, object]:
        """The user's."""
        return {"role": "user", "parts": [*self.media, {"text": self.question}]}

    @property
    def line(self) -> dict[str, object]:
        """A line of a dataset."""
        answer = {"role": "model", "parts": [{"text": self.answer}]}
        return {"contents": [self.turn, answer], "generationConfig": {"mediaResolution": self._level}}

    def request(self, form: "AnswerSchema") -> dict[str, object]:
        """The same to a model, greedily: a GenerateContentRequest."""
        config = {"temperature": 0, "mediaResolution": self._level} | form.config
        return {"contents": [self.turn], "generationConfig": config}

    @property
    def _level(self) -> str:
        return f"MEDIA_RESOLUTION_{self.resolution}"


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """Which answers are let through: of at most so many tokens, one of `choices` or by a `schema` if there is any."""

    max_tokens: int
    choices: tuple[str, ...] = ()
    schema: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, object]:
        """As part of a generationConfig."""
        config: dict[str, object] = {"maxOutputTokens": self.max_tokens}
        if self.choices:
            schema = {"type": "STRING", "enum": list(self.choices)}
            return config | {"responseMimeType": "text/x.enum", "responseSchema": schema}
        if self.schema:
            return config | {"responseMimeType": "application/json", "responseSchema": dict(self.schema)}
        return config


@dataclass(frozen=True, slots=True)
class DemoTask:
    """What is learnt from, what is asked, and how: all that an outcome depends on."""

    name: str  # of the tuned model, for people
    folder: Path  # where its files go; media in it may be named
    trained: Sequence[DemoExample]
    held_out: Sequence[DemoExample]
    form: AnswerSchema
    epochs: int
    batch_size: int
    learning_rate: float

    @property
    def dataset(self) -> Path:
        """The rows to learn from, as a file."""
        return self.folder / "train.jsonl"

    @property
    def settings(self) -> str:
        """How long and how fast is learnt, for people."""
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        return f"{epochs}, batch {self.batch_size}, rate {self.learning_rate:g}"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """A study's job, and what both models said to what was held out."""

    job: Job
    base: list[str]
    tuned: list[str]


def local_file(path: Path, mime_type: str) -> dict[str, object]:
    """A part that names a file of this machine."""
    return {"fileData": {"mimeType": mime_type, "fileUri": str(path.absolute())}}


def write_dataset(study: DemoTask) -> None:
    """Both parts of the dataset, each as a JSONL file in the study's folder."""
    study.folder.mkdir(exist_ok=True)
    for path, rows in ((study.dataset, study.trained), (study.folder / "held-out.jsonl", study.held_out)):
        path.write_text("".join(json.dumps(row.line) + "\n" for row in rows), "utf-8")


def start_job(study: DemoTask, link: ServerConnection, base: str, out: Output) -> Job:
    """The study's job, succeeded; its dataset must have been written."""
    asked = {"epochCount": study.epochs, "batchSize": study.batch_size, "learningRate": study.learning_rate}
    body = {"baseModel": base, "displayName": study.name, "dataset": str(study.dataset), "hyperparameters": asked}
    return follow_job(link, link.client.create_job(body).id, out)


def compare_models(study: DemoTask, job: Job, link: ServerConnection, base: str, out: Output) -> DemoResult:
    """Both models' answers to the rows that were held out."""
    requests = [(model, row.request(study.form)) for model in (base, job.tuned_model) for row in study.held_out]
    answers = ask_all(link.client, requests, out)
    return DemoResult(job, answers[: len(study.held_out)], answers[len(study.held_out) :])


def follow_job(link: ServerConnection, job_id: str, out: Output) -> Job:
    """The job, succeeded, with its curve drawn. On Ctrl-C it is cancelled: nobody wants to find it in the queue later.

    Raises:
        KastorError: it did not succeed.

    """
    try:
        with create_display(out.err) as display:
            job = follow(link.client, job_id, display, link.check)
    except KeyboardInterrupt:
        with suppress(KastorError):
            link.client.cancel(job_id)
        raise
    if job.state is not State.SUCCEEDED:
        report(job, job.tuned_model, out)
    full = link.client.job(job_id, full=True)
    if not out.as_json:
        out.result(None, "", loss_chart(full.steps, out.out.width), "")
    return full


def ask_all(client: Client, requests: Sequence[tuple[str, Mapping[str, Any]]], out: Output) -> list[str]:
    """Each model's answer to its request, many asked for at once: the engine batches them."""
    pool = ThreadPoolExecutor(min(len(requests), MAX_ASKED_AT_ONCE))
    try:
        futures = [pool.submit(client.answer, model, body) for model, body in requests]
        with out.err.status("loading the model", spinner="line") as status:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                status.update(f"{number} of {len(requests)} answers")
        return [future.result().text for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for answers


@contextmanager
def interruption_told(out: Output) -> Iterator[None]:
    """Says, on Ctrl-C, that nothing is left running."""
    try:
        yield
    except KeyboardInterrupt:
        out.say("\nInterrupted; the demo's processes are ended. Run it again at any time.", style="")
        raise

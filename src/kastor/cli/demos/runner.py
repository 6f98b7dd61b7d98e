"""Shared by the demos: numbered steps, running and following a job, parallel requests, examples with media."""

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
MAX_PARALLEL_REQUESTS = 16  # the engine's batch size


@dataclass(frozen=True, slots=True)
class Step:
    """Announces the steps of a demo."""

    out: Output
    total: int

    def say(self, number: int, what: str, detail: str) -> None:
        """Announce step `number`, counted from 1."""
        self.out.err.print(Text.assemble((f"{number}/{self.total} ", "cyan"), (f"{what:<11}", "bold"), detail))


@dataclass(frozen=True, slots=True)
class DemoExample:
    """A question about media and its correct answer; `media` are parts as in datasets and requests."""

    media: tuple[Mapping[str, object], ...]
    question: str
    answer: str
    resolution: Resolution = Resolution.LOW

    @property
    def turn(self) -> dict[str, object]:
        """The user turn."""
        return {"role": "user", "parts": [*self.media, {"text": self.question}]}

    @property
    def line(self) -> dict[str, object]:
        """The example as a dataset row."""
        answer = {"role": "model", "parts": [{"text": self.answer}]}
        return {"contents": [self.turn, answer], "generationConfig": {"mediaResolution": self._level}}

    def request(self, form: "AnswerSchema") -> dict[str, object]:
        """The question as a GenerateContentRequest with greedy sampling."""
        config = {"temperature": 0, "mediaResolution": self._level} | form.config
        return {"contents": [self.turn], "generationConfig": config}

    @property
    def _level(self) -> str:
        return f"MEDIA_RESOLUTION_{self.resolution}"


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """Constraints on answers: a maximum of tokens, and one of `choices` or a JSON `schema`."""

    max_tokens: int
    choices: tuple[str, ...] = ()
    schema: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, object]:
        """The constraints as part of a generationConfig."""
        config: dict[str, object] = {"maxOutputTokens": self.max_tokens}
        if self.choices:
            schema = {"type": "STRING", "enum": list(self.choices)}
            return config | {"responseMimeType": "text/x.enum", "responseSchema": schema}
        if self.schema:
            return config | {"responseMimeType": "application/json", "responseSchema": dict(self.schema)}
        return config


@dataclass(frozen=True, slots=True)
class DemoTask:
    """Training data, held-out data and hyperparameters: everything that a result depends on."""

    name: str  # display name of the tuned model
    folder: Path  # for the task's files; examples may refer to media in it
    trained: Sequence[DemoExample]
    held_out: Sequence[DemoExample]
    form: AnswerSchema
    epochs: int
    batch_size: int
    learning_rate: float

    @property
    def dataset(self) -> Path:
        """The file with the training examples."""
        return self.folder / "train.jsonl"

    @property
    def settings(self) -> str:
        """The hyperparameters in words."""
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        return f"{epochs}, batch {self.batch_size}, rate {self.learning_rate:g}"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The task's job, and both models' answers to the held-out examples."""

    job: Job
    base: list[str]
    tuned: list[str]


def local_file(path: Path, mime_type: str) -> dict[str, object]:
    """A part that refers to a local file."""
    return {"fileData": {"mimeType": mime_type, "fileUri": str(path.absolute())}}


def write_dataset(task: DemoTask) -> None:
    """Write the training and held-out examples as JSONL files into the task's folder."""
    task.folder.mkdir(exist_ok=True)
    for path, rows in ((task.dataset, task.trained), (task.folder / "held-out.jsonl", task.held_out)):
        path.write_text("".join(json.dumps(row.line) + "\n" for row in rows), "utf-8")


def start_job(task: DemoTask, connection: ServerConnection, base: str, out: Output) -> Job:
    """Run the task's job and return it succeeded; its dataset must have been written."""
    hyperparameters = {"epochCount": task.epochs, "batchSize": task.batch_size, "learningRate": task.learning_rate}
    body = {
        "baseModel": base,
        "displayName": task.name,
        "dataset": str(task.dataset),
        "hyperparameters": hyperparameters,
    }
    return follow_job(connection, connection.client.create_job(body).id, out)


def compare_models(task: DemoTask, job: Job, connection: ServerConnection, base: str, out: Output) -> DemoResult:
    """Ask both models the held-out questions."""
    requests = [(model, row.request(task.form)) for model in (base, job.tuned_model) for row in task.held_out]
    answers = ask_all(connection.client, requests, out)
    return DemoResult(job, answers[: len(task.held_out)], answers[len(task.held_out) :])


def follow_job(connection: ServerConnection, job_id: str, out: Output) -> Job:
    """Follow the job until it has succeeded, and draw its loss curve. Ctrl-C cancels it.

    Raises:
        KastorError: the job did not succeed.

    """
    try:
        with create_display(out.err) as display:
            job = follow(connection.client, job_id, display, connection.check)
    except KeyboardInterrupt:
        with suppress(KastorError):
            connection.client.cancel(job_id)
        raise
    if job.state is not State.SUCCEEDED:
        report(job, job.tuned_model, out)
    full = connection.client.job(job_id, full=True)
    if not out.as_json:
        out.result(None, "", loss_chart(full.steps, out.out.width), "")
    return full


def ask_all(client: Client, requests: Sequence[tuple[str, Mapping[str, Any]]], out: Output) -> list[str]:
    """The answer to each request, in order; requests run in parallel, so that the engine can batch them."""
    pool = ThreadPoolExecutor(min(len(requests), MAX_PARALLEL_REQUESTS))
    try:
        futures = [pool.submit(client.answer, model, body) for model, body in requests]
        with out.err.status("loading the model", spinner="line") as status:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                status.update(f"{number} of {len(requests)} answers")
        return [future.result().text for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C, do not wait for answers


@contextmanager
def interruption_notice(out: Output) -> Iterator[None]:
    """On Ctrl-C, print that nothing is left running."""
    try:
        yield
    except KeyboardInterrupt:
        out.say("\nInterrupted; the demo's processes have ended. You can run it again at any time.", style="")
        raise

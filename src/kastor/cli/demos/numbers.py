"""`kastor demo`: tunes a base model to continue numbers, through the HTTP API, and compares both models.

It uses the ordinary data folder, so that the commands printed at the end find the tuned model. The server is private
to the demo and listens on a free port, so that a running server is not disturbed.

The held-out inputs are of the same kinds as the training set (digits, negatives, thousands, words) and not in it; they
were drawn before any model was evaluated. The first ones are shown, all are scored. The three inputs in other languages
and scripts are those of Google's notebook; the training set has no such examples, so they are shown but not scored.
"""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from rich.text import Text

from kastor.cli.client.client import Client
from kastor.cli.client.connection import ServerConnection, private_connection, running_server
from kastor.cli.client.messages import Job, NewTuning, SamplingOptions
from kastor.cli.commands.models import fetch_base
from kastor.cli.console.output import Output, duration, program, table
from kastor.cli.demos.runner import Step, ask_all, follow_job, interruption_notice
from kastor.domain.content import Example
from kastor.domain.excerpt import shortened
from kastor.metrics.labels import exact_match
from kastor.models.catalog import BaseModel, load_catalog
from kastor.settings import Settings, load_settings

BASE = "smollm2-135m-instruct"
DISPLAY_NAME = "numbers"
TRAINING_FILE, HELD_OUT_FILE, OTHERS_FILE = "numbers.jsonl", "numbers-held-out.jsonl", "numbers-elsewhere.jsonl"
MAX_TOKENS = 24  # the longest right answer has 12
GREEDY = SamplingOptions(temperature=0.0, max_tokens=MAX_TOKENS)
NUM_SHOWN = 16
SHOWN_CHARS = 20
NUM_STEPS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """An input and its correct answer."""

    text_input: str
    output: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both models' answers to a held-out input."""

    pair: Pair
    base: str
    tuned: str

    @property
    def base_right(self) -> bool:
        """Whether the answer matches exactly, apart from surrounding white space."""
        return exact_match(self.base, self.pair.output)

    @property
    def tuned_right(self) -> bool:
        """Whether the answer matches exactly, apart from surrounding white space."""
        return exact_match(self.tuned, self.pair.output)


def number_pairs(name: str) -> list[Pair]:
    """The pairs of a bundled file."""
    text = resources.files("kastor.cli").joinpath("assets", name).read_text("utf-8")
    return [Pair(**json.loads(line)) for line in text.splitlines()]


def run(out: Output, base_name: str = BASE, *, accept_licence: bool = False) -> None:
    """Run the demo on this base model; `accept_licence` agrees to its licence."""
    started = time.monotonic()
    settings = load_settings()
    base = load_catalog(settings.catalog_file).base(base_name)
    out.say("Kastor demo: a small language model learns from 15 pairs which number is next.\n", style="bold")
    step = Step(out, NUM_STEPS)
    with interruption_notice(out):
        step.say(1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetch_base(base, settings, out, accept_licence=accept_licence)
        with private_connection(settings, out, scheduler=True) as connection:
            step.say(2, "server", f"{connection.client.url}, for this demo only")
            job = _tune(connection, base, step)
            held_out, others = number_pairs(HELD_OUT_FILE), number_pairs(OTHERS_FILE)
            step.say(4, "answers", f"{len(held_out)} inputs that are not in the training data, for both models")
            comparisons = _compare(connection.client, base, job.tuned_model, [*held_out, *others], step)
            scored, unscored = comparisons[: len(held_out)], comparisons[len(held_out) :]
    seconds = time.monotonic() - started
    if out.as_json:
        out.result(_document(base, job, scored, unscored, seconds))
        return
    _show_table(scored, unscored, out)
    _show_next(settings, job, seconds, out)


def _tune(connection: ServerConnection, base: BaseModel, step: Step) -> Job:
    """Tune the base model; returns the succeeded job."""
    pairs = number_pairs(TRAINING_FILE)
    examples = [Example.pair(pair.text_input, pair.output) for pair in pairs]
    samples = ", ".join(f"{pair.text_input} → {pair.output}" for pair in pairs[:4])
    job_id, _ = connection.client.create_tuning(NewTuning(base.id, examples, display_name=DISPLAY_NAME))
    hyperparameters = connection.client.job(job_id).raw["hyperparameters"]
    batch_size, rate = hyperparameters["batchSize"], hyperparameters["learningRate"]
    settings = f"{hyperparameters['epochCount']} epochs, batch {batch_size}, rate {rate:g}"
    step.say(3, "tuning", f"POST {connection.client.url}/v1beta/tunedModels")
    step.out.say(f"               {len(pairs)} pairs ({samples} …)\n               the defaults: {settings}")
    return follow_job(connection, job_id, step.out)


def _compare(client: Client, base: BaseModel, tuned: str, pairs: Sequence[Pair], step: Step) -> list[Comparison]:
    """Ask both models all inputs."""
    requests = [(model, GREEDY.body(pair.text_input)) for model in (base.name, tuned) for pair in pairs]
    answers = ask_all(client, requests, step.out)
    return [
        Comparison(pair, base_answer, tuned_answer)
        for pair, base_answer, tuned_answer in zip(pairs, answers[: len(pairs)], answers[len(pairs) :], strict=True)
    ]


def _show_table(scored: Sequence[Comparison], unscored: Sequence[Comparison], out: Output) -> None:
    rows = table("input", "expected", "base model", "", "tuned model", "")
    for item in scored[:NUM_SHOWN]:
        rows.add_row(*_cells(item))
    rows.add_section()
    base_score, tuned_score = _scores(scored)
    total = len(scored)
    rows.add_row(
        f"all {total}", "right", f"{base_score} of {total}", "", Text(f"{tuned_score} of {total}", style="bold"), ""
    )
    rows.add_section()
    for item in unscored:
        rows.add_row(*_cells(item))
    out.result(
        None, "", rows, Text("The last three are of kinds that the training data does not contain.", style="dim"), ""
    )


def _cells(item: Comparison) -> tuple[str | Text, ...]:
    base = Text(_short(item.base), style="dim")
    return (
        item.pair.text_input,
        item.pair.output,
        base,
        _mark(item.base_right),
        _short(item.tuned),
        _mark(item.tuned_right),
    )


def _scores(scored: Sequence[Comparison]) -> tuple[int, int]:
    return sum(item.base_right for item in scored), sum(item.tuned_right for item in scored)


def _mark(right: bool) -> Text:
    return Text("✓", style="green") if right else Text("✗", style="red")


def _short(answer: str) -> str:
    return shortened(" ".join(answer.split()), SHOWN_CHARS)


def _show_next(settings: Settings, job: Job, seconds: float, out: Output) -> None:
    kastor_command, name = program(), job.tuned_model
    running = running_server(settings)
    url = running or f"http://{settings.host}:{settings.port}"
    body = shlex.quote(json.dumps({"contents": [{"parts": [{"text": "forty one"}]}]}))
    key = ' -H "x-goog-api-key: $KASTOR_API_KEY"' if settings.api_keys else ""
    commands = [
        ("ask it something else", f'{kastor_command} generate {name} "forty one"'),
        ("show the job again", f"{kastor_command} jobs show {job.id}"),
        ("tune on your own data", f"{kastor_command} tune data.jsonl"),
    ]
    if running is None:
        without = "" if settings.api_keys or settings.no_auth else " --no-auth"
        commands.append(("keep a server running", f"{kastor_command} serve{without}"))
    commands.append(("and call it like Google's API", f"curl {url}/v1beta/{name}:generateContent{key} -d {body}"))
    out.say(f"Done in {duration(seconds)}. The tuned model is {name}.\n", style="bold")
    out.say("What to try next:", style="")
    for what, command in commands:
        out.err.print(Text.assemble((f"  # {what}\n", "dim"), f"  {command}"), soft_wrap=True)


def _document(
    base: BaseModel, job: Job, scored: Sequence[Comparison], unscored: Sequence[Comparison], seconds: float
) -> dict[str, object]:
    base_score, tuned_score = _scores(scored)
    return {
        "tunedModel": job.tuned_model,
        "baseModel": base.name,
        "job": dict(job.raw),
        "heldOut": [_answer_object(item) for item in scored],
        "otherLanguages": [_answer_object(item) for item in unscored],
        "baseScore": base_score,
        "tunedScore": tuned_score,
        "seconds": round(seconds, 1),
    }


def _answer_object(item: Comparison) -> dict[str, object]:
    return {
        "input": item.pair.text_input,
        "expected": item.pair.output,
        "base": item.base,
        "tuned": item.tuned,
        "baseRight": item.base_right,
        "tunedRight": item.tuned_right,
    }

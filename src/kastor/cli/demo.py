"""`kastor demo`: a base model learns to count on, through the HTTP API, and both are asked the same.

It works in the ordinary data folder, so that the commands it prints at the end find the tuned model; the server is
private to the demo, on a free port, so that it disturbs none that runs.

The held-out inputs are of the kinds of the training set (digits, negatives, thousands, words), chosen before any
model was asked, and none of them is in it.
"""

import json
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources

from rich.text import Text

from kastor.cli.client import Client
from kastor.cli.connection import Link, private_link, running_server
from kastor.cli.curve import loss_curve
from kastor.cli.follow import follow
from kastor.cli.models import fetched
from kastor.cli.output import Output, duration, program, table
from kastor.cli.progress import display_on
from kastor.cli.records import Job, NewTuning, SamplingOptions
from kastor.cli.tune import report
from kastor.domain.content import Example
from kastor.domain.errors import KastorError
from kastor.domain.job import State
from kastor.models.catalog import BaseModel, load_catalog
from kastor.settings import Settings, load_settings

BASE = "smollm2-135m-instruct"
DISPLAY_NAME = "numbers"
GREEDY = SamplingOptions(temperature=0.0, max_tokens=24)  # the longest right answer has 12 tokens
SHOWN_CHARS = 20
NUM_STEPS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """An input and the right answer."""

    text_input: str
    output: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both models say to a held-out input."""

    pair: Pair
    base: str
    tuned: str

    @property
    def base_right(self) -> bool:
        """To the letter, but for white space around."""
        return self.base.strip() == self.pair.output

    @property
    def tuned_right(self) -> bool:
        """To the letter, but for white space around."""
        return self.tuned.strip() == self.pair.output


def number_pairs(name: str) -> list[Pair]:
    """The bundled pairs: `numbers.jsonl` to learn from, `numbers-held-out.jsonl` to ask."""
    text = resources.files("kastor.cli").joinpath("assets", name).read_text("utf-8")
    return [Pair(**json.loads(line)) for line in text.splitlines()]


def run(out: Output) -> None:
    """The whole demo."""
    begun = time.monotonic()
    settings = load_settings()
    base = load_catalog(settings.catalog_file).base(BASE)
    out.say("Kastor demo: a small language model learns from 15 examples which number comes next.\n", style="bold")
    try:
        _step(out, 1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetched(base, settings.cache_dir, out)
        with private_link(settings, out, scheduler=True) as link:
            _step(out, 2, "server", f"{link.client.url}, for this demo only")
            job = _tuned(link, base, out)
            compared = _compared(link.client, base, job.tuned_model, out)
    except KeyboardInterrupt:
        out.say("\nInterrupted; the demo's processes are ended. Run it again at any time.", style="")
        raise
    seconds = time.monotonic() - begun
    if out.as_json:
        out.result(_document(base, job, compared, seconds))
        return
    _show_table(compared, out)
    _show_next(settings, job, seconds, out)


def _step(out: Output, number: int, what: str, detail: str) -> None:
    out.err.print(Text.assemble((f"{number}/{NUM_STEPS} ", "cyan"), (f"{what:<11}", "bold"), detail))


def _tuned(link: Link, base: BaseModel, out: Output) -> Job:
    """The job, succeeded. When it is interrupted, the job is cancelled: nobody wants to find it in the queue later."""
    pairs = number_pairs("numbers.jsonl")
    examples = [Example.pair(pair.text_input, pair.output) for pair in pairs]
    few = ", ".join(f"{pair.text_input} → {pair.output}" for pair in pairs[:4])
    job_id, name = link.client.create_tuning(NewTuning(base.id, examples, display_name=DISPLAY_NAME))
    try:
        asked = link.client.job(job_id).raw["hyperparameters"]
        settings = f"{asked['epochCount']} epochs, batch {asked['batchSize']}, rate {asked['learningRate']:g}"
        _step(out, 3, "tuning", f"POST {link.client.url}/v1beta/tunedModels")
        out.say(f"               {len(pairs)} pairs ({few} …)\n               the defaults: {settings}")
        with display_on(out.err) as display:
            job = follow(link.client, job_id, display, link.check)
    except KeyboardInterrupt:
        with suppress(KastorError):
            link.client.cancel(job_id)
        raise
    if job.state is not State.SUCCEEDED:
        report(job, name, out)
    full = link.client.job(job_id, full=True)
    if not out.as_json:
        out.result(None, "", loss_curve(full.steps, out.out.width), "")
    return full


def _compared(client: Client, base: BaseModel, tuned: str, out: Output) -> list[Comparison]:
    """Both models' answers, all asked for at once: the engine batches them."""
    pairs = number_pairs("numbers-held-out.jsonl")
    _step(out, 4, "answers", f"{len(pairs)} inputs that were not in the examples, asked of both models")
    inputs = [(model, pair.text_input) for model in (base.name, tuned) for pair in pairs]
    answers = _asked(client, inputs, out)
    return [
        Comparison(pair, base_answer, tuned_answer)
        for pair, base_answer, tuned_answer in zip(pairs, answers[: len(pairs)], answers[len(pairs) :], strict=True)
    ]


def _asked(client: Client, inputs: Sequence[tuple[str, str]], out: Output) -> list[str]:
    pool = ThreadPoolExecutor(len(inputs))
    try:
        futures = [pool.submit(client.generate, model, text, GREEDY) for model, text in inputs]
        with out.err.status("loading the model", spinner="line") as status:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                status.update(f"{number} of {len(inputs)} answers")
        return [future.result().text for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for answers


def _show_table(compared: Sequence[Comparison], out: Output) -> None:
    rows = table("input", "expected", "base model", "", "tuned model", "")
    for item in compared:
        rows.add_row(
            item.pair.text_input,
            item.pair.output,
            Text(_short(item.base), style="dim"),
            _mark(item.base_right),
            _short(item.tuned),
            _mark(item.tuned_right),
        )
    rows.add_section()
    base_score, tuned_score = _scores(compared)
    total = len(compared)
    rows.add_row("", "right", f"{base_score} of {total}", "", Text(f"{tuned_score} of {total}", style="bold"), "")
    out.result(None, "", rows, "")


def _scores(compared: Sequence[Comparison]) -> tuple[int, int]:
    return sum(item.base_right for item in compared), sum(item.tuned_right for item in compared)


def _mark(right: bool) -> Text:
    return Text("✓", style="green") if right else Text("✗", style="red")


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _show_next(settings: Settings, job: Job, seconds: float, out: Output) -> None:
    me, name = program(), job.tuned_model
    running = running_server(settings)
    url = running or f"http://{settings.host}:{settings.port}"
    body = shlex.quote(json.dumps({"contents": [{"parts": [{"text": "forty one"}]}]}))
    key = ' -H "x-goog-api-key: $KASTOR_API_KEY"' if settings.api_keys else ""
    commands = [
        ("ask it something else", f'{me} generate {name} "forty one"'),
        ("look at the job again", f"{me} jobs show {job.id}"),
        ("tune on your own data", f"{me} tune data.jsonl"),
    ]
    if running is None:
        without = "" if settings.api_keys or settings.no_auth else " --no-auth"
        commands.append(("keep a server running", f"{me} serve{without}"))
    commands.append(("and talk to it as to Google's", f"curl {url}/v1beta/{name}:generateContent{key} -d {body}"))
    out.say(f"Done in {duration(seconds)}. The tuned model is {name}.\n", style="bold")
    out.say("What to try next:", style="")
    for what, command in commands:
        out.err.print(Text.assemble((f"  # {what}\n", "dim"), f"  {command}"), soft_wrap=True)


def _document(base: BaseModel, job: Job, compared: Sequence[Comparison], seconds: float) -> dict[str, object]:
    base_score, tuned_score = _scores(compared)
    return {
        "tunedModel": job.tuned_model,
        "baseModel": base.name,
        "job": dict(job.raw),
        "heldOut": [
            {
                "input": item.pair.text_input,
                "expected": item.pair.output,
                "base": item.base,
                "tuned": item.tuned,
                "baseRight": item.base_right,
                "tunedRight": item.tuned_right,
            }
            for item in compared
        ],
        "baseScore": base_score,
        "tunedScore": tuned_score,
        "seconds": round(seconds, 1),
    }

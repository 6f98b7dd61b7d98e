"""`kastor demo video`: tunes a vision base to locate events in clips and to classify the acts of a film.

The clips are generated, so their annotations are exact; the film's annotation is coarse, and its windows are segments
of one file. Both models can only answer in the form of the training answers, so that the base is scored on content;
the score of the best constant answer is shown for reference.
"""

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from rich.console import RenderableType

from kastor.cli.client.connection import ServerConnection, private_connection
from kastor.cli.commands.models import fetch_base
from kastor.cli.console.output import Output
from kastor.cli.console.output_files import check_output_files
from kastor.cli.demos.clip_task import Clips
from kastor.cli.demos.film_task import Film
from kastor.cli.demos.media_demo import CLOSING, print_next_steps, recreate_folder, settings_for
from kastor.cli.demos.report_html import DemoReport
from kastor.cli.demos.runner import (
    SEEING_BASE,
    DemoResult,
    Step,
    compare_models,
    interruption_notice,
    start_job,
    write_dataset,
)
from kastor.models.catalog import load_catalog

QUICK_TRAINED, QUICK_HELD_OUT = 32, 12


class VideoTask(StrEnum):
    """A task of the demo."""

    CLIPS = "clips"
    FILM = "film"


NUM_STEPS = {VideoTask.CLIPS: 4, VideoTask.FILM: 3}  # the clips take two jobs


@dataclass(frozen=True, slots=True)
class VideoDemoOptions:
    """Options of the command line; `None` where none was given."""

    tasks: tuple[VideoTask, ...]
    num_trained: int | None
    num_held_out: int | None
    epochs: int | None
    seed: int
    report: Path

    def quick(self) -> "VideoDemoOptions":
        """The options with few examples, for a quick look."""
        few = replace(self, num_trained=self.num_trained or QUICK_TRAINED, epochs=self.epochs or 1)
        return replace(few, num_held_out=self.num_held_out or QUICK_HELD_OUT)


def run(options: VideoDemoOptions, out: Output) -> None:
    """Run the demo."""
    started = time.monotonic()
    settings, folder = settings_for("video")
    check_output_files({"--out": options.report}, {}, settings)
    base, step = (
        load_catalog(settings.catalog_file).base(SEEING_BASE),
        Step(out, 2 + sum(NUM_STEPS[task] for task in options.tasks)),
    )
    out.say("Kastor demo: a small model that has never seen an image learns to watch videos.\n", style="bold")
    results: list[tuple[Clips | Film, DemoResult]] = []
    with interruption_notice(out):
        step.say(1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetch_base(base, settings, out)
        with private_connection(settings, out, scheduler=True) as connection:
            step.say(2, "server", f"{connection.client.url}, for this demo only")
            for task in options.tasks:
                number = 3 + sum(NUM_STEPS[before] for before in options.tasks[: len(results)])
                results.append(_run_task(task, options, folder / task, connection, base.name, step, number))
    parts = tuple(data.part(outcome) for data, outcome in results)
    DemoReport("Watching, before and after", "kastor demo video", parts, CLOSING).write(options.report)
    _print_results(options, results, time.monotonic() - started, out)


def _run_task(
    task: VideoTask,
    options: VideoDemoOptions,
    folder: Path,
    connection: ServerConnection,
    base: str,
    step: Step,
    number: int,
) -> tuple[Clips | Film, DemoResult]:
    """Prepare the task's media and run its jobs, each on the model of the one before; steps count from `number`."""
    recreate_folder(folder)
    sizes = (options.num_trained, options.num_held_out, options.epochs)
    data = Clips.make(folder, *sizes, options.seed) if task is VideoTask.CLIPS else Film.make(folder, *sizes)
    step.say(number, task.value, data.about)
    model = base
    for demo_task in data.tasks:
        number += 1
        write_dataset(demo_task)
        step.say(number, "tuning", f"POST {connection.client.url}/kastor/v1/jobs, on {demo_task.name}")
        details = f"{len(demo_task.trained)} rows, {demo_task.settings}"
        step.out.say(f"               {details}" + (f", on {model}" * (model != base)))
        job = start_job(demo_task, connection, model, step.out)
        model = job.tuned_model
    step.say(number + 1, "answers", f"{len(demo_task.held_out)} held-out examples, for both models")
    return data, compare_models(demo_task, job, connection, base, step.out)


def _print_results(
    options: VideoDemoOptions, results: list[tuple[Clips | Film, DemoResult]], seconds: float, out: Output
) -> None:
    document: dict[str, object] = {"report": str(options.report), "seconds": round(seconds, 1)}
    tables: list[RenderableType] = []
    for task, (data, outcome) in zip(options.tasks, results, strict=True):
        scores = data.scored(outcome)
        document[task.value] = scores.document() | {"job": dict(outcome.job.raw)}
        tables += ["", scores.terminal_table()]
    out.result(document, *tables, "")
    if not out.as_json:
        data, outcome = results[0]
        demo_task = data.tasks[-1]
        print_next_steps(demo_task.name, outcome.job, options.report, demo_task, seconds, out)

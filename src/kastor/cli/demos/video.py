"""`kastor demo video`: a base model that sees learns to say what happens in clips and when, and to tell acts of a film.

The clips are made here, so their truth is exact; the film's annotation is coarse, and its windows are
segments of one file. Both models may answer in the form that was learnt only, so that the base, too, is judged by what
it says; what one answer, always the same, would reach is told beside.
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
from kastor.cli.demos.media_demo import CLOSING, recreate_folder, settings_for, tell_end
from kastor.cli.demos.report_html import DemoReport
from kastor.cli.demos.runner import (
    SEEING_BASE,
    DemoResult,
    Step,
    compare_models,
    interruption_told,
    start_job,
    write_dataset,
)
from kastor.models.catalog import load_catalog

QUICK_TRAINED, QUICK_HELD_OUT = 32, 12


class VideoTask(StrEnum):
    """What is learnt."""

    CLIPS = "clips"
    FILM = "film"


NUM_STEPS = {VideoTask.CLIPS: 4, VideoTask.FILM: 3}  # a job more for the clips


@dataclass(frozen=True, slots=True)
class VideoDemoOptions:
    """What was asked for on the command line; `None` where nothing was."""

    tasks: tuple[VideoTask, ...]
    num_trained: int | None
    num_held_out: int | None
    epochs: int | None
    seed: int
    report: Path

    def quick(self) -> "VideoDemoOptions":
        """Small numbers, for a look."""
        few = replace(self, num_trained=self.num_trained or QUICK_TRAINED, epochs=self.epochs or 1)
        return replace(few, num_held_out=self.num_held_out or QUICK_HELD_OUT)


def run(wanted: VideoDemoOptions, out: Output) -> None:
    """The whole demo."""
    began = time.monotonic()
    settings, folder = settings_for("video")
    check_output_files({"--out": wanted.report}, {}, settings)
    base, step = (
        load_catalog(settings.catalog_file).base(SEEING_BASE),
        Step(out, 2 + sum(NUM_STEPS[task] for task in wanted.tasks)),
    )
    out.say("Kastor demo: a small model that has never seen a picture learns to watch.\n", style="bold")
    done: list[tuple[Clips | Film, DemoResult]] = []
    with interruption_told(out):
        step.say(1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetch_base(base, settings, out)
        with private_connection(settings, out, scheduler=True) as link:
            step.say(2, "server", f"{link.client.url}, for this demo only")
            for task in wanted.tasks:
                number = 3 + sum(NUM_STEPS[before] for before in wanted.tasks[: len(done)])
                done.append(_done(task, wanted, folder / task, link, base.name, step, number))
    parts = tuple(made.part(outcome) for made, outcome in done)
    DemoReport("Watching, before and after", "kastor demo video", parts, CLOSING).write(wanted.report)
    _tell(wanted, done, time.monotonic() - began, out)


def _done(
    task: VideoTask, wanted: VideoDemoOptions, folder: Path, link: ServerConnection, base: str, step: Step, number: int
) -> tuple[Clips | Film, DemoResult]:
    """The task's media, and what came of its jobs, each on top of the one before; its steps begin with `number`."""
    recreate_folder(folder)
    sizes = (wanted.num_trained, wanted.num_held_out, wanted.epochs)
    made = Clips.make(folder, *sizes, wanted.seed) if task is VideoTask.CLIPS else Film.make(folder, *sizes)
    step.say(number, task.value, made.about)
    model = base
    for study in made.studies:
        number += 1
        write_dataset(study)
        step.say(number, "tuning", f"POST {link.client.url}/kastor/v1/jobs, on {study.name}")
        given = f"{len(study.trained)} rows, {study.settings}"
        step.out.say(f"               {given}" + (f", on {model}" * (model != base)))
        job = start_job(study, link, model, step.out)
        model = job.tuned_model
    step.say(number + 1, "answers", f"{len(study.held_out)} that were held out, asked of both models")
    return made, compare_models(study, job, link, base, step.out)


def _tell(wanted: VideoDemoOptions, done: list[tuple[Clips | Film, DemoResult]], seconds: float, out: Output) -> None:
    document: dict[str, object] = {"report": str(wanted.report), "seconds": round(seconds, 1)}
    tables: list[RenderableType] = []
    for task, (made, outcome) in zip(wanted.tasks, done, strict=True):
        found = made.judged(outcome)
        document[task.value] = found.document() | {"job": dict(outcome.job.raw)}
        tables += ["", found.shown()]
    out.result(document, *tables, "")
    if not out.as_json:
        made, outcome = done[0]
        study = made.studies[-1]
        tell_end(study.name, outcome.job, wanted.report, study, seconds, out)

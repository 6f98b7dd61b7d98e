"""Shared by the image and video demos: folders, settings, thumbnails, closing messages."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from kastor.cli.check.token_preview import jpeg
from kastor.cli.client.messages import Job
from kastor.cli.console.output import Output, duration, program
from kastor.cli.demos.report_html import Thumbnail
from kastor.cli.demos.runner import SEEING_BASE, DemoTask
from kastor.domain.job import State
from kastor.domain.media import FrameSampling
from kastor.domain.vision import clock_timestamp
from kastor.media.decode import request_frames
from kastor.media.probe import plan
from kastor.settings import Settings, load_settings

T = TypeVar("T")

CLOSING = (
    "kastor-nano-vl is a small language model (SmolLM2-135M-Instruct) with a small frozen vision tower "
    "(EfficientNet-lite0) and a projector that each job trains. It exercises the whole pipeline on a laptop and is no "
    "general assistant.",
    "Both models answered with greedy decoding, constrained to the form of the training answers, so that the untuned "
    "model is scored on what it would choose.",
)


def evenly_spaced(items: Sequence[T], number: int | None) -> list[T]:
    """At most `number` items, evenly spaced.

    >>> evenly_spaced(range(10), 3), evenly_spaced("ab", None)
    ([0, 3, 6], ['a', 'b'])
    """
    if number is None or number >= len(items):
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def settings_for(name: str) -> tuple[Settings, Path]:
    """The user's settings with the `open` profile, and a folder whose media examples may refer to."""
    settings = load_settings(profile="open")
    folder = settings.cache_dir / "demo" / name
    return settings.model_copy(update={"media_folders": [*settings.media_folders, folder]}), folder


def recreate_folder(folder: Path) -> Path:
    """Create the folder anew, without the files of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def thumbnails(
    path: Path,
    sampling: FrameSampling,
    size: tuple[int, int],
    marked: Callable[[float], bool] = lambda moment_s: False,
) -> tuple[Thumbnail, ...]:
    """Thumbnails of the sampled frames with their timestamps."""
    found = request_frames(path, plan(path, sampling).plan, size)
    return tuple(
        Thumbnail(jpeg(frame.pixels), clock_timestamp(frame.moment_s), marked(frame.moment_s)) for frame in found
    )


def facts(task: DemoTask, job: Job) -> tuple[tuple[str, str], ...]:
    """The job's base, data, settings and duration."""
    took = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else 0.0
    return (
        ("base", job.base_model),
        ("examples", f"{len(task.trained)} for training, {len(task.held_out)} held out"),
        ("settings", task.settings),
        ("took", duration(took)),
        ("tuned model", job.tuned_model),
    )


def print_next_steps(name: str, job: Job, report: Path, task: DemoTask, seconds: float, out: Output) -> None:
    """Print where the report is, and what to try next."""
    assert job.state is State.SUCCEEDED  # noqa: S101  # `follow_job` raises otherwise
    kastor_command = program()
    out.say(f"Done in {duration(seconds)}. The tuned model is {job.tuned_model}.", style="bold")
    out.say(f"HTML report: {report}\n", style="bold")
    commands: Sequence[tuple[str, str]] = (
        (
            "check the dataset, with its images",
            f"{kastor_command} check {task.dataset} --base {SEEING_BASE} --html check.html",
        ),
        ("tune on it with other settings", f"{kastor_command} tune {task.dataset} --base {SEEING_BASE} --epochs 2"),
        ("export the model", f"{kastor_command} export {job.tuned_model} --out {name}-adapter"),
    )
    out.say("What to try next:", style="")
    for what, command in commands:
        out.err.print(Text.assemble((f"  # {what}\n", "dim"), f"  {command}"), soft_wrap=True)

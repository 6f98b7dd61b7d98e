"""What the demos on media have in common besides the job: folders, settings, the end of what they say."""

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
    "kastor-nano-vl is a small language model (SmolLM2-135M-Instruct) with a small frozen tower (EfficientNet-lite0) "
    "and a projector that each job trains. It makes every path real on a laptop, and is no general assistant.",
    "Both models were asked greedily and kept to the form of the answers: the untuned one, too, says what it would "
    "choose.",
)


def evenly_spaced(held: Sequence[T], number: int | None) -> list[T]:
    """At most so many, evenly from all of them.

    >>> evenly_spaced(range(10), 3), evenly_spaced("ab", None)
    ([0, 3, 6], ['a', 'b'])
    """
    if number is None or number >= len(held):
        return list(held)
    return [held[index * len(held) // number] for index in range(number)]


def settings_for(name: str) -> tuple[Settings, Path]:
    """The user's settings with the profile that lets media through, and a folder that may be named."""
    settings = load_settings(profile="open")
    folder = settings.cache_dir / "demo" / name
    return settings.model_copy(update={"media_folders": [*settings.media_folders, folder]}), folder


def recreate_folder(folder: Path) -> Path:
    """The folder, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def thumbnails(
    path: Path,
    sampling: FrameSampling,
    size: tuple[int, int],
    marked: Callable[[float], bool] = lambda moment_s: False,
) -> tuple[Thumbnail, ...]:
    """Small pictures of the frames that are looked at, each with its moment."""
    found = request_frames(path, plan(path, sampling).plan, size)
    return tuple(
        Thumbnail(jpeg(frame.pixels), clock_timestamp(frame.moment_s), marked(frame.moment_s)) for frame in found
    )


def facts(study: DemoTask, job: Job) -> tuple[tuple[str, str], ...]:
    """What a job was given and took."""
    took = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else 0.0
    return (
        ("base", job.base_model),
        ("examples", f"{len(study.trained)} to learn from, {len(study.held_out)} held out"),
        ("settings", study.settings),
        ("took", duration(took)),
        ("tuned model", job.tuned_model),
    )


def tell_end(name: str, job: Job, report: Path, study: DemoTask, seconds: float, out: Output) -> None:
    """Where the report lies, and what may be tried next."""
    assert job.state is State.SUCCEEDED  # noqa: S101  # else we would not be here
    me = program()
    out.say(f"Done in {duration(seconds)}. The tuned model is {job.tuned_model}.", style="bold")
    out.say(f"The report with pictures: {report}\n", style="bold")
    commands: Sequence[tuple[str, str]] = (
        ("judge the dataset, with its pictures", f"{me} check {study.dataset} --base {SEEING_BASE} --html check.html"),
        ("tune on it again, your way", f"{me} tune {study.dataset} --base {SEEING_BASE} --epochs 2"),
        ("take the model with you", f"{me} export {job.tuned_model} --out {name}-adapter"),
    )
    out.say("What to try next:", style="")
    for what, command in commands:
        out.err.print(Text.assemble((f"  # {what}\n", "dim"), f"  {command}"), soft_wrap=True)

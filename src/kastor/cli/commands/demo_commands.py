"""`kastor demo …`: options and help; what the demos do is in `demos`."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kastor.cli.console import options
from kastor.cli.console.arguments import Commands

app = Commands(rich_markup_mode=None, invoke_without_command=True)

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the page with the pictures goes.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="How often each example is learnt from.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed draws other examples.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small numbers, for a look; learns little.")]


class ImageResolution(StrEnum):
    """How closely images are looked at."""

    LOW = "low"
    MEDIUM = "medium"


class VideoTask(StrEnum):
    """Which part of the video demo is run."""

    CLIPS = "clips"
    FILM = "film"
    BOTH = "both"


@app.callback()
def demo(
    context: typer.Context,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="Base model that learns the numbers; gemma-3-270m knows more languages.")
    ] = "smollm2-135m-instruct",
    accept_licence: options.AcceptLicence = False,
    as_json: options.Json = False,
) -> None:
    """See it work: numbers (without a name), image, video.

    Without a name: tune the embedded base on 15 pairs, compare. Fetches the base model the first time (about 100 MB),
    starts a server of its own on a free port, tunes through the HTTP API, draws the loss and asks both models 64 inputs
    that they have not seen.

    \b
    Examples:
      kastor demo
      kastor demo --base gemma-3-270m
      kastor demo image
      kastor demo video
    """
    if context.invoked_subcommand is not None:
        return
    from kastor.cli.console.output import Output
    from kastor.cli.demos import numbers

    numbers.run(Output.of(as_json), base, accept_licence=accept_licence)


@app.command()
def image(
    resolution: Annotated[
        ImageResolution, typer.Option(help="low: 64 tokens an image; medium: 256, slower and better.")
    ] = ImageResolution.LOW,
    train: Annotated[int, typer.Option(min=6, help="Images to learn from, in equal parts of the three classes.")] = 300,
    held_out: Annotated[int, typer.Option(min=3, help="Images to be asked about.")] = 150,
    epochs: Epochs = None,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Inspect cloth: sound, a fault at one spot, a fault all over.

    Tunes kastor-nano-vl on images of cloth (conformal-clip-data, MIT, 42 MB, fetched once), asks it and the untuned
    base about others, and trains a linear classifier on the same features to hold both against. Writes a page with the
    images and the answers.

    \b
    Examples:
      kastor demo image --quick
      kastor demo image --resolution medium --out cloth.html
    """
    from kastor.cli.console.output import Output
    from kastor.cli.demos import image as doing
    from kastor.domain.content import Resolution

    wanted = doing.ImageDemoOptions(
        Resolution(resolution.upper()), train, held_out, epochs or doing.EPOCHS, seed, out or Path("kastor-image.html")
    )
    doing.run(wanted.quick() if quick else wanted, Output.of(as_json))


@app.command()
def video(
    task: Annotated[
        VideoTask, typer.Option(help="clips: what appears, and when; film: which act of a film.")
    ] = VideoTask.BOTH,
    train: Annotated[int | None, typer.Option(min=8, help="Clips to learn from.")] = None,
    held_out: Annotated[int | None, typer.Option(min=4, help="Clips to be asked about.")] = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Say what happens in clips, and when; tell the acts of a film apart.

    Makes clips in which a shape comes and goes, with the exact truth; and takes segments of Big Buck Bunny (CC BY 3.0,
    Blender Foundation), which comes with Kastor. Tunes kastor-nano-vl on each, and asks it and the untuned base about
    what was held out. Writes a page with the frames and the answers.

    \b
    Examples:
      kastor demo video --quick
      kastor demo video --task film --out film.html
    """
    from kastor.cli.console.output import Output
    from kastor.cli.demos import video as doing

    tasks = tuple(one for one in doing.VideoTask if task.value in (one.value, VideoTask.BOTH.value))
    wanted = doing.VideoDemoOptions(tasks, train, held_out, epochs, seed, out or Path("kastor-video.html"))
    doing.run(wanted.quick() if quick else wanted, Output.of(as_json))

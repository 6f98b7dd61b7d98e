"""`kastor demo …`: options and help; `demos` implements the demos."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kastor.cli.console import options
from kastor.cli.console.arguments import Commands

app = Commands(rich_markup_mode=None, invoke_without_command=True)

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File for the HTML report.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the dataset.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed for the choice of examples.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few examples, for a quick look; learns little.")]


class ImageResolution(StrEnum):
    """Resolution at which the model sees images."""

    LOW = "low"
    MEDIUM = "medium"


class VideoTask(StrEnum):
    """Part of the video demo to run."""

    CLIPS = "clips"
    FILM = "film"
    BOTH = "both"


@app.callback()
def demo(
    context: typer.Context,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="Base model for the number demo; gemma-3-270m knows more languages.")
    ] = "smollm2-135m-instruct",
    accept_licence: options.AcceptLicence = False,
    as_json: options.Json = False,
) -> None:
    """See Kastor at work: numbers (without a subcommand), image, video.

    Without a subcommand, tunes the embedded base model on 15 number pairs: downloads the base the first time (about
    100 MB), starts a private server on a free port, tunes through the HTTP API, draws the loss curve and compares both
    models on 64 inputs that are not in the training data.

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
        ImageResolution, typer.Option(help="low: 64 tokens per image; medium: 256, slower and better.")
    ] = ImageResolution.LOW,
    train: Annotated[int, typer.Option(min=6, help="Training images, divided equally among the three classes.")] = 300,
    held_out: Annotated[int, typer.Option(min=3, help="Held-out images for the comparison.")] = 150,
    epochs: Epochs = None,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Classify images of cloth: sound, with a local fault, or with a global one.

    Tunes kastor-nano-vl on images of cloth (conformal-clip-data, MIT, 42 MB, downloaded once), compares it with the
    untuned base on held-out images, and trains a linear probe on the same features as a reference. Writes an HTML
    report with the images and answers.

    \b
    Examples:
      kastor demo image --quick
      kastor demo image --resolution medium --out cloth.html
    """
    from kastor.cli.console.output import Output
    from kastor.cli.demos import image as image_demo
    from kastor.domain.content import Resolution

    demo_options = image_demo.ImageDemoOptions(
        Resolution(resolution.upper()),
        train,
        held_out,
        epochs or image_demo.EPOCHS,
        seed,
        out or Path("kastor-image.html"),
    )
    image_demo.run(demo_options.quick() if quick else demo_options, Output.of(as_json))


@app.command()
def video(
    task: Annotated[
        VideoTask, typer.Option(help="clips: what appears, and when; film: the act of a film.")
    ] = VideoTask.BOTH,
    train: Annotated[int | None, typer.Option(min=8, help="Number of training clips.")] = None,
    held_out: Annotated[int | None, typer.Option(min=4, help="Number of held-out clips.")] = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Locate events in clips, and classify the acts of a film.

    Generates clips in which a shape appears and disappears, with exact annotations, and uses segments of Big Buck Bunny
    (CC BY 3.0, Blender Foundation), which comes with Kastor. Tunes kastor-nano-vl on each, and compares it with the
    untuned base on held-out data. Writes an HTML report with the frames and answers.

    \b
    Examples:
      kastor demo video --quick
      kastor demo video --task film --out film.html
    """
    from kastor.cli.console.output import Output
    from kastor.cli.demos import video as video_demo

    tasks = tuple(one for one in video_demo.VideoTask if task.value in (one.value, VideoTask.BOTH.value))
    demo_options = video_demo.VideoDemoOptions(tasks, train, held_out, epochs, seed, out or Path("kastor-video.html"))
    video_demo.run(demo_options.quick() if quick else demo_options, Output.of(as_json))

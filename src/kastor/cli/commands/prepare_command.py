"""`kastor prepare`: options and help; `prepare` implements the command."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from pathlib import Path
from typing import Annotated

import typer

from kastor.cli.console import options


def prepare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL, JSON or CSV, as for check.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the new dataset and its media.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    strategy: Annotated[
        str, typer.Option(metavar="auto|drop|shrink|cut", help="What to do with files over the size limit.")
    ] = "auto",
    drop_oversized: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="With auto: leave them out if at most this share of the rows use them.",
        ),
    ] = 5.0,
    max_seconds: Annotated[
        float | None, typer.Option(min=1, help="Maximum length of a video part.  [default: the profile's limit]")
    ] = None,
    times_from: Annotated[
        str,
        typer.Option(metavar="file|segment", help="Origin of timestamps in texts: start of the file, or startOffset."),
    ] = "file",
    untimed: Annotated[
        str,
        typer.Option(metavar="leave-out|copy", help="What to do with rows to be cut whose texts hold no timestamps."),
    ] = "leave-out",
    patterns: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Timestamp formats of your own, TOML or JSON.")
    ] = None,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="Limits that the dataset must fit.")
    ] = "vertex-gemini-2.5",
    raised: options.Raised = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also fit the token limit of this base model.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Media converted in parallel.")] = 2,
    leave_media: Annotated[
        bool, typer.Option("--leave-media", help="Do not copy local media that need no change.")
    ] = False,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    as_json: options.Json = False,
) -> None:
    """Rewrite a dataset with images and videos so that it fits the limits.

    Oversized files are left out if few rows use them, else scaled down, else cut; long videos are split into parts.
    Timestamps in texts are moved to the timeline of their part, and changes.html shows each text before and after.
    The originals are never changed. A run that was stopped continues where it ended.

    \b
    Examples:
      kastor prepare data.jsonl --out prepared --dry-run
      kastor prepare data.jsonl --out prepared --max-seconds 120
    """
    from kastor.cli.commands import prepare as command
    from kastor.cli.console.output import Output

    preparation = command.options_of(
        {"strategy": strategy, "times_from": times_from, "untimed": untimed},
        drop_share=drop_oversized / 100,
        max_s=max_seconds,
        patterns=patterns,
        num_jobs=jobs,
        leave_media=leave_media,
    )
    prepare_options = command.PrepareOptions(out_dir, profile, base, dry_run, tuple(raised or ()), patterns)
    command.run(data, (input_key, output_key), prepare_options, preparation, Output.of(as_json))

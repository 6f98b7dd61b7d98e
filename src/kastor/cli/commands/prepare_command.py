"""The command `kastor prepare` with its options and help; what it does is in `cli.prepare`."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from pathlib import Path
from typing import Annotated

import typer

from kastor.cli.console import options


def prepare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL in either dialect, as for check.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the new dataset and its media go.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    strategy: Annotated[
        str, typer.Option(metavar="auto|drop|shrink|cut", help="What may be done with files over the size limit.")
    ] = "auto",
    drop_oversized: Annotated[
        float,
        typer.Option(metavar="PERCENT", min=0, max=100, help="With auto: leave them out if so few rows use them."),
    ] = 5.0,
    max_seconds: Annotated[
        float | None, typer.Option(min=1, help="Longest part of a video.  [default: what the profile allows]")
    ] = None,
    times_from: Annotated[
        str, typer.Option(metavar="file|segment", help="Where moments in texts count from: the file, or startOffset.")
    ] = "file",
    untimed: Annotated[
        str, typer.Option(metavar="leave-out|copy", help="Rows to be cut whose texts name no moments.")
    ] = "leave-out",
    patterns: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own forms of moments, TOML or JSON.")
    ] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="Whose limits hold.")] = "vertex-gemini-2.5",
    raised: options.Raised = None,
    base: Annotated[str | None, typer.Option(metavar="NAME", help="Keep within this base model's tokens, too.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Media made at a time.")] = 2,
    leave_media: Annotated[
        bool, typer.Option("--leave-media", help="Local media that need no change stay where they are.")
    ] = False,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    as_json: options.Json = False,
) -> None:
    """Bring a dataset with images and videos within the limits.

    Oversized files are left out if they are few, else scaled down, else cut; long videos become parts. Every moment
    that a text names moves to its part's timeline, and changes.html shows each text before and after. The originals
    are never touched. A run that was stopped goes on where it was.

    \b
    Examples:
      kastor prepare data.jsonl --out prepared --dry-run
      kastor prepare data.jsonl --out prepared --max-seconds 120
    """
    from kastor.cli.commands import prepare as doing
    from kastor.cli.console.output import Output

    asked = doing.options_of(
        {"strategy": strategy, "times_from": times_from, "untimed": untimed},
        drop_share=drop_oversized / 100,
        max_s=max_seconds,
        patterns=patterns,
        num_jobs=jobs,
        leave_media=leave_media,
    )
    wanted = doing.PrepareOptions(out_dir, profile, base, dry_run, tuple(raised or ()), patterns)
    doing.run(data, (input_key, output_key), wanted, asked, Output.of(as_json))

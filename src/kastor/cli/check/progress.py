"""Progress of `kastor check` on stderr, with the first faults as they are found."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kastor.cli.console.output import Output
from kastor.dataset.media.inspection_result import InspectionResult
from kastor.dataset.validation.validator import InspectMedia, RowOutcome, RowVerdict
from kastor.domain.content import Media
from kastor.domain.counts import counted

MAX_FAULTS = 20  # shown as they are found; all are counted
LINE_EVERY_S = 5.0
SHOW_EVERY_S = 0.1


class CheckProgress:
    """Shows the validation of one or two files: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, out: Output, files: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._sizes = {file: file.stat().st_size if file.is_file() else 0 for file in files}
        self._read = dict.fromkeys(self._sizes, 0)
        self._num_rows = self._num_media = self._num_faults = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[counts]}"),
            TimeRemainingColumn(),
            console=out.err,
            transient=True,
            disable=not out.err.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("checking", total=max(1, sum(self._sizes.values())), counts="")
        self._shown_at = clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def with_media_count(self, inspect: InspectMedia) -> InspectMedia:
        """`inspect`, which also counts the media for this display."""

        def inspect_and_count(media: Iterable[Media]) -> dict[Media, InspectionResult]:
            found = inspect(media)
            self._num_media += len(found)
            return found

        return inspect_and_count

    def on_bytes(self, path: Path, num_bytes: int) -> None:
        """Record how many bytes of a file were read."""
        self._read[path] = num_bytes
        self._show()

    def on_verdict(self, path: Path, verdict: RowVerdict) -> None:
        """Count a validated row, and show its faults."""
        self._num_rows += 1
        if verdict.outcome is not RowOutcome.ACCEPTED:
            self._show_faults(path, verdict)
        if not self._num_rows % 64:
            self._show()

    def _show_faults(self, path: Path, verdict: RowVerdict) -> None:
        self._num_faults += 1
        if self._num_faults > MAX_FAULTS:
            if self._num_faults == MAX_FAULTS + 1:
                self._out.say("Further faults are counted; the report lists them.")
            return
        style = "yellow" if verdict.outcome is RowOutcome.DROPPED else "red"
        where = f"{path.name}, " if len(self._sizes) > 1 else ""
        for issue in verdict.issues[:3]:
            self._out.say(f"{where}{issue}", style=style)

    def _show(self) -> None:
        now = self._clock()
        if self._bar.disable:
            if now - self._shown_at >= LINE_EVERY_S:
                self._shown_at = now
                share = sum(self._read.values()) / max(1, sum(self._sizes.values()))
                self._out.say(f"{share:.0%} read, {self._counts()}")
        elif now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            self._bar.update(self._task, completed=sum(self._read.values()), counts=self._counts())

    def _counts(self) -> str:
        media = f", {self._num_media:,} media inspected" if self._num_media else ""
        return f"{counted(self._num_rows, 'row')}{media}"

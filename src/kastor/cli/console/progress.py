"""A job's progress on stderr: a live bar in a terminal, plain lines at sensible intervals elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar

from kastor.cli.client.messages import Job
from kastor.cli.console.output import duration
from kastor.domain.job import State

LINE_EVERY_S = 5.0  # minimum interval between plain lines
MAX_SILENCE_S = 60.0
LINES_PER_JOB = 20  # roughly, for long jobs


class Display(Protocol):
    """Shows the progress of a job."""

    def show(self, job: Job, note: str) -> None:
        """Show the job's latest state; `note` says what it waits for, or is empty."""

    def say(self, text: str) -> None:
        """Print a permanent line."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def create_display(err: Console, clock: Callable[[], float] = time.monotonic) -> Display:
    """A bar if stderr is a terminal, else plain lines."""
    return BarDisplay(err) if err.is_terminal else LineDisplay(err, clock)


def progress_metrics(job: Job) -> str:
    """Epoch, loss, speed and remaining time, as far as known."""
    parts = []
    if job.last is not None:
        epochs = f"/{job.num_epochs}" if job.num_epochs else ""
        parts += [f"epoch {job.last.epoch}{epochs}", f"loss {job.last.mean_loss:.3f}"]
        if job.last.tokens_per_second:
            parts.append(f"{job.last.tokens_per_second:.0f} tokens/s")
    if job.eta_s is not None and not job.state.terminal:
        parts.append(f"{duration(job.eta_s)} left")
    return "  ".join(parts)


def waiting_text(job: Job, note: str) -> str:
    """The status of a job that is not taking steps."""
    return f"{job.state.lower()}: {note}" if note else job.state.lower()


class _StepBar(BarColumn):
    """A bar that is empty while there are no steps to count."""

    def render(self, task: Task) -> ProgressBar:
        """The bar of `task`."""
        return super().render(task) if task.total is not None else ProgressBar(width=0)


class BarDisplay:
    """A progress bar for terminals."""

    def __init__(self, err: Console) -> None:
        self._progress = Progress(
            SpinnerColumn("line", style="cyan", finished_text=" "),
            TextColumn("{task.description}"),
            _StepBar(bar_width=22, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[measures]}"),
            console=err,
            refresh_per_second=8,
        )
        self._waiting = self._progress.add_task("queued", total=None, measures="")
        self._steps = self._progress.add_task("", total=1, measures="", visible=False)

    def show(self, job: Job, note: str) -> None:
        """Redraw the bar with the job's latest numbers."""
        stepping = job.completed_steps > 0 and (job.state is State.RUNNING or job.state.terminal)
        self._progress.update(self._waiting, description=waiting_text(job, note), visible=not stepping)
        width = len(str(job.total_steps))
        self._progress.update(
            self._steps,
            description=f"step {job.completed_steps:>{width}}/{job.total_steps}",
            total=max(job.total_steps, 1),
            completed=job.completed_steps,
            measures=progress_metrics(job),
            visible=stepping,
        )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, style="dim")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()


class LineDisplay:
    """Lines for logs and pipes: each state transition, about twenty steps, and at least one line a minute."""

    def __init__(self, err: Console, clock: Callable[[], float]) -> None:
        self._err = err
        self._clock = clock
        self._last_status = ""
        self._last_line_at = clock()
        self._last_step = 0

    def show(self, job: Job, note: str) -> None:
        """Print a line if one is due."""
        if not job.state.terminal and (job.state is not State.RUNNING or not job.completed_steps):
            waiting = waiting_text(job, note)
            if waiting != self._last_status:
                self.say(waiting)
                self._last_status = waiting
            return
        if self._due(job):
            self._last_line_at, self._last_step = self._clock(), job.completed_steps
            self.say(f"step {job.completed_steps}/{job.total_steps}  {progress_metrics(job)}")

    def _due(self, job: Job) -> bool:
        silent_s, steps = self._clock() - self._last_line_at, job.completed_steps - self._last_step
        if steps <= 0:
            return False
        if self._last_step == 0 or job.state.terminal:
            return True
        enough = steps * LINES_PER_JOB >= job.total_steps
        return (enough and silent_s >= LINE_EVERY_S) or silent_s >= MAX_SILENCE_S

    def say(self, text: str) -> None:
        """Print a line."""
        self._err.print(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

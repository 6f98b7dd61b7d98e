"""The film task of `kastor demo video`: windows of a film as a dataset, and their part of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kastor.cli.demos import film_data
from kastor.cli.demos.classification import BASE, GUESS, TUNED, ClassificationResult
from kastor.cli.demos.film_data import Window
from kastor.cli.demos.media_demo import evenly_spaced, facts, thumbnails
from kastor.cli.demos.report_html import PageItem, ReportPart
from kastor.cli.demos.runner import AnswerSchema, DemoExample, DemoResult, DemoTask, local_file
from kastor.domain.media import FrameSampling
from kastor.domain.vision import clock_timestamp

FPS = 0.5  # two frames per window
EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 4, 1e-3
QUESTION = "Which act of the film is this: morning, teasing, forest, flight or credits?"
MAX_SHOWN = 18
THUMB_SIZE = (240, 135)
LEAD = (
    "Windows of four seconds from Big Buck Bunny, two frames each. Blocks of twelve seconds were held out: the same "
    "film and characters at other times. The annotation is coarse, so five seconds at both ends of each act are left "
    "out."
)


@dataclass(frozen=True, slots=True)
class Film:
    """The film file and its held-out windows."""

    path: Path
    held_out: Sequence[Window]
    tasks: tuple[DemoTask, ...]

    @classmethod
    def make(cls, folder: Path, num_trained: int | None, num_held_out: int | None, epochs: int | None) -> "Film":
        """Unpack the film into `folder`; `None` takes the demo's defaults, and numbers are capped at what there is."""
        path = film_data.unpack_film(folder)
        all_learnt, all_held_out = film_data.film_windows()
        learnt, held_out = evenly_spaced(all_learnt, num_trained), evenly_spaced(all_held_out, num_held_out)
        acts = tuple(dict.fromkeys(window.act for window in all_learnt))
        task = DemoTask(
            "acts",
            folder,
            [_row(path, window) for window in learnt],
            [_row(path, window) for window in held_out],
            AnswerSchema(max_tokens=8, choices=acts),
            epochs or EPOCHS,
            BATCH_SIZE,
            LEARNING_RATE,
        )
        return cls(path, held_out, (task,))

    @property
    def about(self) -> str:
        """A short description."""
        number = len(self.tasks[-1].trained) + len(self.held_out)
        return f"Big Buck Bunny (CC BY 3.0), {number} windows of {film_data.WINDOW_S} s"

    def scored(self, outcome: DemoResult) -> ClassificationResult:
        """Score the answers."""
        return ClassificationResult(
            [window.act for window in self.held_out], {BASE: outcome.base, TUNED: outcome.tuned}
        )

    def part(self, outcome: DemoResult) -> ReportPart:
        """The film's part of the report."""
        result = self.scored(outcome)
        chosen = evenly_spaced(list(range(len(self.held_out))), MAX_SHOWN)
        shown = [
            PageItem(_name(window), thumbnails(self.path, _sampling(window), THUMB_SIZE), result.answers_to(index))
            for index, window in ((index, self.held_out[index]) for index in chosen)
        ]
        return ReportPart(
            "Acts of a film",
            QUESTION,
            LEAD,
            (result.metric({GUESS: "always the same label", BASE: "untuned: it guesses"}),),
            result.by_class(),
            outcome.job.steps,
            facts(self.tasks[-1], outcome.job),
            tuple(shown),
            film_data.credit(),
        )


def _row(path: Path, window: Window) -> DemoExample:
    seen = {"startOffset": f"{window.start_s}s", "endOffset": f"{window.end_s}s", "fps": FPS}
    return DemoExample(({**local_file(path, "video/mp4"), "videoMetadata": seen},), QUESTION, window.act)


def _sampling(window: Window) -> FrameSampling:
    return FrameSampling(FPS, window.start_s, window.end_s)


def _name(window: Window) -> str:
    return f"{clock_timestamp(window.start_s)} to {clock_timestamp(window.end_s)}"

"""The film of `kastor demo video`: its windows as rows of a dataset, and shown with what was said to them."""

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

FPS = 0.5  # two frames of a window
EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 4, 1e-3
QUESTION = "Which act of the film is this: morning, teasing, forest, flight or credits?"
MAX_SHOWN = 18
THUMB_SIZE = (240, 135)
LEAD = (
    "Windows of four seconds from Big Buck Bunny, of which two frames are seen. Blocks of twelve seconds were held "
    "out: the same film and its figures, other moments. The annotation is coarse; five seconds at both ends of each "
    "act are left out."
)


@dataclass(frozen=True, slots=True)
class Film:
    """The film as a file, and its windows."""

    path: Path
    held_out: Sequence[Window]
    studies: tuple[DemoTask, ...]

    @classmethod
    def make(cls, folder: Path, num_trained: int | None, num_held_out: int | None, epochs: int | None) -> "Film":
        """Into `folder`; what is `None` as the demo has it, and never more windows than there are."""
        path = film_data.unpack_film(folder)
        all_learnt, all_held_out = film_data.film_windows()
        learnt, held_out = evenly_spaced(all_learnt, num_trained), evenly_spaced(all_held_out, num_held_out)
        acts = tuple(dict.fromkeys(window.act for window in all_learnt))
        study = DemoTask(
            "acts",
            folder,
            [_row(path, window) for window in learnt],
            [_row(path, window) for window in held_out],
            AnswerSchema(max_tokens=8, choices=acts),
            epochs or EPOCHS,
            BATCH_SIZE,
            LEARNING_RATE,
        )
        return cls(path, held_out, (study,))

    @property
    def about(self) -> str:
        """In a few words."""
        number = len(self.studies[-1].trained) + len(self.held_out)
        return f"Big Buck Bunny (CC BY 3.0), {number} windows of {film_data.WINDOW_S} s"

    def judged(self, outcome: DemoResult) -> ClassificationResult:
        """What was said, scored."""
        return ClassificationResult(
            [window.act for window in self.held_out], {BASE: outcome.base, TUNED: outcome.tuned}
        )

    def part(self, outcome: DemoResult) -> ReportPart:
        """For the page."""
        found = self.judged(outcome)
        chosen = evenly_spaced(list(range(len(self.held_out))), MAX_SHOWN)
        shown = [
            PageItem(_name(window), thumbnails(self.path, _sampling(window), THUMB_SIZE), found.said(index))
            for index, window in ((index, self.held_out[index]) for index in chosen)
        ]
        return ReportPart(
            "Acts of a film",
            QUESTION,
            LEAD,
            (found.metric({GUESS: "whichever it is", BASE: "untuned: it guesses"}),),
            found.by_class(),
            outcome.job.steps,
            facts(self.studies[-1], outcome.job),
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

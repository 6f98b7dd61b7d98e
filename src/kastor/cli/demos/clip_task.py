"""The clips of `kastor demo video`: made, put into datasets, and shown with what was said to them.

Two jobs, the second on top of the first's model: on segments of one to three seconds, which cost a part of a whole clip
and teach what a shape is and what its moments look like; then on whole clips, which teach to look for it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kastor.cli.demos import clip_data, localisation
from kastor.cli.demos.clip_data import Clip
from kastor.cli.demos.localisation import LocalisationResult
from kastor.cli.demos.media_demo import facts, thumbnails
from kastor.cli.demos.report_html import PageItem, ReportPart
from kastor.cli.demos.runner import DemoExample, DemoResult, DemoTask
from kastor.domain.media import FrameSampling

SECONDS = 6
NUM_TRAINED, NUM_HELD_OUT = 120, 30
EPOCHS, BATCH_SIZE, LEARNING_RATE = 1, 4, 1e-3
SEGMENTS_S = ((1, 2), (1, 3))  # lengths of those of a clip, by turns
SEGMENTS_BATCH_SIZE = 8
MAX_SHOWN = 16
THUMB_SIZE = (120, 120)
LEAD = (
    "A shape comes and goes over a moving background. Before each frame stands its moment as text, so that the model "
    "can learn to point. The clips were made for this; their truth is exact to the frame."
)


@dataclass(frozen=True, slots=True)
class Clips:
    """So many clips, those to learn from first."""

    made: Sequence[Clip]
    paths: Sequence[Path]
    num_trained: int
    studies: tuple[DemoTask, ...]

    @classmethod
    def make(
        cls, folder: Path, num_trained: int | None, num_held_out: int | None, epochs: int | None, seed: int
    ) -> "Clips":
        """Into `folder`; what is `None` as the demo has it."""
        num_trained, num_held_out = num_trained or NUM_TRAINED, num_held_out or NUM_HELD_OUT
        made = clip_data.generate_clips(num_trained + num_held_out, SECONDS, seed)
        paths = [folder / f"{index:04d}.mp4" for index in range(len(made))]
        for path, clip in zip(paths, made, strict=True):
            clip_data.film(path, clip)
        rows = [localisation.row(path, clip) for path, clip in zip(paths, made, strict=True)]
        form, times = localisation.form(SECONDS), epochs or EPOCHS
        whole = DemoTask(
            "clips", folder, rows[:num_trained], rows[num_trained:], form, times, BATCH_SIZE, LEARNING_RATE
        )
        segments = _segments(paths[:num_trained], made[:num_trained], seed)
        begun = replace(
            whole,
            name="segments",
            folder=folder / "segments",
            trained=segments,
            held_out=(),
            batch_size=SEGMENTS_BATCH_SIZE,
        )
        return cls(made, paths, num_trained, (begun, whole))

    @property
    def about(self) -> str:
        """In a few words."""
        return f"{len(self.made)} made, {SECONDS} s each, with what appears and when"

    def judged(self, outcome: DemoResult) -> LocalisationResult:
        """What was said, scored."""
        learnt, held_out = self.made[: self.num_trained], self.made[self.num_trained :]
        return LocalisationResult.of(learnt, held_out, outcome.base, outcome.tuned)

    def part(self, outcome: DemoResult) -> ReportPart:
        """For the page."""
        found = self.judged(outcome)
        shown = [
            PageItem(path.name, thumbnails(path, FrameSampling(), THUMB_SIZE, clip.shown_at), found.said(index))
            for index, (path, clip) in enumerate(
                zip(self.paths[self.num_trained :][:MAX_SHOWN], self.made[self.num_trained :], strict=False)
            )
        ]
        return ReportPart(
            "What appears, and when",
            localisation.QUESTION,
            LEAD,
            found.metrics(),
            found.by_class(),
            outcome.job.steps,
            facts(self.studies[-1], outcome.job),
            tuple(shown),
        )


def _segments(paths: Sequence[Path], made: Sequence[Clip], seed: int) -> list[DemoExample]:
    """Rows on short segments of the clips."""
    source = random.Random(seed)  # noqa: S311  # which segments are looked at is no secret
    rows = []
    for index, (path, clip) in enumerate(zip(paths, made, strict=True)):
        for length_s in SEGMENTS_S[index % len(SEGMENTS_S)]:
            begin_s, end_s = source.choice(localisation.windows(clip, length_s))
            rows.append(localisation.row_of_window(path, clip, begin_s, end_s))
    return rows

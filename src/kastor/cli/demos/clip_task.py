"""The clips task of `kastor demo video`: generated clips, their datasets and their part of the report.

It takes two jobs, the second on the model of the first. Segments of one to three seconds are cheaper than whole clips
and teach the shapes and the timestamps; whole clips then teach the search for the event.
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
SEGMENTS_S = ((1, 2), (1, 3))  # segment lengths of a clip, alternating from clip to clip
SEGMENTS_BATCH_SIZE = 8
MAX_SHOWN = 16
THUMB_SIZE = (120, 120)
LEAD = (
    "A shape appears and disappears over a moving background. Each frame is preceded by its timestamp as text, so that "
    "the model can learn to name it. The clips are generated, and their annotations are exact to the frame."
)


@dataclass(frozen=True, slots=True)
class Clips:
    """The generated clips, training clips first."""

    clips: Sequence[Clip]
    paths: Sequence[Path]
    num_trained: int
    tasks: tuple[DemoTask, ...]

    @classmethod
    def make(
        cls, folder: Path, num_trained: int | None, num_held_out: int | None, epochs: int | None, seed: int
    ) -> "Clips":
        """Generate the clips into `folder`; `None` takes the demo's defaults."""
        num_trained, num_held_out = num_trained or NUM_TRAINED, num_held_out or NUM_HELD_OUT
        clips = clip_data.generate_clips(num_trained + num_held_out, SECONDS, seed)
        paths = [folder / f"{index:04d}.mp4" for index in range(len(clips))]
        for path, clip in zip(paths, clips, strict=True):
            clip_data.encode_clip(path, clip)
        rows = [localisation.row(path, clip) for path, clip in zip(paths, clips, strict=True)]
        form, times = localisation.form(SECONDS), epochs or EPOCHS
        whole = DemoTask(
            "clips", folder, rows[:num_trained], rows[num_trained:], form, times, BATCH_SIZE, LEARNING_RATE
        )
        segments = _segments(paths[:num_trained], clips[:num_trained], seed)
        on_segments = replace(
            whole,
            name="segments",
            folder=folder / "segments",
            trained=segments,
            held_out=(),
            batch_size=SEGMENTS_BATCH_SIZE,
        )
        return cls(clips, paths, num_trained, (on_segments, whole))

    @property
    def about(self) -> str:
        """A short description."""
        return f"{len(self.clips)} generated, {SECONDS} s each: what appears, and when"

    def scored(self, outcome: DemoResult) -> LocalisationResult:
        """Score the answers."""
        learnt, held_out = self.clips[: self.num_trained], self.clips[self.num_trained :]
        return LocalisationResult.of(learnt, held_out, outcome.base, outcome.tuned)

    def part(self, outcome: DemoResult) -> ReportPart:
        """The clips' part of the report."""
        result = self.scored(outcome)
        shown = [
            PageItem(path.name, thumbnails(path, FrameSampling(), THUMB_SIZE, clip.shown_at), result.answers_to(index))
            for index, (path, clip) in enumerate(
                zip(self.paths[self.num_trained :][:MAX_SHOWN], self.clips[self.num_trained :], strict=False)
            )
        ]
        return ReportPart(
            "What appears, and when",
            localisation.QUESTION,
            LEAD,
            result.metrics(),
            result.by_class(),
            outcome.job.steps,
            facts(self.tasks[-1], outcome.job),
            tuple(shown),
        )


def _segments(paths: Sequence[Path], clips: Sequence[Clip], seed: int) -> list[DemoExample]:
    """Examples on short segments of the clips."""
    source = random.Random(seed)  # noqa: S311  # sampling of segments needs no secure randomness
    rows = []
    for index, (path, clip) in enumerate(zip(paths, clips, strict=True)):
        for length_s in SEGMENTS_S[index % len(SEGMENTS_S)]:
            begin_s, end_s = source.choice(localisation.windows(clip, length_s))
            rows.append(localisation.row_of_window(path, clip, begin_s, end_s))
    return rows

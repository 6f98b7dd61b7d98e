"""The clips of `kastor demo video`: made, put into a dataset, and shown with what was said to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kastor.cli.demos import clips, localised
from kastor.cli.demos.clips import Clip
from kastor.cli.demos.localised import Localised
from kastor.cli.demos.page import Part, Shown
from kastor.cli.demos.seeing import facts, thumbs
from kastor.cli.demos.tuning import Outcome, Study
from kastor.domain.media import Sampling

SECONDS = 6
NUM_TRAINED, NUM_HELD_OUT = 240, 48
EPOCHS, BATCH_SIZE, LEARNING_RATE = 1, 4, 1e-3
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
    study: Study

    @classmethod
    def make(
        cls, folder: Path, num_trained: int | None, num_held_out: int | None, epochs: int | None, seed: int
    ) -> "Clips":
        """Into `folder`; what is `None` as the demo has it."""
        num_trained, num_held_out = num_trained or NUM_TRAINED, num_held_out or NUM_HELD_OUT
        made = clips.drawn(num_trained + num_held_out, SECONDS, seed)
        paths = [folder / f"{index:04d}.mp4" for index in range(len(made))]
        for path, clip in zip(paths, made, strict=True):
            clips.film(path, clip)
        rows = [localised.row(path, clip) for path, clip in zip(paths, made, strict=True)]
        study = Study(
            "clips",
            folder,
            rows[:num_trained],
            rows[num_trained:],
            localised.form(SECONDS),
            epochs or EPOCHS,
            BATCH_SIZE,
            LEARNING_RATE,
        )
        return cls(made, paths, num_trained, study)

    @property
    def about(self) -> str:
        """In a few words."""
        return f"{len(self.made)} made, {SECONDS} s each, with what appears and when"

    def judged(self, outcome: Outcome) -> Localised:
        """What was said, scored."""
        learnt, held_out = self.made[: self.num_trained], self.made[self.num_trained :]
        return Localised.of(learnt, held_out, outcome.base, outcome.tuned)

    def part(self, outcome: Outcome) -> Part:
        """For the page."""
        found = self.judged(outcome)
        shown = [
            Shown(path.name, thumbs(path, Sampling(), THUMB_SIZE, clip.shown_at), found.said(index))
            for index, (path, clip) in enumerate(
                zip(self.paths[self.num_trained :][:MAX_SHOWN], self.made[self.num_trained :], strict=False)
            )
        ]
        return Part(
            "What appears, and when",
            localised.QUESTION,
            LEAD,
            found.metrics(),
            found.by_class(),
            outcome.job.steps,
            facts(self.study, outcome.job),
            tuple(shown),
        )

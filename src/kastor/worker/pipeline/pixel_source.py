"""The pictures of a job that trains its vision tower: what `reading` gives as features, as pixels."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from kastor.domain.vision import Grid, MediumPlan, VisionSpec
from kastor.models.vision.encoder import Pixels
from kastor.models.vision.media_frames import medium_frames_key
from kastor.worker.pipeline.frames import FrameSource

MAX_OPEN = 16  # media whose pictures are mapped, or in memory where there was no room to keep them


class PixelSource:
    """Gives pictures by medium, for two threads: the pass that has them decoded and the trainer that reads them.

    `tower` is the hash of the tower that training starts from.
    """

    made = "pictures"

    def __init__(self, source: FrameSource, vision: VisionSpec, tower: str) -> None:
        self.vision = vision
        self.tower = tower
        self._source = source
        self._held: set[str] = set()
        self._open: OrderedDict[str, Sequence[Pixels]] = OrderedDict()  # the trainer's

    def key_of(self, planned: MediumPlan) -> str:
        """Under which name the pictures of a medium are kept."""
        return medium_frames_key(planned, self.vision)

    def contains(self, key: str) -> bool:
        """Whether the pictures are here now; they may go."""
        return self._source.has(key)

    def pin(self, key: str) -> bool:
        """Whether the pictures are here, and then stay."""
        if key not in self._held:
            if self._source.hold(key) is None:
                return False
            self._held.add(key)
        return True

    def store(self, key: str, pixels: Sequence[Pixels], grids: Sequence[Grid], *, num_missing: int) -> bool:
        """Make nothing of the pictures: False, so that they stay held."""
        return False

    def compute(self, key: str, pixels: Callable[[], tuple[Sequence[Pixels], Sequence[Grid]]]) -> Sequence[Pixels]:
        """The pictures of a medium that is not kept, as `pixels` gives them."""
        return self._opened(key, lambda: pixels()[0])

    def read(self, key: str, index: int) -> Pixels:
        """One picture of a medium that is held."""
        return self._opened(key, lambda: self._mapped(key))[index]

    def _mapped(self, key: str) -> Sequence[Pixels]:
        found = self._source.hold(key)
        assert found is not None  # noqa: S101  # it is held
        return found

    def _opened(self, key: str, pixels: Callable[[], Sequence[Pixels]]) -> Sequence[Pixels]:
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = pixels()
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return found

"""The features of a job's pictures: read where they are kept, else made again by the tower, to the same bits."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from kastor.domain.errors import ResourceExhausted
from kastor.domain.job import TuningJob
from kastor.domain.vision import Grid, MediumPlan, VisionSpec
from kastor.media.cache import MediaCache
from kastor.models.vision.encoder import Features, FeatureStore, Pixels, VisionEncoder, tower_hash
from kastor.models.vision.media_frames import medium_feature_key
from kastor.worker.job_monitor import JobMonitor
from kastor.worker.pipeline.cache_policy import CacheDecision, FeatureCost
from kastor.worker.pipeline.inputs import Workspace

MAX_LATELY = 4  # media whose features are in memory; a row shows one after the other


class FeatureSource:
    """Gives features by medium, for two threads: the pass that makes them and the trainer that reads them."""

    made = "features"

    def __init__(
        self,
        cache: MediaCache,
        job: TuningJob,
        workspace: Workspace,
        monitor: JobMonitor,
        stack: ExitStack,
        base: tuple[VisionSpec, Path],
        *,
        num_threads: int,
    ) -> None:
        """What is kept stays for as long as `stack` is open; `base` is how its family sees, and its folder."""
        self._job = job
        self._workspace = workspace
        self._monitor = monitor
        self.vision, self._folder = base
        self._num_threads = num_threads
        self.tower = tower_hash(self._folder, self.vision)
        self._encoder: VisionEncoder | None = None
        if self.vision.pretrained:
            # now, before any other thread runs: building it switches off how modules are initialised, for the whole
            # process, and an adapter that another thread made meanwhile would hold whatever lay in memory
            self._encoder = VisionEncoder.open(self._folder, self.vision, num_threads=num_threads)
        self._cache = cache
        self._store = FeatureStore(self._cache, stack.enter_context(closing(self._cache.lease(job.id))))
        self._choice = _stored(workspace.features)
        self._lately: OrderedDict[str, list[Features]] = OrderedDict()
        self._opening = threading.Lock()
        self._full = False

    def key_of(self, planned: MediumPlan) -> str:
        """Under which name the features of a medium are kept."""
        return medium_feature_key(planned, self.tower)

    def contains(self, key: str) -> bool:
        """Whether the features are here now; they may go."""
        return self._store.has(key)

    def pin(self, key: str) -> bool:
        """Whether the features are here, and then stay."""
        return self._store.hold(key)

    def store(self, key: str, pixels: Sequence[Pixels], grids: Sequence[Grid], *, num_missing: int) -> bool:
        """Keep the features of a medium, if that is worth it; whether they are kept.

        The first one is measured, with `num_missing` pictures of the job in view; what follows from that is written
        down and holds for the whole job.
        """
        if self._choice is None:
            self._choice = self._measured(key, pixels, grids, num_missing)
            return self.pin(key)
        # pictures that are nowhere else are kept if they can be: they would have to be decoded again
        return (self._choice.keep or isinstance(pixels, list)) and self._put(key, self._encode(pixels, grids))

    def compute(self, key: str, pixels: Callable[[], tuple[Sequence[Pixels], Sequence[Grid]]]) -> Sequence[Features]:
        """The features (N, C) of each picture of a medium that is not kept, made of what `pixels` gives."""
        found = self._lately.get(key)
        if found is None:
            found = self._lately[key] = self._encode(*pixels())
            while len(self._lately) > MAX_LATELY:
                self._lately.popitem(last=False)
        self._lately.move_to_end(key)
        return found

    def read(self, key: str, index: int) -> Features:
        """The kept features (N, C) of one picture of a medium that is held."""
        return self._store.read(key, index)

    def _encode(self, pixels: Sequence[Pixels], grids: Sequence[Grid]) -> list[Features]:
        with self._opening:
            if self._encoder is None:
                self._encoder = VisionEncoder.open(self._folder, self.vision, num_threads=self._num_threads)
        return self._encoder.encode(pixels, grids)

    def _put(self, key: str, features: Sequence[Features]) -> bool:
        if self._full:
            return False
        try:
            self._store.put(key, features)
        except ResourceExhausted as error:
            self._full = True
            if self._choice is not None:  # else it will say so
                self._monitor.log_event(f"features are kept no more, but made again at each step: {error.message}")
            return False
        return True

    def _measured(self, key: str, pixels: Sequence[Pixels], grids: Sequence[Grid], num_missing: int) -> CacheDecision:
        self._encode(pixels[:1], grids[:1])  # the first one takes longer
        began = time.perf_counter()
        features = self._encode(pixels, grids)
        encoded = time.perf_counter()
        room, kept = self._cache.room(), self._put(key, features)
        reading = time.perf_counter()
        for index in range(len(pixels) if kept else 0):
            self._store.read(key, index)
        each = 1000 / len(pixels)
        measured = FeatureCost(
            (encoded - began) * each,
            (time.perf_counter() - reading) * each,
            sum(one.nbytes for one in features) // len(pixels),
        )
        num_reads = self._job.spec.hyperparameters.num_epochs  # all but the first, and one by whoever comes after
        room = room if kept else 0
        choice = CacheDecision.by_rule(measured, num_reads=num_reads, num_pictures=num_missing, room_bytes=room)
        self._workspace.write(self._workspace.features, [choice.encoded()])
        self._monitor.log_event(choice.said)
        return choice


def _stored(path: Path) -> CacheDecision | None:
    try:
        return CacheDecision.decoded(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None

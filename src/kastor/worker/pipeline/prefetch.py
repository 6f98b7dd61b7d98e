"""A job's pass over its media, in a thread of its own, in the order in which training needs them.

What no job before it has stored is fetched, decoded and sent through the frozen tower; decoding runs a few media ahead.
Training begins when the media of its first steps are there, and waits where it is faster. A medium that turns out bad
only now costs its rows, by the rules of the job's profile.
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kastor.domain.errors import FailedPrecondition, Internal
from kastor.domain.job import TuningSpec
from kastor.domain.media import MediaFault, MediumError
from kastor.domain.vision import Grid, MediumPlan, VisionSpec
from kastor.models.vision.encoder import Pixels
from kastor.training.packing import epoch_order, step_examples
from kastor.worker.job_monitor import JobInterrupted, JobMonitor
from kastor.worker.pipeline.frames import FrameReader, FrameSource
from kastor.worker.pipeline.prefetch_queue import BackgroundPrefetcher
from kastor.worker.pipeline.rendered_examples import RenderedExamples
from kastor.worker.pipeline.unreadable_media import UnreadableMedia

MEDIA_AHEAD = 4
TELL_EVERY_S = 15.0
LOOK_EVERY_S = 0.2  # for a request to end, while waiting
PATIENCE_S = 5.0  # with the thread when it is told to end

_Made = tuple[str, MediumPlan, Sequence[Pixels] | MediaFault | None]
"""A medium's key and plan; `None` where its features were stored already."""


def prefetch_order(spec: TuningSpec, num_rows: int, done: int) -> list[int]:
    """All rows, in the order in which they are first needed after step `done`; last those that no step needs.

    >>> from kastor.domain.job import AdapterShape, Hyperparameters
    >>> spec = TuningSpec("x", Hyperparameters(2, 2, 0.1), AdapterShape(1, 1.0, ()), num_examples=5)
    >>> prefetch_order(spec, 5, done=0) == epoch_order(0, 0, 5).tolist()
    True
    >>> sorted(prefetch_order(spec, 5, done=4))
    [0, 1, 2, 3, 4]
    """
    asked, order = spec.hyperparameters, dict[int, None]()
    for step in range(done + 1, spec.total_steps + 1):
        if len(order) == num_rows:
            break
        order |= dict.fromkeys(
            step_examples(
                step,
                seed=spec.seed,
                num_examples=num_rows,
                num_epochs=asked.num_epochs,
                batch_size=asked.batch_size,
            )
        )
    return list(order | dict.fromkeys(range(num_rows)))


def evenly_spaced_pictures(pictures: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """Key and index of `most` pictures, evenly from all of them; all, where they are fewer.

    >>> evenly_spaced_pictures({"a": 1, "b": 4}, 3)
    [('a', 0), ('b', 1), ('b', 3)]
    """
    ends, keys = np.array(list(accumulate(pictures.values())), np.int64), list(pictures)
    num_pictures = int(ends[-1]) if len(ends) else 0
    chosen = np.unique(np.linspace(0, num_pictures - 1, min(most, num_pictures)).round().astype(np.int64))
    media = np.searchsorted(ends, chosen, side="right")
    before = ends[media] - np.array([pictures[keys[medium]] for medium in media], np.int64)
    return [(keys[medium], int(index)) for medium, index in zip(media, chosen - before, strict=True)]


class VisionInputSource(Protocol):
    """Gives what training reads of pictures, and keeps it: features, or where the tower is trained the pictures."""

    made: str  # which of the two
    tower: str  # hash of the tower's weights
    vision: VisionSpec

    def key_of(self, planned: MediumPlan) -> str:
        """Under which name a medium's are kept."""

    def contains(self, key: str) -> bool:
        """Whether they are here now; they may go."""

    def pin(self, key: str) -> bool:
        """Whether they are here, and then stay."""

    def store(self, key: str, pixels: Sequence[Pixels], grids: Sequence[Grid], *, num_missing: int) -> bool:
        """Make and keep them; whether the pictures may go now."""

    def compute(
        self, key: str, pixels: Callable[[], tuple[Sequence[Pixels], Sequence[Grid]]]
    ) -> Sequence[NDArray[Any]]:
        """Those of a medium that is not kept, made of what `pixels` gives."""

    def read(self, key: str, index: int) -> NDArray[Any]:
        """Of one picture of a medium that is held."""


@dataclass(frozen=True, slots=True)
class FeatureSample:
    """What `FeaturePrefetcher.read` gives of some pictures of the first rows to be trained on."""

    rows: list[int]  # that show them: the first of these, as many as pictures were asked for at most
    features: dict[tuple[str, int], NDArray[Any]]  # by key and index


class FeaturePrefetcher:
    """One job's pass, from step `done` on. `start` it; `close` it. All else is for the training thread."""

    def __init__(
        self,
        rows: RenderedExamples,
        spec: TuningSpec,
        done: int,
        reading: VisionInputSource,
        leaving: UnreadableMedia,
        source: FrameSource,
        monitor: JobMonitor,
    ) -> None:
        self._rows = rows
        self._spec = spec
        self._done = done
        self._reading = reading
        self._leaving = leaving
        self._source = source
        self._monitor = monitor
        self._order = prefetch_order(spec, len(rows), done)
        self._changed = threading.Condition()
        self._seen: set[str] = set()
        self._bad: set[str] = set()
        self._error: BaseException | None = None
        self._ended = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="features", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End it, wherever it is."""
        self._closing.set()  # seen by what decodes, too: `_heed`
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        if "_again" in self.__dict__:
            self._again.close()

    # ---- for the training thread

    @property
    def tower(self) -> str:
        """The hash of the tower's weights."""
        return self._reading.tower

    @property
    def vision(self) -> VisionSpec:
        """How the job's family sees."""
        return self._reading.vision

    def ready(self, row: int) -> bool:
        """Wait for the media of a row; False where one of them is bad, and the row left out.

        Raises:
            Interrupted: the job is to end now.
            InvalidArgument: more rows had to be left out than the profile allows.
            FailedPrecondition: a medium that training had begun with cannot be had any more.

        """
        keys = {self._reading.key_of(medium) for medium in self._rows.from_plan(row).media}
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if keys & self._bad:
                    return False
                if keys <= self._seen:
                    return True
                if self._ended:
                    raise Internal(f"The pass over the media ended without row {row}.")
                if self._monitor.interrupted:
                    raise JobInterrupted
                self._changed.wait(LOOK_EVERY_S)

    def read(self, key: str, index: int) -> NDArray[Any]:
        """Features (N, C) of a picture of a row that is ready; its pixels, where the tower is trained.

        Raises:
            FailedPrecondition: they have gone, and so has the medium.

        """
        if self._reading.pin(key):
            return self._reading.read(key, index)
        try:
            return self._reading.compute(key, lambda: self._pixels_again(key))[index]
        except MediumError as bad:
            media, planned = self._rows.medium(self._rows.media[key])
            raise FailedPrecondition(f"{media.name} (sha256 {planned.sha256}): {bad.message}") from bad

    def sample(self, most: int) -> FeatureSample:
        """`most` pictures, evenly from the first rows to be trained on, and no more of those.

        Those of the first step are always among them, as they are waited for anyway.
        """
        pictures: dict[str, int] = {}
        rows: list[int] = []
        for number, row in enumerate(self._order):
            if number >= self._spec.hyperparameters.batch_size and sum(pictures.values()) >= most:
                break
            if self.ready(row):
                media = self._rows.from_plan(row).media
                if media and len(rows) < most:  # a thousand questions about one film are not all needed
                    rows.append(row)
                pictures |= {self._reading.key_of(medium): medium.view.num_pictures for medium in media}
        return FeatureSample(
            rows, {(key, index): self.read(key, index) for key, index in evenly_spaced_pictures(pictures, most)}
        )

    def _pixels_again(self, key: str) -> tuple[Sequence[Pixels], Sequence[Grid]]:
        media, planned = self._rows.medium(self._rows.media[key])
        try:
            pixels = self._again.pictures(media, planned)
        except MediumError as bad:
            raise _gone(planned, bad.fault) from bad
        if not isinstance(pixels, list):
            self._source.let_go(planned)  # the pass holds it, too
        return pixels, planned.view.grids

    @cached_property
    def _again(self) -> FrameReader:
        return self._source.open(self._heed)

    # ---- the pass

    def _heed(self) -> None:
        if self._closing.is_set() or self._monitor.interrupted:
            raise JobInterrupted

    def _run(self) -> None:
        try:
            self._look()
        except BaseException as error:  # noqa: BLE001  # whatever it is: it is raised where training waits
            with self._changed:
                self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _look(self) -> None:
        missing = [shown.num_pictures for key, shown in self._rows.media.items() if not self._reading.contains(key)]
        tell = _Told(self._monitor.log_event, self._reading.made, sum(missing))
        with BackgroundPrefetcher(self._made(), most=MEDIA_AHEAD) as made:
            for key, planned, pixels in made:
                if self._closing.is_set():
                    return
                self._take(key, planned, pixels, sum(missing))
                if pixels is not None:
                    tell.more(planned.view.num_pictures)
        self._leaving.end()
        tell.end()

    def _take(
        self, key: str, planned: MediumPlan, pixels: Sequence[Pixels] | MediaFault | None, num_missing: int
    ) -> None:
        if isinstance(pixels, MediaFault):
            self._leave(key, planned, pixels)
            return
        try:
            kept = pixels is None or self._reading.store(key, pixels, planned.view.grids, num_missing=num_missing)
        except MediumError as bad:
            self._leave(key, planned, bad.fault)
            return
        if kept and pixels is not None and not isinstance(pixels, list):
            self._source.let_go(planned)
        self._now(self._seen, key)

    def _leave(self, key: str, planned: MediumPlan, fault: MediaFault) -> None:
        if not self._leaving.has(planned):
            if self._done and self._first_step(key) <= self._done:
                raise _gone(planned, fault)
            self._leaving.add(planned, fault)
        self._now(self._bad, key)

    def _now(self, state: set[str], key: str) -> None:
        with self._changed:
            state.add(key)
            self._changed.notify_all()

    def _first_step(self, key: str) -> int:
        """The step that first shows the medium."""
        places = {row: place for place, row in enumerate(epoch_order(self._spec.seed, 0, len(self._rows)).tolist())}
        keys = (
            place
            for row, place in places.items()
            if any(self._reading.key_of(medium) == key for medium in self._rows.from_plan(row).media)
        )
        return 1 + min(keys) // self._spec.hyperparameters.batch_size

    def _made(self) -> Generator[_Made, None, None]:
        """Each medium once, in the order of need, its pictures decoded unless its features are stored."""
        done: set[str] = set()
        with closing(self._source.open(self._heed)) as compiling:
            for row in self._order:
                for planned in self._rows.from_plan(row).media:
                    key = self._reading.key_of(planned)
                    if key not in done:
                        done.add(key)
                        yield key, planned, self._pixels(compiling, key, planned)

    def _pixels(self, compiling: FrameReader, key: str, planned: MediumPlan) -> Sequence[Pixels] | MediaFault | None:
        if self._leaving.has(planned):
            return MediaFault("left_out", "It was left out before.")
        if self._reading.pin(key):
            return None
        media, _ = self._rows.medium(self._rows.media[key])
        try:
            return compiling.pictures(media, planned)
        except MediumError as bad:
            return bad.fault


def _gone(planned: MediumPlan, fault: MediaFault) -> FailedPrecondition:
    return FailedPrecondition(
        f"A medium that this job was begun with (sha256 {planned.sha256}) cannot be had any more: {fault.message} "
        "Put it back, or tune again without it."
    )


class _Told:
    """Says from time to time how far the pass is; nothing where nothing is to be done."""

    def __init__(self, note: Callable[[str], None], made: str, total: int) -> None:
        self._note = note
        self._made = made
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()
        if total:
            note(f"{made}: {total} pictures to be looked at")

    def more(self, num_pictures: int) -> None:
        """So many pictures are done."""
        self._done += num_pictures
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            self._note(f"{self._made}: {self._done} of {self._total} pictures")

    def end(self) -> None:
        """All are done."""
        if self._total:
            seconds = time.monotonic() - self._began
            self._note(f"{self._made}: {self._done} of {self._total} pictures, in {seconds:.1f} s")

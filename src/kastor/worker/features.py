"""A job's pass over its media: what no job before it has stored is fetched, decoded and sent through the frozen tower.

Decoding runs a few media ahead of the tower. What is stored stays stored: a pass that was cut short goes on where it
was. A medium that turns out bad only now costs its rows, by the rules of the job's profile; which ones is written down
when all others were seen, and holds from then on.
"""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from kastor.domain.content import Media
from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import TuningJob, TuningSpec
from kastor.domain.media import BadMedium, MediaFault
from kastor.domain.vision import PlannedMedium, Vision
from kastor.media import decode
from kastor.media.fetch import Fetcher
from kastor.models.pictures import pixels_of, stored_under
from kastor.models.vision import Encoder, FeatureStore, Pixels, tower_hash
from kastor.settings import Settings
from kastor.store.blobs import Blobs
from kastor.worker.ahead import Ahead
from kastor.worker.leaving import Leaving
from kastor.worker.media import feature_cache, media_cache, places, uploads, url_guard
from kastor.worker.ownership import Ownership
from kastor.worker.rows import Files

MEDIA_AHEAD = 8
TELL_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class _Missing:
    """A medium whose features are not stored: the `index`-th of the example whose line begins at `offset`."""

    key: str
    planned: PlannedMedium
    offset: int
    index: int


class FeaturePass:
    """One job's pass; `tower` is the hash of the tower's weights."""

    def __init__(
        self,
        settings: Settings,
        job: TuningJob,
        blobs: Blobs,
        ownership: Ownership,
        vision: Vision,
        folder: Path,
    ) -> None:
        self._settings = settings
        self._job = job
        self._ownership = ownership
        self._vision = vision
        self._folder = folder
        self._files = Files(blobs.dataset(job.id), blobs.plan(job.id))
        self._leaving = Leaving(settings, job, blobs, ownership)
        self._uploads = uploads(settings, job)
        self.tower = tower_hash(folder, vision)

    def open(self, stack: ExitStack) -> FeatureStore:
        """The store; what is held in it stays for as long as `stack` is open."""
        cache = feature_cache(self._settings)
        return FeatureStore(cache, stack.enter_context(closing(cache.lease(self._job.id))))

    def key_of(self, planned: PlannedMedium) -> str:
        """Under which name the features of a medium are stored."""
        return stored_under(planned, self.tower)

    def run(self, store: FeatureStore, num_threads: int) -> tuple[TuningSpec, frozenset[str]]:
        """Make what is missing in `store`, which then holds all.

        What comes back is the job's spec as it then stands, and the hashes of the media that were left out.

        Raises:
            InvalidArgument: more had to be left out than the profile allows.
            FailedPrecondition: a medium that training had begun with cannot be had any more.
            ResourceExhausted: the disk or the cache is full.

        """
        known = self._leaving.known()
        faults: dict[str, MediaFault] = {}
        missing = self._missing(store, set(known or {}))
        if missing:
            faults = self._make(store, missing, num_threads)
        if known is not None and faults:
            sha256, fault = next(iter(faults.items()))
            raise FailedPrecondition(
                f"A medium that this job was begun with (sha256 {sha256}) cannot be had any more: {fault.message} "
                "Put it back, or tune again without it."
            )
        bad = faults if known is None else known
        return self._leaving.settled(self._files, bad), frozenset(bad)

    def _missing(self, store: FeatureStore, left_out: set[str]) -> list[_Missing]:
        """The media whose features are not here, each once, in the order in which they first occur."""
        found: dict[str, _Missing] = {}
        for at, _, row in self._files.plans():
            for index, planned in enumerate(row.media):
                key = self.key_of(planned)
                if key not in found and planned.sha256 not in left_out and not store.hold(key):
                    found[key] = _Missing(key, planned, at, index)
        return list(found.values())

    def _make(self, store: FeatureStore, missing: list[_Missing], num_threads: int) -> dict[str, MediaFault]:
        """Encode and store; why some could not be, by the hash of their content."""
        faults: dict[str, MediaFault] = {}
        tell = _Told(self._ownership.note, sum(one.planned.view.num_pictures for one in missing))
        encoder = Encoder.open(self._folder, self._vision, num_threads=num_threads)
        with Ahead(self._decoded(missing), most=MEDIA_AHEAD) as decoded:
            for one, pixels in decoded:
                if isinstance(pixels, MediaFault):
                    faults[one.planned.sha256] = pixels
                else:
                    store.put(one.key, encoder.encode(pixels, one.planned.view.grids))
                tell.more(one.planned.view.num_pictures)
        tell.end()
        return faults

    def _decoded(self, missing: list[_Missing]) -> Generator[tuple[_Missing, list[Pixels] | MediaFault], None, None]:
        cache = media_cache(self._settings)
        file = self._job.spec.file
        if file is None:
            raise FailedPrecondition("Only jobs on a dataset file can have media.")
        with closing(cache.lease(self._job.id)) as lease, closing(decode.Pictures()) as pictures:
            allowed, guard = places(self._settings, file), url_guard(self._settings)
            fetcher = Fetcher(cache, lease, allowed, guard=guard, uploads=self._uploads)
            for one in missing:
                media = list(dict.fromkeys(self._files.example(one.offset).media))[one.index]
                try:
                    yield one, self._pixels(fetcher, pictures, media, one.planned)
                except BadMedium as bad:
                    yield one, bad.fault

    def _pixels(
        self, fetcher: Fetcher, pictures: decode.Pictures, media: Media, planned: PlannedMedium
    ) -> list[Pixels]:
        """The planned pictures of a medium, scaled for the tower."""
        fetched = fetcher.fetch_bytes(media.data) if media.data else fetcher.fetch(media.uri)
        try:
            if fetched.sha256 != planned.sha256:
                raise BadMedium.of("media_changed", f"{media.name} is another file now than when it was checked.")
            return pixels_of(fetched.path, planned, self._vision, pictures)
        finally:
            fetcher.release(fetched)


class _Told:
    """Says from time to time how far the pass is."""

    def __init__(self, note: Callable[[str], None], total: int) -> None:
        self._note = note
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()
        note(f"features: {total} pictures to be looked at")

    def more(self, num_pictures: int) -> None:
        """So many pictures are done."""
        self._done += num_pictures
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            self._note(f"features: {self._done} of {self._total} pictures")

    def end(self) -> None:
        """All are done."""
        seconds = time.monotonic() - self._began
        self._note(f"features: {self._done} of {self._total} pictures, in {seconds:.1f} s")

"""Media of a dataset as files on this machine that were looked at: fetched once, probed, frames chosen."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from kastor.dataset.media.inspection_cache import MAX_REMEMBERED, InspectionCache
from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.media.sampling_record import requested_sampling
from kastor.domain.content import Media
from kastor.domain.media import MediaFault, MediaKind, MediumError, Probe
from kastor.media.cache import CachedFile, MediaCache
from kastor.media.decode_limits import DecodeLimits
from kastor.media.fetch import AllowedSources, Fetcher, FetchLimits
from kastor.media.probe import MediaProber
from kastor.security.url_guard import UrlGuard

FETCH_THREADS = 8


@contextmanager
def open_inspector(
    cache: MediaCache,
    places: AllowedSources,
    *,
    name: str,
    guard: UrlGuard | None = None,
    uploads: Callable[[str], Path] | None = None,
    limits: FetchLimits | None = None,
    known: InspectionCache | None = None,
    guards: DecodeLimits | None = None,
) -> Iterator["DatasetMediaInspector"]:
    """A looker over the cache for as long as the block lasts; `name` is whose it is, for people who look there.

    `known` is what other lookers have found out before, and gets what this one does; all that lies beside the cache
    if absent.
    """
    lease = cache.lease(name)
    try:
        fetcher = Fetcher(cache, lease, places, guard=guard, uploads=uploads, limits=limits)
        with DatasetMediaInspector(fetcher, MediaProber(guards), known or InspectionCache(cache)) as looker:
            yield looker
    finally:
        lease.close()


class DatasetMediaInspector:
    """Looks at media; for one thread at a time. Close it, or use it as a context.

    What it fetched may be evicted from the cache once it was looked at.
    """

    def __init__(self, fetcher: Fetcher, inspector: MediaProber, known: InspectionCache | None = None) -> None:
        self._fetcher = fetcher
        self._inspector = inspector
        self._known = known or InspectionCache()
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._lately: OrderedDict[str, InspectionResult] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and the child process."""
        self._threads.shutdown(cancel_futures=True)
        self._inspector.close()

    def look(self, media: Iterable[Media]) -> dict[Media, InspectionResult]:
        """What each medium is, or why it cannot be used; every distinct one is read once.

        Raises:
            ResourceExhausted: the disk is full.

        """
        wanted = {one: _key(one) for one in media}
        unseen = list({key: one for one, key in wanted.items() if key not in self._lately}.items())
        looked = self._looked([one for _, one in unseen])
        found = {key: one for (key, _), one in zip(unseen, looked, strict=True)}
        given = {one: found[key] if key in found else self._lately[key] for one, key in wanted.items()}
        self._remember(found)
        return given

    def _looked(self, media: Sequence[Media]) -> list[InspectionResult]:
        files = list(self._threads.map(self._fetched, media))
        try:
            return self._inspected(media, files)
        finally:
            for file in files:
                if isinstance(file, CachedFile):
                    self._fetcher.release(file)

    def _inspected(self, media: Sequence[Media], files: Sequence[CachedFile | MediaFault]) -> list[InspectionResult]:
        looked: list[InspectionResult] = [
            file if isinstance(file, MediaFault) else self._known.get(file, one) or _UNREAD
            for one, file in zip(media, files, strict=True)
        ]
        held = [(at, file) for at, file in enumerate(files) if isinstance(file, CachedFile) and looked[at] is _UNREAD]
        if not held:
            return looked
        probes = zip(held, self._inspector.probes(file.path for _, file in held), strict=True)
        videos = []
        for (place, file), probe in probes:
            looked[place] = probe if isinstance(probe, MediaFault) else InspectedMedium(file, probe)
            if isinstance(probe, Probe) and probe.kind is MediaKind.VIDEO:
                videos.append((place, file))
        wanted = ((file.path, requested_sampling(media[place])) for place, file in videos)
        for (place, file), planned in zip(videos, self._inspector.plans(wanted), strict=True):
            looked[place] = (
                planned if isinstance(planned, MediaFault) else InspectedMedium(file, planned.probe, planned.plan)
            )
        for place, _ in held:
            found = looked[place]
            if isinstance(found, InspectedMedium):
                self._known.put(found, media[place])
        return looked

    def _fetched(self, media: Media) -> CachedFile | MediaFault:
        try:
            return self._fetcher.fetch_bytes(media.data) if media.data else self._fetcher.fetch(media.uri)
        except MediumError as error:
            return error.fault

    def _remember(self, found: dict[str, InspectionResult]) -> None:
        self._lately.update(found)
        while len(self._lately) > MAX_REMEMBERED:
            self._lately.popitem(last=False)


_UNREAD = MediaFault("media_unread", "It was not looked at.")


def _key(media: Media) -> str:
    """What decides the outcome of a look; the bytes of an inline medium by their hash."""
    source = media.uri or hashlib.sha256(media.data).hexdigest()
    return f"{source}|{media.start_s}|{media.end_s}|{media.fps}"

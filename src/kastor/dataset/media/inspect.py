"""Inspection of a dataset's media: each file is fetched once and probed, and the frames of videos are chosen."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from cachetools import LRUCache

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
    """An inspector that fetches into the cache while the block lasts; `name` labels its lease for operators.

    `known` holds earlier results and receives new ones; by default those stored beside the cache.
    """
    lease = cache.lease(name)
    try:
        fetcher = Fetcher(cache, lease, places, guard=guard, uploads=uploads, limits=limits)
        with DatasetMediaInspector(fetcher, MediaProber(guards), known or InspectionCache(cache)) as inspector:
            yield inspector
    finally:
        lease.close()


class DatasetMediaInspector:
    """Inspects media; for one thread at a time. Close it, or use it as a context.

    Fetched files may be evicted from the cache once they are inspected.
    """

    def __init__(self, fetcher: Fetcher, prober: MediaProber, known: InspectionCache | None = None) -> None:
        self._fetcher = fetcher
        self._prober = prober
        self._cache = known or InspectionCache()
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._recent: LRUCache[str, InspectionResult] = LRUCache(MAX_REMEMBERED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and the decoder process."""
        self._threads.shutdown(cancel_futures=True)
        self._prober.close()

    def look(self, media: Iterable[Media]) -> dict[Media, InspectionResult]:
        """The properties of each medium, or why it cannot be used; each distinct one is read once.

        Raises:
            ResourceExhausted: the disk is full.

        """
        keys = {medium: _key(medium) for medium in media}
        new = {key: medium for medium, key in keys.items() if key not in self._recent}
        results = dict(zip(new, self._inspect(list(new.values())), strict=True))
        found = {medium: results[key] if key in results else self._recent[key] for medium, key in keys.items()}
        self._recent.update(results)
        return found

    def _inspect(self, media: Sequence[Media]) -> list[InspectionResult]:
        files = list(self._threads.map(self._fetch, media))
        try:
            return self._inspect_files(media, files)
        finally:
            for file in files:
                if isinstance(file, CachedFile):
                    self._fetcher.release(file)

    def _inspect_files(
        self, media: Sequence[Media], files: Sequence[CachedFile | MediaFault]
    ) -> list[InspectionResult]:
        results: list[InspectionResult] = [
            file if isinstance(file, MediaFault) else self._cache.get(file, medium) or _UNREAD
            for medium, file in zip(media, files, strict=True)
        ]
        unread = [
            (index, file)
            for index, file in enumerate(files)
            if isinstance(file, CachedFile) and results[index] is _UNREAD
        ]
        if not unread:
            return results
        videos = []
        probes = self._prober.probes(file.path for _, file in unread)
        for (index, file), probe in zip(unread, probes, strict=True):
            results[index] = probe if isinstance(probe, MediaFault) else InspectedMedium(file, probe)
            if isinstance(probe, Probe) and probe.kind is MediaKind.VIDEO:
                videos.append((index, file))
        requests = ((file.path, requested_sampling(media[index])) for index, file in videos)
        for (index, file), planned in zip(videos, self._prober.plans(requests), strict=True):
            results[index] = (
                planned if isinstance(planned, MediaFault) else InspectedMedium(file, planned.probe, planned.plan)
            )
        for index, _ in unread:
            inspected = results[index]
            if isinstance(inspected, InspectedMedium):
                self._cache.put(inspected, media[index])
        return results

    def _fetch(self, media: Media) -> CachedFile | MediaFault:
        try:
            return self._fetcher.fetch_bytes(media.data) if media.data else self._fetcher.fetch(media.uri)
        except MediumError as error:
            return error.fault


_UNREAD = MediaFault("media_unread", "The file was not inspected.")


def _key(media: Media) -> str:
    """All that decides the result; the bytes of an inline medium by their hash."""
    source = media.uri or hashlib.sha256(media.data).hexdigest()
    return f"{source}|{media.start_s}|{media.end_s}|{media.fps}"

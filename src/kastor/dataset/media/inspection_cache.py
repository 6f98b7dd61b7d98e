"""Cache of media inspection results, keyed by content hash: some in memory, all beside the media cache.

Stored results spare other processes opening the same file: a second job on the same data starts no decoder process.
"""

import threading
from dataclasses import asdict, replace
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import orjson
from cachetools import LRUCache

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.media.sampling_record import requested_sampling
from kastor.domain.content import Media
from kastor.domain.media import FrameSampling, MediaKind, Probe, SamplingPlan
from kastor.media.cache import CachedFile, MediaCache
from kastor.media.frame_sampling import SAMPLING

MAX_REMEMBERED = 2048  # recent results; the frame times of a long video are some ten thousand numbers
PROBING = 2  # version of the inspection's own results, part of the stored names: raise it when they change


class InspectionCache:
    """Safe for any number of threads; with a `cache`, shared with other processes as well."""

    def __init__(self, cache: MediaCache | None = None) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._recent: LRUCache[tuple[str, FrameSampling], InspectedMedium] = LRUCache(MAX_REMEMBERED)

    def get(self, file: CachedFile, media: Media) -> InspectedMedium | None:
        """The cached result for this file and sampling request, or `None`."""
        key = (file.sha256, requested_sampling(media))
        with self._lock:
            inspected = self._recent.get(key)
        if inspected is None:
            inspected = self._load(file, key[1])
            if inspected is None:
                return None
            self._remember(key, inspected)
        return replace(inspected, file=file)

    def put(self, inspected: InspectedMedium, media: Media) -> None:
        """Store the result."""
        sampling = requested_sampling(media)
        sha256 = inspected.file.sha256
        self._remember((sha256, sampling), inspected)
        if self._cache is not None:
            encoded = orjson.dumps({"probe": asdict(inspected.probe), "plan": _object(inspected.plan)}).decode()
            self._cache.note(_name(sha256, sampling), sha256, seen=encoded)

    def _remember(self, key: tuple[str, FrameSampling], inspected: InspectedMedium) -> None:
        with self._lock:
            self._recent[key] = inspected

    def _load(self, file: CachedFile, sampling: FrameSampling) -> InspectedMedium | None:
        note = None if self._cache is None else self._cache.known(_name(file.sha256, sampling))
        if note is None:
            return None
        stored = orjson.loads(note["seen"])
        return InspectedMedium(file, _probe(stored["probe"]), _plan(stored["plan"]))


def _name(sha256: str, sampling: FrameSampling) -> str:
    made_by = f"{PROBING}.{SAMPLING}.{version('av')}"
    return f"seen:{made_by}:{sha256}:{sampling.fps!r}:{sampling.start_s!r}:{sampling.end_s!r}"


def _object(plan: SamplingPlan | None) -> dict[str, Any] | None:
    return None if plan is None else asdict(plan) | {"time_base": str(plan.time_base)}


def _probe(held: dict[str, Any]) -> Probe:
    sizes = tuple((width, height) for width, height in held["page_sizes"])
    stored = held["stored_size"] and tuple(held["stored_size"])
    return Probe(**held | {"kind": MediaKind(held["kind"]), "page_sizes": sizes, "stored_size": stored})


def _plan(held: dict[str, Any] | None) -> SamplingPlan | None:
    if held is None:
        return None
    as_tuples = {"moments_s": tuple(held["moments_s"]), "pts": tuple(held["pts"])}
    return SamplingPlan(**held | as_tuples | {"time_base": Fraction(held["time_base"])})

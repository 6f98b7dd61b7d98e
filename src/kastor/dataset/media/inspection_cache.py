"""What is known of contents, whatever they are called: a few in memory, all beside the cache of media.

What is written there spares other processes opening the same file again: a second job on the same data starts no child.
"""

import threading
from collections import OrderedDict
from dataclasses import asdict, replace
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import orjson

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.media.sampling_record import requested_sampling
from kastor.domain.content import Media
from kastor.domain.media import FrameSampling, MediaKind, Probe, SamplingPlan
from kastor.media.cache import CachedFile, MediaCache
from kastor.media.frame_sampling import SAMPLING

MAX_REMEMBERED = 2048  # media looked at lately; the frames of a long video are some ten thousand numbers
PROBING = 2  # counts changes to what a look finds; a part of the names


class InspectionCache:
    """For any number of threads; with a `cache` for other processes as well."""

    def __init__(self, cache: MediaCache | None = None) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._lately: OrderedDict[tuple[str, FrameSampling], InspectedMedium] = OrderedDict()

    def get(self, file: CachedFile, media: Media) -> InspectedMedium | None:
        """What was found in this content, asked about as now."""
        key = (file.sha256, requested_sampling(media))
        with self._lock:
            found = self._lately.get(key)
        if found is None:
            found = self._read(file, key[1])
            if found is None:
                return None
        self._remember(key, found)
        return replace(found, file=file)

    def put(self, seen: InspectedMedium, media: Media) -> None:
        """Remember it."""
        sampling = requested_sampling(media)
        self._remember((seen.file.sha256, sampling), seen)
        if self._cache is not None:
            said = orjson.dumps({"probe": asdict(seen.probe), "plan": _object(seen.plan)}).decode()
            self._cache.note(_name(seen.file.sha256, sampling), seen.file.sha256, seen=said)

    def _remember(self, key: tuple[str, FrameSampling], seen: InspectedMedium) -> None:
        with self._lock:
            self._lately[key] = seen
            self._lately.move_to_end(key)
            while len(self._lately) > MAX_REMEMBERED:
                self._lately.popitem(last=False)

    def _read(self, file: CachedFile, sampling: FrameSampling) -> InspectedMedium | None:
        noted = None if self._cache is None else self._cache.known(_name(file.sha256, sampling))
        if noted is None:
            return None
        held = orjson.loads(noted["seen"])
        return InspectedMedium(file, _probe(held["probe"]), _plan(held["plan"]))


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

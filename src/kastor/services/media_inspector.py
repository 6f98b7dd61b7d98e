"""Looks at the media that callers send: what opens them runs in confined child processes, few at a time."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kastor.dataset.media.inspection_result import InspectionResult
from kastor.domain.content import Media
from kastor.media.cache import MediaCache

if TYPE_CHECKING:
    from kastor.dataset.media.inspection_cache import InspectionCache

MAX_LOOKS = 8
"""Requests whose media are looked at side by side: each has threads that fetch, and a child process for what is new."""

MAX_WAIT_S = 60.0
"""For a decoder to be free, as only so many are at work as the machine has memory for."""


@dataclass(frozen=True)
class LocalMediaInspector:
    """Looks at media on this machine, through one cache; safe to use from several threads at once.

    What fetches and inspects is imported at the first look: it costs half of what the server takes to start.
    """

    cache: MediaCache
    folders: Sequence[Path] = ()  # whose files may be named
    buckets: Sequence[str] = ()  # that may be read
    addresses: Sequence[str] = ()  # private ones that media may come from
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_LOOKS))

    def inspect(
        self, media: tuple[Media, ...], uploads: Callable[[str], Path], *, max_bytes: int, max_s: float
    ) -> Mapping[Media, InspectionResult]:
        """As `kastor.services.prompt_media.Eyes` has it."""
        from kastor.dataset.media.inspect import open_inspector
        from kastor.media.decode_limits import DecodeLimits
        from kastor.media.fetch import AllowedSources, FetchLimits
        from kastor.security.url_guard import UrlGuard

        with (
            self._turns,
            open_inspector(
                self.cache,
                AllowedSources(tuple(self.folders), tuple(self.buckets)),
                name="generation",
                guard=UrlGuard(allowed=tuple(self.addresses)),
                uploads=uploads,
                limits=FetchLimits(max_bytes=max_bytes, total_s=max_s),
                known=self._known,
                guards=DecodeLimits(slot_wait_s=MAX_WAIT_S),
            ) as looker,
        ):
            return looker.look(media)

    @cached_property
    def _known(self) -> "InspectionCache":
        from kastor.dataset.media.inspection_cache import InspectionCache

        return InspectionCache(self.cache)

"""Looks at the media that callers send: what opens them runs in confined child processes, few at a time."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kastor.dataset.look import Known, looking
from kastor.dataset.seen import Looked
from kastor.domain.content import Media
from kastor.media.cache import MediaCache
from kastor.media.fetch import FetchLimits, Places
from kastor.security.urlguard import UrlGuard

MAX_LOOKS = 8
"""Requests whose media are looked at side by side: each has a child process and threads that fetch."""


@dataclass(frozen=True, slots=True)
class LocalEyes:
    """Looks at media on this machine, through one cache; safe to use from several threads at once."""

    cache: MediaCache
    places: Places
    guard: UrlGuard
    _known: Known = field(default_factory=Known)
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_LOOKS))

    def look(
        self, media: tuple[Media, ...], uploads: Callable[[str], Path], *, max_bytes: int, max_s: float
    ) -> Mapping[Media, Looked]:
        """As `kastor.jobs.shown.Eyes` has it."""
        limits = FetchLimits(max_bytes=max_bytes, total_s=max_s)
        with (
            self._turns,
            looking(
                self.cache,
                self.places,
                name="generation",
                guard=self.guard,
                uploads=uploads,
                limits=limits,
                known=self._known,
            ) as looker,
        ):
            return looker.look(media)

"""Whether a job keeps what the tower makes of pictures: bytes against the time they save. The rule is arithmetic.

What is not kept is made again from the decoded pictures at each step, to the same bits.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_MB_PER_S = 64.0
"""Disk that a saved second may cost. A plain disk writes this much in about a second: beyond it, keeping saves none."""


@dataclass(frozen=True, slots=True)
class FeatureCost:
    """What one picture costs: its way through the tower, against having its stored features back."""

    tower_ms: float
    read_ms: float
    num_bytes: int  # of its features


def mb_per_saved_second(measured: FeatureCost, num_reads: int) -> float:
    """Megabytes that each saved second costs when a picture is needed `num_reads` times more; infinite if none is.

    >>> mb_per_saved_second(FeatureCost(tower_ms=16.0, read_ms=1.0, num_bytes=40_960), num_reads=5)
    0.546
    >>> mb_per_saved_second(FeatureCost(tower_ms=1.0, read_ms=1.5, num_bytes=40_960), num_reads=5)
    inf
    """
    saved_s = (measured.tower_ms - measured.read_ms) * num_reads / 1000
    return round(measured.num_bytes / 1e6 / saved_s, 3) if saved_s > 0 else math.inf


def should_cache(measured: FeatureCost, *, num_reads: int, num_pictures: int, room_bytes: int) -> bool:
    """Whether the features of all `num_pictures` are kept: they fit, and each saved second is worth its bytes.

    >>> slow, fast = FeatureCost(16.0, 0.5, 40_960), FeatureCost(3.0, 0.5, 2_000_000)
    >>> should_cache(slow, num_reads=5, num_pictures=1000, room_bytes=1 << 30)
    True
    >>> should_cache(fast, num_reads=5, num_pictures=100, room_bytes=1 << 30)
    False
    >>> should_cache(slow, num_reads=5, num_pictures=100_000, room_bytes=1 << 30)
    False
    """
    fits = measured.num_bytes * num_pictures <= room_bytes
    return fits and mb_per_saved_second(measured, num_reads) <= MAX_MB_PER_S


@dataclass(frozen=True, slots=True)
class CacheDecision:
    """What a job does, and the numbers it was chosen by."""

    keep: bool
    measured: FeatureCost
    num_reads: int
    num_pictures: int
    room_bytes: int

    @classmethod
    def by_rule(cls, measured: FeatureCost, *, num_reads: int, num_pictures: int, room_bytes: int) -> "CacheDecision":
        """What the rule says."""
        keep = should_cache(measured, num_reads=num_reads, num_pictures=num_pictures, room_bytes=room_bytes)
        return cls(keep, measured, num_reads, num_pictures, room_bytes)

    @property
    def said(self) -> str:
        """For the job's log."""
        one = self.measured
        begin = "features are kept" if self.keep else "features are not kept but made again at each step"
        return (
            f"{begin}: {one.num_bytes / 1e3:,.1f} kB a picture; the tower takes {one.tower_ms:.2f} ms, reading "
            f"{one.read_ms:.2f} ms; expected readings: {self.num_reads}; "
            f"{mb_per_saved_second(one, self.num_reads):,.2f} MB for each second saved, "
            f"at most {MAX_MB_PER_S:g} are worth it; "
            f"{self.num_pictures * one.num_bytes / 1e6:,.1f} MB in all, room for {self.room_bytes / 1e6:,.0f} MB"
        )

    def encoded(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decoded(cls, held: Mapping[str, Any]) -> "CacheDecision":
        """What `encoded` gave, parsed."""
        return cls(**{**held, "measured": FeatureCost(**held["measured"])})

"""Metrics of temporal localisation: the overlap of intervals. Moments are seconds; an interval is [start, end)."""

from collections.abc import Sequence
from fractions import Fraction

Interval = tuple[Fraction, Fraction]


def temporal_iou(one: Interval | None, other: Interval | None) -> float:
    """Intersection over union of two intervals; 0 if either is missing or empty.

    >>> temporal_iou((Fraction(0), Fraction(4)), (Fraction(2), Fraction(6)))
    0.3333333333333333
    >>> temporal_iou(None, (Fraction(0), Fraction(1)))
    0.0
    """
    if one is None or other is None or one[0] >= one[1] or other[0] >= other[1]:
        return 0.0
    overlap = max(Fraction(0), min(one[1], other[1]) - max(one[0], other[0]))
    return float(overlap / (one[1] - one[0] + other[1] - other[0] - overlap))


def best_constant(truths: Sequence[Interval]) -> Interval:
    """The interval with the highest mean IoU to all truths, among those that begin and end where some truth does.

    Always giving this answer is the baseline: a model that uses the video must exceed it.

    >>> best_constant([(Fraction(1), Fraction(4)), (Fraction(2), Fraction(4)), (Fraction(2), Fraction(5))])
    (Fraction(2, 1), Fraction(4, 1))
    """
    starts, ends = sorted({start for start, _ in truths}), sorted({end for _, end in truths})
    candidates = [(start, end) for start in starts for end in ends if start < end]
    return max(candidates, key=lambda candidate: sum(temporal_iou(candidate, truth) for truth in truths))

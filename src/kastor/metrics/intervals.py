"""Answers that say from when to when: the interval in a text, and how much of two intervals is common.

Moments are seconds; an interval is [start, end).
"""

from collections.abc import Sequence
from fractions import Fraction

from kastor.dataset.timestamps.time_formats import find_time_spans

Interval = tuple[Fraction, Fraction]


def parse_interval(text: str) -> Interval | None:
    """The interval that a text names: its first range, or from its first moment to its second; `None` without two.

    >>> parse_interval("a dog, from 00:03 to 00:06")
    (Fraction(3, 1), Fraction(6, 1))
    >>> parse_interval('{"event": "dog", "start": "1:02.5", "end": "1:04"}')
    (Fraction(125, 2), Fraction(64, 1))
    >>> parse_interval("at 0:03"), parse_interval("from 0:06 to 0:03")
    (None, None)
    """
    found = find_time_spans(text, 0, len(text))
    ranged = next((mark for mark in found if mark.end is not None), None)
    if ranged is not None:
        return ranged.interval if ranged.interval[0] <= ranged.interval[1] else None
    if len(found) < 2 or found[1].start.seconds < found[0].start.seconds:
        return None
    return found[0].start.seconds, found[1].start.seconds


def temporal_iou(one: Interval | None, other: Interval | None) -> float:
    """Seconds that are in both intervals over seconds that are in either; 0 where one is missing or empty.

    >>> temporal_iou((Fraction(0), Fraction(4)), (Fraction(2), Fraction(6)))
    0.3333333333333333
    >>> temporal_iou(None, (Fraction(0), Fraction(1)))
    0.0
    """
    if one is None or other is None or one[0] >= one[1] or other[0] >= other[1]:
        return 0.0
    common = max(Fraction(0), min(one[1], other[1]) - max(one[0], other[0]))
    return float(common / (one[1] - one[0] + other[1] - other[0] - common))


def best_constant(truths: Sequence[Interval]) -> Interval:
    """The interval with the highest mean IoU to all truths, of those that begin and end where some truth does.

    What always giving the same answer can reach: a model that has learnt to look is above it.

    >>> best_constant([(Fraction(1), Fraction(4)), (Fraction(2), Fraction(4)), (Fraction(2), Fraction(5))])
    (Fraction(2, 1), Fraction(4, 1))
    """
    starts, ends = sorted({start for start, _ in truths}), sorted({end for _, end in truths})
    candidates = [(start, end) for start in starts for end in ends if start < end]
    return max(candidates, key=lambda candidate: sum(temporal_iou(candidate, truth) for truth in truths))

"""Parse the interval that an answer names, for the metrics of localisation."""

from kastor.dataset.timestamps.time_formats import find_time_spans
from kastor.metrics.intervals import Interval


def parse_interval(text: str) -> Interval | None:
    """The interval in a text: its first range, or from its first moment to its second; `None` if it has neither.

    >>> parse_interval("a dog, from 00:03 to 00:06")
    (Fraction(3, 1), Fraction(6, 1))
    >>> parse_interval('{"event": "dog", "start": "1:02.5", "end": "1:04"}')
    (Fraction(125, 2), Fraction(64, 1))
    >>> parse_interval("at 0:03"), parse_interval("from 0:06 to 0:03")
    (None, None)
    """
    spans = find_time_spans(text, 0, len(text))
    first_range = next((span for span in spans if span.end is not None), None)
    if first_range is not None:
        return first_range.interval if first_range.interval[0] <= first_range.interval[1] else None
    if len(spans) < 2 or spans[1].start.seconds < spans[0].start.seconds:
        return None
    return spans[0].start.seconds, spans[1].start.seconds

"""Where a growing text holds one of several strings, or may be about to."""

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop sequence begins.

    >>> find_stop("one, two", (" two", ",")), find_stop("one", (",",))
    (3, None)
    """
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return min(found) if found else None


def partial_stop_length(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop sequence.

    >>> partial_stop_length("the EN", ("END", "STOP")), partial_stop_length("the end", ("END",))
    (2, 0)
    """
    for size in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0

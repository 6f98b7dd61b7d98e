"""Work done ahead by a thread: in order, bounded, ended with whoever takes it, its errors raised there."""

import threading
from collections.abc import Generator

import pytest

from kastor.worker.pipeline.prefetch_queue import BackgroundPrefetcher


class Numbers:
    """Counts from 0, and tells how far it came and whether it was closed."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.made = 0
        self.closed = threading.Event()
        self._most = most
        self._error = error

    def run(self) -> Generator[int, None, None]:
        try:
            while self.made < self._most:
                self.made += 1
                yield self.made - 1
            if self._error is not None:
                raise self._error
        finally:
            self.closed.set()


def test_everything_comes_in_order() -> None:
    numbers = Numbers(100)
    with BackgroundPrefetcher(numbers.run(), most=3) as taken:
        assert list(taken) == list(range(100))
    assert numbers.closed.is_set()


def test_no_more_is_made_ahead_than_was_said_and_an_early_end_closes_what_makes_it() -> None:
    numbers = Numbers(1_000_000)
    with BackgroundPrefetcher(numbers.run(), most=3) as taken:
        assert [next(taken), next(taken)] == [0, 1]
        assert numbers.made <= 2 + 3 + 2  # taken, in the queue, in the hand
    assert numbers.closed.wait(5)
    assert numbers.made < 20


def test_an_error_is_raised_after_what_was_made_before_it() -> None:
    numbers = Numbers(2, OSError("full"))
    seen = []
    with pytest.raises(OSError, match="full"), BackgroundPrefetcher(numbers.run(), most=5) as taken:
        for number in taken:
            seen.append(number)
    assert numbers.closed.is_set()
    assert seen == [0, 1]


def test_an_error_of_whoever_takes_ends_the_thread() -> None:
    numbers = Numbers(1_000_000)
    with pytest.raises(KeyError), BackgroundPrefetcher(numbers.run(), most=3) as taken:
        next(taken)
        raise KeyError
    assert numbers.closed.wait(5)

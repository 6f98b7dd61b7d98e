"""Items made by a thread of their own, a few ahead of whoever takes them."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
PATIENCE_S = 5.0  # with the thread when it is told to end


class BackgroundPrefetcher(Generic[T]):
    """Runs `items` in a thread, at most `most` of them ahead. Close it, or use it as a context."""

    def __init__(self, items: Generator[T, None, None], *, most: int) -> None:
        self._items = items
        self._made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(most)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._make, name="ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Iterator[T]:
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(queue.Empty):
            while True:  # whoever waits for room finds it, sees that the end has come, and closes what it uses
                self._made.get_nowait()
        self._thread.join(PATIENCE_S)

    def _taken(self) -> Iterator[T]:
        while (made := self._made.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]

    def _make(self) -> None:
        with contextlib.closing(self._items):
            try:
                for item in self._items:
                    self._made.put((item,))
                    if self._ended.is_set():
                        return
            except BaseException as error:  # noqa: BLE001  # whatever it is: it is raised where the items are taken
                self._made.put(error)
            else:
                self._made.put(None)

"""Answers to polling clients, given again while nothing was written.

Clients that wait for a job ask as fast as they are answered (gemini-api.md §3.3). Between two steps of the job the
answer is the same, and a database that counts its writes tells so for next to nothing. What is remembered is a whole
answer under everything that it was made of: path, query and credentials. It goes after `MAX_AGE_S`, as credentials
expire without anything being written.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from starlette.types import Message, Receive, Scope, Send

MAX_AGE_S = 1.0
MAX_ANSWERS = 256
MAX_BYTES = 1024 * 1024  # of one answer
CREDENTIALS = frozenset({b"authorization", b"x-goog-api-key"})

Version = Callable[[], int | None]
"""A number that is another one after any write; `None` if the database does not tell."""
Key = tuple[object, ...]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class _Answer:
    """An answer, or one that is being made: `messages` are there once `made` is set, unless it is not to be kept."""

    version: int
    began: float
    messages: list[Message] = field(default_factory=list)
    kept: bool = False
    made: anyio.Event = field(default_factory=anyio.Event)


class ResponseCache:
    """The remembered answers of one server, the longest unasked forgotten first. For one event loop."""

    def __init__(self, version: Version, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._version = version
        self._clock = clock
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()

    async def answer(self, app: Asgi, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what is remembered of the request, or what `app` says to it, which may then be remembered.

        An answer that another request makes at the time is waited for, if nothing was written since it was begun.
        """
        version = self._version()
        if version is None:
            await app(scope, receive, send)
            return
        key = _key(scope)
        found = self._answers.get(key)
        if found is not None and found.version == version and self._clock() - found.began < MAX_AGE_S:
            await found.made.wait()
            if found.kept:
                self._answers.move_to_end(key)
                for message in found.messages:
                    await send(dict(message))  # whoever sends it on may write into it
                return
        await self._make(key, _Answer(version, self._clock()), app, scope, receive, send)

    async def _make(self, key: Key, new: _Answer, app: Asgi, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            new.messages.append(dict(message))
            await send(message)

        self._answers[key] = new
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        try:
            await app(scope, receive, noted)
            new.kept = _worth_keeping(new.messages)
        finally:
            if not new.kept:
                new.messages = []
                if self._answers.get(key) is new:
                    del self._answers[key]
            new.made.set()


def _key(scope: Scope) -> Key:
    credentials = tuple(pair for pair in scope["headers"] if pair[0] in CREDENTIALS)
    return scope["path"], scope["query_string"], credentials


def _worth_keeping(messages: list[Message]) -> bool:
    """Whether this is one whole answer that says 200."""
    if len(messages) != 2 or messages[0].get("status") != 200 or messages[1].get("more_body", False):
        return False
    return len(messages[1].get("body", b"")) <= MAX_BYTES

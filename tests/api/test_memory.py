"""Answers to polling clients are given again only while nothing could have changed."""

from collections.abc import Callable

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from kastor.api.http.response_cache import MAX_AGE_S, MAX_ANSWERS, MAX_BYTES, ResponseCache

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


class Application:
    """Says how often it was asked; waits for `gate` first."""

    def __init__(self, status: int = 200, padding: int = 0) -> None:
        self.asked = 0
        self.status = status
        self.padding = padding
        self.gate: Callable[[], object] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        body = str(self.asked).encode() + b" " * self.padding
        if self.gate is not None:
            await anyio.sleep(0)
            self.gate()
        await send(START | {"status": self.status})
        await send({"type": "http.response.body", "body": body})


class Poller:
    """A client of a memory whose database and clock are the test's."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.version: int | None = 1
        self.now = 0.0
        self.started: list[list[tuple[bytes, bytes]]] = []
        self.memory = ResponseCache(lambda: self.version, clock=lambda: self.now)

    async def ask(self, path: str = "/o", query: bytes = b"", key: bytes = b"k") -> str:
        got: list[bytes] = []

        async def send(message: Message) -> None:
            self.started += [message["headers"]] if "headers" in message else []
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", b"1")]  # as a middleware does
            got.append(message.get("body", b""))

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"host", b"x"), (b"x-goog-api-key", key)]
        scope = {"type": "http", "path": path, "query_string": query, "headers": headers}
        await self.memory.answer(self.app, scope, receive, send)
        return b"".join(got).decode().strip()

    def __call__(self, path: str = "/o", query: bytes = b"", key: bytes = b"k") -> str:
        return anyio.run(self.ask, path, query, key)


def test_an_answer_is_given_again_while_nothing_is_written() -> None:
    poller = Poller(Application())
    assert [poller(), poller(), poller()] == ["1", "1", "1"]


def test_what_is_added_on_the_way_to_a_caller_is_not_given_to_the_next() -> None:
    poller = Poller(Application())
    for _ in range(3):
        poller()
    assert poller.started == [START["headers"]] * 3


def test_a_write_makes_the_next_answer_a_new_one() -> None:
    poller = Poller(Application())
    poller()
    poller.version = 2
    assert [poller(), poller()] == ["2", "2"]


@pytest.mark.parametrize("other", [{"path": "/p"}, {"query": b"alt=json"}, {"key": b"another"}])
def test_what_another_caller_or_another_request_was_told_is_not_given(other: dict[str, object]) -> None:
    poller = Poller(Application())
    poller()
    assert anyio.run(lambda: poller.ask(**other)) == "2"  # type: ignore[arg-type]  # one of the three


def test_an_answer_grows_old_as_keys_expire_without_a_write() -> None:
    poller = Poller(Application())
    poller()
    poller.now = MAX_AGE_S
    assert poller() == "2"


def test_a_database_that_keeps_no_count_is_asked_each_time() -> None:
    poller = Poller(Application())
    poller.version = None
    assert [poller(), poller()] == ["1", "2"]


def test_a_refusal_is_not_remembered() -> None:
    poller = Poller(Application(status=404))
    assert [poller(), poller()] == ["1", "2"]


def test_an_answer_too_large_is_not_remembered() -> None:
    poller = Poller(Application(padding=MAX_BYTES))
    assert [poller(), poller()] == ["1", "2"]


def test_the_longest_unasked_is_forgotten_first() -> None:
    poller = Poller(Application())
    for number in range(MAX_ANSWERS):
        poller(f"/{number}")
    assert poller("/0") == "1"
    poller("/one-more")
    assert poller("/0") == "1"
    assert poller("/1") == str(MAX_ANSWERS + 2)


def test_many_who_ask_at_once_share_one_answer() -> None:
    poller = Poller(Application())
    poller.app.gate = lambda: None
    assert anyio.run(_many, poller) == ["1"] * 8


def test_whoever_asks_after_a_write_does_not_get_an_answer_begun_before() -> None:
    poller = Poller(Application())

    def write() -> None:
        poller.version = 2

    poller.app.gate = write
    assert poller() == "1"
    assert poller() == "2"


def test_an_application_that_fails_leaves_nobody_waiting() -> None:
    poller = Poller(Application())

    def fail() -> None:
        if poller.app.asked == 1:
            raise RuntimeError("a bug")

    poller.app.gate = fail

    async def both() -> list[str]:
        answers: list[str] = []

        async def one() -> None:
            try:
                answers.append(await poller.ask())
            except RuntimeError:
                answers.append("failed")

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        return answers

    assert anyio.run(both) == ["failed", "2"]


async def _many(poller: Poller) -> list[str]:
    answers: list[str] = []

    async def one() -> None:
        answers.append(await poller.ask())

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    return answers

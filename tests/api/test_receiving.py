"""Bodies that are written away while they arrive: by pieces, to their end, and let go of in any case."""

from collections.abc import Iterable

import anyio
import pytest
from starlette.responses import Response
from starlette.types import Message

from kastor.api.http.endpoint import ApiRequest
from kastor.api.http.streamed_body import NOBODY, PIECE_BYTES, StreamedBodyRoutes
from kastor.domain.errors import InvalidArgument, KastorError
from support.api_world import World

GONE: Message = {"type": "http.disconnect"}


class FakeSink:
    """Notes what is done with it; fails at the piece `fails_at`."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.pieces: list[bytes] = []
        self.done: list[str] = []
        self._fails_at = fails_at
        self._error = error or InvalidArgument("no")

    def write(self, piece: bytes) -> None:
        if len(self.pieces) == self._fails_at:
            raise self._error
        self.pieces.append(piece)

    def finish(self) -> Response:
        self.done.append("finished")
        return Response(b"fine")

    def refused(self, error: KastorError) -> Response:
        self.done.append("refused")
        return Response(error.message, status_code=400)

    def close(self) -> None:
        self.done.append("closed")


def chunks(pieces: Iterable[bytes], *, end: bool = True) -> list[Message]:
    events: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    return [*events, {"type": "http.request", "body": b"", "more_body": False}] if end else events


def asked(world: World, sink: FakeSink, events: list[Message]) -> tuple[list[Message], list[Message]]:
    """What was sent in answer to a request of these events, and the events that were left."""
    left, sent = list(events), []

    async def receive() -> Message:
        if not left:
            await anyio.sleep_forever()
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    def opened(call: ApiRequest) -> FakeSink:
        assert call.principal == NOBODY
        return sink

    receiving = StreamedBodyRoutes(world.app.endpoints)
    route = receiving.route("/x", ["POST"], opened, keyless=True)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers, "path_params": {}}
    anyio.run(route.app, scope, receive, send)
    return sent, left


def body_of(sent: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_small_pieces_are_gathered_and_the_body_is_what_was_sent(world: World) -> None:
    sink = FakeSink()
    sent, _ = asked(world, sink, chunks([b"x" * 1000] * 200))
    assert b"".join(sink.pieces) == b"x" * 200_000
    assert all(len(piece) >= PIECE_BYTES for piece in sink.pieces[:-1])
    assert (body_of(sent), sink.done) == (b"fine", ["finished", "closed"])


def test_what_came_before_the_client_went_away_is_written_and_nothing_answered(world: World) -> None:
    sink = FakeSink()
    sent, _ = asked(world, sink, [*chunks([b"half"], end=False), GONE])
    assert (sent, sink.pieces, sink.done) == ([], [b"half"], ["closed"])


def test_an_error_is_answered_after_the_rest_was_read(world: World) -> None:
    sink = FakeSink(fails_at=1)
    sent, left = asked(world, sink, chunks([b"x" * PIECE_BYTES] * 9))
    assert left == []
    assert (body_of(sent), sink.done) == (b"no", ["refused", "closed"])


def test_a_bug_lets_go_of_the_sink_too(world: World) -> None:
    sink = FakeSink(fails_at=0, error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        asked(world, sink, chunks([b"x"]))
    assert sink.done == ["closed"]


def test_a_server_that_ends_breaks_off(world: World) -> None:
    world.closing.set()
    sink = FakeSink()
    sent, _ = asked(world, sink, chunks([b"x" * PIECE_BYTES] * 3))
    assert (len(sink.pieces), sink.done) == (1, ["refused", "closed"])
    assert b"shutting down" in body_of(sent)

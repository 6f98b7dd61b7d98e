"""Routes whose body is written away while it arrives: of any size, never more of it in memory than a piece.

A handler opens a `BodySink` for the request, in a thread; the body is poured into that, piece by piece, and it answers.
No thread waits for a slow client.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kastor.api.http.endpoint import (
    ApiRequest,
    RouteFactory,
    parse_query,
    request_base_url,
    validate_query,
)
from kastor.api.http.request_body import RequestBody
from kastor.domain.errors import InvalidArgument, KastorError, Unavailable
from kastor.domain.permission import Principal

PIECE_BYTES = 64 * 1024
MAX_WRITING_THREADS = 32
NOBODY = Principal("")
"""Who calls where the URL itself is the credential."""


class BodySink(Protocol):
    """Where a request's body goes. All but `close` may raise domain errors."""

    def write(self, piece: bytes) -> None:
        """Take in the next piece."""

    def finish(self) -> Response:
        """The answer; the body was whole."""

    def refused(self, error: KastorError) -> Response:
        """The answer when `write` or `finish` has failed; raises what it has no words of its own for."""

    def close(self) -> None:
        """Let go of everything; called once in any case, also when the client has gone away in the middle."""


Opener = Callable[[ApiRequest], BodySink]


class StreamedBodyRoutes:
    """Makes routes that receive bodies."""

    def __init__(self, endpoints: RouteFactory) -> None:
        self.endpoints = endpoints
        self.limiter = anyio.CapacityLimiter(MAX_WRITING_THREADS)

    def route(
        self, path: str, methods: Collection[str], opener: Opener, *, query: Collection[str] = (), keyless: bool = False
    ) -> Route:
        """A route; a `keyless` one asks for no credentials, as its URL is one."""
        return Route(path, _Endpoint(self, opener, frozenset(query), keyless=keyless), methods=list(methods))


class _Gone(Exception):
    """The client has gone away; there is nobody to answer."""


class _Endpoint:
    """One opener behind HTTP, as an ASGI application."""

    def __init__(self, shared: StreamedBodyRoutes, opener: Opener, query: frozenset[str], *, keyless: bool) -> None:
        self._shared = shared
        self._opener = opener
        self._query = query
        self._keyless = keyless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers, query = Headers(scope=scope), parse_query(scope["query_string"])
        principal = await self._principal(headers, query)
        validate_query(query, self._query)
        stopped = self._shared.endpoints.stopped(threading.Event())
        call = ApiRequest(principal, scope["path_params"], query, b"", stopped, headers, request_base_url(scope))
        body = RequestBody(receive)
        try:
            _check_encoding(headers)
            response = await self._received(call, body)
        except _Gone:
            return
        except KastorError:
            await body.drain()
            raise
        await response(scope, receive, send)

    async def _principal(self, headers: Headers, query: Mapping[str, str]) -> Principal:
        return NOBODY if self._keyless else await self._shared.endpoints.principal(headers, query)

    async def _received(self, call: ApiRequest, body: RequestBody) -> Response:
        limiter = self._shared.limiter
        sink = await anyio.to_thread.run_sync(self._opener, call, limiter=limiter)
        try:
            while piece := await _next_piece(body):
                await anyio.to_thread.run_sync(sink.write, piece, limiter=limiter)
                if call.stopped():
                    raise Unavailable("The server is shutting down. Try again.")
            if body.disconnected:
                raise _Gone
            return await anyio.to_thread.run_sync(sink.finish, limiter=limiter)
        except KastorError as error:
            await body.drain()
            return await anyio.to_thread.run_sync(sink.refused, error, limiter=limiter)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(sink.close, limiter=limiter)


def _check_encoding(headers: Headers) -> None:
    """Files are kept byte for byte as they are sent, so they are not decoded."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidArgument(f"Content-Encoding {encoding[:40]!r} is not offered for uploads; send the file as it is.")


async def _next_piece(body: RequestBody) -> bytes:
    """The next piece; empty at the end, whole or not."""
    pending = bytearray()
    while body.is_open and len(pending) < PIECE_BYTES:
        pending += await body.read()
    return bytes(pending)

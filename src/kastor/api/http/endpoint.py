"""What every route shares: credentials, query parameters, the body under its limit, JSON out, and streams.

A handler is a plain function `Call -> Reply` that runs in a thread; it knows no request objects. What routes there are
is the dialects' business.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import wraps
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
import structlog
from pydantic.alias_generators import to_snake
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kastor.api.http.content_encoding import BodyDecoder
from kastor.api.http.protojson import ProtoModel, dump_json
from kastor.api.http.request_body import RequestBody
from kastor.api.http.response_cache import ResponseCache, Version
from kastor.api.http.streaming import JSON_TYPE, Framing, JsonArrayFraming, SseFraming
from kastor.api.http.wire_names import WireNames
from kastor.domain.errors import (
    FieldViolation,
    Internal,
    InvalidArgument,
    KastorError,
    Unavailable,
)
from kastor.domain.permission import Principal
from kastor.security.auth import Authenticator

IGNORED = frozenset({"key", "access_token", "oauth_token", "alt", "$alt", "pretty_print", "$pretty_print"}) | frozenset(
    {"quota_user", "$.xgafv", "upload_protocol", "upload_type"}
)
"""Parameters of every method: read here, or without a meaning for this server."""
GLUED = frozenset({"page_token", "page_size"})
CORE_NAMES = WireNames()
MAX_GENERATING_THREADS = 128
MAX_AUTHENTICATING_THREADS = 16  # of keys, and as many of tokens, whose provider may be slow


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request, as handlers see it."""

    principal: Principal
    path: Mapping[str, str]  # the variable segments
    query: Mapping[str, str]  # names in snake_case
    body: bytes
    stopped: Callable[[], bool]  # whether a long answer is to be given up: the caller is gone, or the server ends
    headers: Mapping[str, str] = field(default_factory=Headers)
    base_url: str = ""  # by which the caller reached this server

    @property
    def sse(self) -> bool:
        """Whether the answer is wanted as server-sent events."""
        return self.query.get("alt") == "sse"

    @property
    def pretty(self) -> bool:
        """Whether the answer is wanted with line breaks, as it is by default."""
        said = self.query.get("pretty_print", self.query.get("$pretty_print", "true"))
        return said.lower() not in ("false", "0")


@dataclass(frozen=True, slots=True)
class StreamingReply:
    """An answer in messages; how they are framed is the edge's business.

    `first` is there already, so what goes wrong before it is an ordinary error; `None` is an empty answer.
    """

    first: Mapping[str, object] | None
    rest: Generator[Mapping[str, object], None, None]


@dataclass(frozen=True, slots=True)
class ListSchema:
    """A page of a list: the items' field, and what they are."""

    field: str
    item: type[ProtoModel]


@dataclass(frozen=True, slots=True)
class MethodSchema:
    """A method as the description of the API has it: the message it takes, if any, and the one it gives."""

    takes: type[ProtoModel] | None = None
    gives: type[ProtoModel] | ListSchema | None = None  # `None` is an empty object


Reply = Mapping[str, object] | Response | StreamingReply
Handler = Callable[[ApiRequest], Reply]


def json_response(value: object, *, status: int = 200, pretty: bool = True) -> Response:
    """JSON as Google's front end sends it."""
    return Response(
        dump_json(value, pretty=pretty), status_code=status, media_type=None, headers={"content-type": JSON_TYPE}
    )


class RouteFactory:
    """Makes routes of handlers."""

    def __init__(
        self,
        authenticator: Authenticator,
        max_body_bytes: int,
        closing: threading.Event,
        version: Version = lambda: None,
        names: WireNames = CORE_NAMES,
    ) -> None:
        """`version`: another number after any write to what is stored; `names`: those of the dialect."""
        self._names = names
        self._memory = ResponseCache(version)
        self._authenticator = authenticator
        self._max_body_bytes = max_body_bytes
        self._closing = closing
        self._generating = anyio.CapacityLimiter(MAX_GENERATING_THREADS)
        self._checking_keys = anyio.CapacityLimiter(MAX_AUTHENTICATING_THREADS)
        self._checking_tokens = anyio.CapacityLimiter(MAX_AUTHENTICATING_THREADS)

    def route(
        self,
        path: str,
        method: str,
        handler: Handler,
        *,
        query: Iterable[str] = (),
        alts: Sequence[str] = ("json",),
        takes: type[ProtoModel] | None = None,
        gives: type[ProtoModel] | ListSchema | None = None,
    ) -> Route:
        """A route whose answer is quick; `query` are the parameters it knows, in snake_case, `alts` its formats."""
        said = MethodSchema(takes, gives)
        return Route(
            path, Endpoint(self, self.translated(handler), frozenset(query), said, alts=alts), methods=[method]
        )

    def polled(self, path: str, handler: Handler, *, gives: type[ProtoModel]) -> Route:
        """A GET route that clients ask without delay: its answer is given again while nothing was written."""
        said = MethodSchema(gives=gives)
        return Route(
            path, Endpoint(self, self.translated(handler), frozenset(), said, memory=self._memory), methods=["GET"]
        )

    def generating(
        self, path: str, handler: Handler, *, takes: type[ProtoModel], gives: type[ProtoModel], sse: bool = False
    ) -> Route:
        """A POST route whose answer takes its time, and is given up when the caller goes away."""
        alts, said = ("json", "sse") if sse else ("json",), MethodSchema(takes, gives)
        translated = self.translated(handler)
        endpoint = Endpoint(self, translated, frozenset(), said, alts=alts, limiter=self._generating)
        return Route(path, endpoint, methods=["POST"])

    def with_names(self, names: WireNames) -> "RouteFactory":
        """The same for another dialect: its routes share limits, threads and remembered answers with these."""
        other = copy(self)
        other._names = names
        return other

    def translated(self, handler: Handler) -> Handler:
        """The handler, whose errors are put into the words of the dialect."""
        names = self._names

        @names.translated
        @wraps(handler)
        def answer(call: ApiRequest) -> Reply:
            reply = handler(call)
            if isinstance(reply, StreamingReply):
                return replace(reply, rest=names.translated_stream(reply.rest))
            return reply

        return answer

    def caller(self, headers: Headers, query: Mapping[str, str]) -> Principal:
        """Who calls. Blocks, and raises, as `Authenticator.principal` does."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else None
        return self._authenticator.principal(
            api_key=headers.get("x-goog-api-key") or query.get("key"),
            bearer=bearer or query.get("access_token") or query.get("oauth_token"),
        )

    async def principal(self, headers: Headers, query: Mapping[str, str]) -> Principal:
        """Who calls. Raises what `Authenticator.principal` does."""
        bears = "authorization" in headers or "access_token" in query or "oauth_token" in query
        limiter = self._checking_tokens if bears else self._checking_keys
        return await anyio.to_thread.run_sync(self.caller, headers, query, limiter=limiter)

    async def body(self, headers: Headers, receive: Receive) -> bytes:
        """The body, decoded, never more of it in memory than the limit.

        Raises:
            InvalidArgument: it is too large, or encoded in a way that is not offered.

        """
        announced = headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._max_body_bytes):
            if headers.get("expect", "").lower() != "100-continue":  # else the client has sent nothing yet
                await RequestBody(receive).drain()
            raise self.too_large()
        body = RequestBody(receive)
        try:
            return await self._decoded(headers.get("content-encoding", ""), body)
        except InvalidArgument:
            await body.drain()
            raise

    async def _decoded(self, encoding: str, body: RequestBody) -> bytes:
        decoder = BodyDecoder(encoding, self._max_body_bytes)
        decoded: list[bytes] = []
        received = size = 0
        while body.is_open:
            piece = await body.read()
            # a piece of 64 KB may hold 64 MB, for which nobody else is to wait
            decoded.append(piece if decoder.is_plain else await anyio.to_thread.run_sync(decoder.decode, piece))
            received += len(piece)
            size += len(decoded[-1])
            if max(received, size) > self._max_body_bytes:
                raise self.too_large()
        decoder.end()
        return b"".join(decoded)

    @property
    def max_body_bytes(self) -> int:
        """How large a request may be."""
        return self._max_body_bytes

    def too_large(self) -> InvalidArgument:
        """What a larger request is told."""
        return InvalidArgument(f"Request payload size exceeds the limit: {self._max_body_bytes} bytes.")

    def stopped(self, gone: threading.Event) -> Callable[[], bool]:
        """Whether to give up on an answer: its caller is gone, or the server ends."""
        return lambda: gone.is_set() or self._closing.is_set()


class Endpoint:
    """One handler behind HTTP, as an ASGI application. Domain errors pass through it to the application's handlers."""

    def __init__(
        self,
        shared: RouteFactory,
        handler: Handler,
        query: frozenset[str],
        described: MethodSchema,
        *,
        alts: Sequence[str] = ("json",),
        limiter: anyio.CapacityLimiter | None = None,
        memory: ResponseCache | None = None,
    ) -> None:
        self._shared = shared
        self._handler = handler
        self.query = query
        self.described = described
        self.alts = alts
        self._limiter = limiter
        self._memory = memory

    @property
    def polled(self) -> bool:
        """Whether clients ask it without delay."""
        return self._memory is not None

    @property
    def handler(self) -> Handler:
        """What answers a call whose query was checked."""
        return self._handler

    def check(self, query: Mapping[str, str]) -> None:
        """Nothing, if the method knows these parameters.

        Raises:
            InvalidArgument: it does not.

        """
        validate_query(query, self.query, self.alts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._memory is None:
            await self._call(scope, receive, send)
        else:
            await self._memory.answer(self._call, scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        query = parse_query(scope["query_string"])
        principal = await self._shared.principal(headers, query)
        self.check(query)
        body = await self._shared.body(headers, receive)
        gone = threading.Event()
        stopped = self._shared.stopped(gone)
        call = ApiRequest(principal, scope["path_params"], query, body, stopped, headers, request_base_url(scope))
        if self._limiter is None:
            await self._answer(call, scope, receive, send)
            return
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, receive, gone)
            try:
                await self._answer(call, scope, receive, send)
            except KastorError as error:  # alone, not in the group's bundle
                raised: KastorError | None = error
            else:
                raised = None
            group.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def _answer(self, call: ApiRequest, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await anyio.to_thread.run_sync(self._handler, call, limiter=self._limiter)
        if isinstance(reply, StreamingReply):
            await self._send_stream(reply, call, send)
            return
        response = reply if isinstance(reply, Response) else json_response(reply, pretty=call.pretty)
        await response(scope, receive, send)

    async def _send_stream(self, stream: StreamingReply, call: ApiRequest, send: Send) -> None:
        framing = SseFraming() if call.sse else JsonArrayFraming(pretty=call.pretty)
        headers = [(b"content-type", framing.media_type.encode("ascii")), (b"cache-control", b"no-cache")]
        pieces = _pieces_of(stream, framing, call.stopped)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=self._limiter)) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(pieces.close, limiter=self._limiter)


def _pieces_of(stream: StreamingReply, framing: Framing, stopped: Callable[[], bool]) -> Generator[bytes, None, None]:
    """The stream's messages, framed; the status is sent by now, so what goes wrong becomes a last piece."""
    try:
        if stream.first is not None:
            yield framing.message(stream.first)
        for message in stream.rest:
            yield framing.message(message)
            if stopped():
                raise Unavailable("The server is shutting down. Try again.")
        yield framing.end()
    except KastorError as error:
        yield framing.error(error)
    except Exception:  # noqa: BLE001  # the server's loop: one answer's bug is told and logged, and ends there
        structlog.get_logger().exception("stream_failed")
        yield framing.error(Internal("Internal error in mid-stream; the server's log says more."))
    finally:
        stream.rest.close()


def parse_query(query_string: bytes) -> dict[str, str]:
    """The query's parameters by snake_case name; of several values the last.

    Google's own script glues `?key=…` onto the page token: what follows a `?` in a value is read as more parameters.

    >>> parse_query(b"pageSize=5&page_token=abc?key=K")
    {'page_size': '5', 'key': 'K', 'page_token': 'abc'}
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        snake = to_snake(name)
        if snake in GLUED and "?" in value:
            value, _, glued = value.partition("?")
            found.update({to_snake(n): v for n, v in parse_qsl(glued, keep_blank_values=True)})
        found[snake] = value
    return found


def request_base_url(scope: Scope) -> str:
    """The URL of this server as the caller wrote it; the scheme is the connection's, or a trusted proxy's word."""
    host = Headers(scope=scope).get("host")
    if not host:  # only in HTTP/1.0
        address, port = scope.get("server") or ("localhost", None)
        host = address if port is None else f"{address}:{port}"
    return f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"


def validate_query(query: Mapping[str, str], known: frozenset[str], alts: Sequence[str] = ("json",)) -> None:
    """Nothing, if a method that knows these parameters and formats may be called so.

    Raises:
        InvalidArgument: it may not; names the parameter.

    """
    alt = query.get("alt", query.get("$alt", "json")).partition(";")[0] or "json"
    if alt not in alts:
        raise InvalidArgument.of("alt", f"{alt!r} is not offered here; use {' or '.join(alts)}")
    for name in query.keys() - IGNORED - known:
        raise InvalidArgument(
            f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.',
            violations=(FieldViolation(name, "is not a query parameter of this method"),),
        )


async def _watch(receive: Receive, gone: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()

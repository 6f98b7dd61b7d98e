"""The gRPC edge: a call becomes the HTTP method that it is, goes to the same handler, and its JSON becomes the answer.

One core, two edges: credentials, query names, bodies, limits and errors are judged where HTTP judges them. Here are
only messages, statuses and streams. Needs the extra `grpc`; imported only by a server that speaks gRPC.
"""

import importlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import grpc
import orjson
import structlog
from google.longrunning import operations_pb2  # noqa: F401  # registers its messages
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  # registers what a status' details are
from starlette.datastructures import Headers
from starlette.routing import BaseRoute

from kastor.api.grpc.transcoding import GENERATION, BoundRpcMethod, Json, bind_methods
from kastor.api.http.endpoint import ApiRequest, Endpoint, Reply, RouteFactory, StreamingReply
from kastor.api.http.errors import error_body, public_message
from kastor.api.http.observability import Metrics
from kastor.domain.errors import Internal, InvalidArgument, KastorError, Unavailable, Unimplemented

CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
READS = ("Get", "List")  # calls that change nothing, as polling clients make them
MAX_MESSAGE_BYTES = 3000  # percent-encoded: a status travels in trailers, of which clients take 8 KiB in all
MAX_DETAILS_BYTES = 3000  # 4000 in base64
PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what gRPC does not encode
MAX_REMEMBERED = 8  # answers of a method
MAX_REMEMBERED_BYTES = 1024 * 1024  # of one answer


class MessageCodec:
    """The message classes of one method."""

    def __init__(self, method: BoundRpcMethod) -> None:
        pool = descriptor_pool.Default()
        request, answer = (pool.FindMessageTypeByName(name) for name in method.messages)
        self._request: type[Message] = message_factory.GetMessageClass(request)
        self._answer: type[Message] = message_factory.GetMessageClass(answer)
        self._lock = threading.Lock()
        self._remembered: OrderedDict[object, tuple[bytes, bytes]] = OrderedDict()  # name -> JSON and message

    def request(self, data: bytes) -> Json:
        """The request as proto3 JSON: what is set and only that, so a temperature of 0 stays set.

        Raises:
            InvalidArgument: it cannot be read, or holds what JSON cannot say.

        """
        try:
            value: Json = json_format.MessageToDict(self._request.FromString(data))
        except (DecodeError, json_format.Error, ValueError) as error:
            raise InvalidArgument(f"The request is no {self._request.DESCRIPTOR.full_name}: {error}.") from None
        return value

    def answer(self, value: Mapping[str, object], *, cut: Callable[[str], None]) -> bytes:
        """The answer's bytes. What the installed protos do not know is left out, and `cut` is told of it.

        Clients poll an operation as fast as they are answered, and one of 375 snapshots takes 24 ms to make: the answer
        to the same JSON about the same resource is given again.
        """
        name, text = value.get("name"), orjson.dumps(value)
        with self._lock:
            known, data = self._remembered.get(name, (b"", b""))
        if name is not None and known == text:
            return data
        data = self._made(text, cut)
        if name is not None and len(text) <= MAX_REMEMBERED_BYTES:
            with self._lock:
                self._remembered[name] = (text, data)
                self._remembered.move_to_end(name)
                while len(self._remembered) > MAX_REMEMBERED:
                    self._remembered.popitem(last=False)
        return data

    def _made(self, text: bytes, cut: Callable[[str], None]) -> bytes:
        value, made = orjson.loads(text), self._answer()  # read again, as older protobufs take no tuples
        try:
            json_format.ParseDict(value, made)
        except json_format.ParseError as error:
            cut(str(error))
            made.Clear()
            json_format.ParseDict(value, made, ignore_unknown_fields=True)
        data: bytes = made.SerializeToString()
        return data


class GrpcService:
    """All the methods that have routes, under every version whose messages are installed.

    It is a `grpc.GenericRpcHandler` by its one method.
    """

    def __init__(
        self,
        routes: Iterable[BaseRoute],
        endpoints: RouteFactory,
        metrics: Metrics,
        *,
        max_generating: int,
        http_url: str,
    ) -> None:
        """`http_url` is where the same server speaks HTTP, which answers may name."""
        self._methods = bind_methods(routes)
        self._endpoints = endpoints
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._lock = threading.Lock()
        self._messages: dict[str, MessageCodec | None] = {}
        self._told: set[str] = set()
        self._http_url = http_url
        self._max_generating = max_generating
        self._places = threading.BoundedSemaphore(max_generating)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """How the method is answered; `None` is UNIMPLEMENTED."""
        method = self._methods.get(details.method)
        messages = self._messages_of(method) if method is not None else None
        if method is None or messages is None:
            return None
        if method.rpc.streams:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method, messages))
        return grpc.unary_unary_rpc_method_handler(self._single(method, messages))

    def _messages_of(self, method: BoundRpcMethod) -> MessageCodec | None:
        with self._lock:
            if method.full_name not in self._messages:
                importlib.import_module(f"google.ai.generativelanguage_{method.version}.types")
                try:
                    self._messages[method.full_name] = MessageCodec(method)
                except KeyError:  # v1 has no tuned models
                    self._messages[method.full_name] = None
            return self._messages[method.full_name]

    def _single(self, method: BoundRpcMethod, messages: MessageCodec) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            with self._observed(method, context), self._place(method):
                reply = self._asked(method, messages, data, context).reply()
                if isinstance(reply, Mapping):
                    return messages.answer(reply, cut=self._cut)
                raise Unimplemented("This method's answer cannot be told over gRPC; use HTTP.")

        return answer

    def _streaming(
        self, method: BoundRpcMethod, messages: MessageCodec
    ) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        def answer(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._observed(method, context), self._place(method):
                asked = self._asked(method, messages, data, context)
                reply = asked.reply()
                if not isinstance(reply, StreamingReply):
                    raise Unimplemented("This method does not stream over gRPC; use HTTP.")
                for value in _values(reply, asked.call.stopped):
                    yield messages.answer(value, cut=self._cut)

        return answer

    @contextmanager
    def _place(self, method: BoundRpcMethod) -> Iterator[None]:
        """A place among those that generate, so that threads are left for all else.

        Raises:
            Unavailable: there is none.

        """
        if method.rpc.service != GENERATION:
            yield
            return
        if not self._places.acquire(blocking=False):
            raise Unavailable(f"{self._max_generating} answers are under way, which is the most. Try again.")
        try:
            yield
        finally:
            self._places.release()

    def _asked(
        self, method: BoundRpcMethod, messages: MessageCodec, data: bytes, context: grpc.ServicerContext
    ) -> "_Asked":
        """The call as handlers see it; checked in the order in which HTTP does."""
        headers = Headers(raw=[_header(name, value) for name, value in context.invocation_metadata()])
        principal = self._endpoints.caller(headers, {})
        if len(data) > self._endpoints.max_body_bytes:
            raise self._endpoints.too_large()
        found = method.transcoded(messages.request(data))
        found.endpoint.check(found.query)
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        stopped = self._endpoints.stopped(gone)
        call = ApiRequest(principal, found.path, found.query, found.body, stopped, headers, self._http_url)
        return _Asked(found.endpoint, call)

    @contextmanager
    def _observed(self, method: BoundRpcMethod, context: grpc.ServicerContext) -> Iterator[None]:
        """Gives the call an id and its status, and notes it. What goes wrong ends it here, as a status."""
        request_id, began = secrets.token_hex(8), time.perf_counter()
        context.send_initial_metadata((("x-request-id", request_id),))
        code, error = grpc.StatusCode.CANCELLED, None  # a stream that nobody reads on ends at its yield
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                yield
                code = grpc.StatusCode.OK
            except KastorError as refused:
                error = refused
            except Exception:  # noqa: BLE001  # the server's loop: a bug costs one answer, not the server
                self._log.exception("request_failed", method="gRPC", path=method.full_name)
                error = Internal(f"Internal error. The server's log has the details under request_id {request_id}.")
            finally:
                code = CODES[error.code] if error is not None else code
                self._note(method, code, time.perf_counter() - began)
        if error is not None:
            context.set_trailing_metadata(status_details(error))
            context.abort(code, status_message(error))

    def _note(self, method: BoundRpcMethod, code: grpc.StatusCode, elapsed_s: float) -> None:
        self._metrics.called(method.full_name, code.name, elapsed_s)
        quiet = code is grpc.StatusCode.OK and method.rpc.name.startswith(READS)
        say = self._log.warning if code is grpc.StatusCode.INTERNAL else self._log.debug if quiet else self._log.info
        say("request", method="gRPC", path=method.full_name, status=code.name, ms=round(elapsed_s * 1000, 1))

    def _cut(self, what: str) -> None:
        """Log, once for each field, that the installed protos do not know it."""
        what = what[:MAX_MESSAGE_BYTES]
        with self._lock:
            new = what not in self._told
            self._told.add(what)
        if new:
            self._log.info("grpc_answer_cut", error=what)


@dataclass(frozen=True, slots=True)
class _Asked:
    endpoint: Endpoint
    call: ApiRequest

    def reply(self) -> Reply:
        return self.endpoint.handler(self.call)


def _values(stream: StreamingReply, stopped: Callable[[], bool]) -> Iterator[Mapping[str, object]]:
    """The stream's messages, until somebody stops it."""
    try:
        if stream.first is not None:
            yield stream.first
        for value in stream.rest:
            yield value
            if stopped():
                raise Unavailable("The server is shutting down. Try again.")
    finally:
        stream.rest.close()


def status_details(error: KastorError) -> tuple[tuple[str, bytes], ...]:
    """The trailer with the whole `google.rpc.Status`, whose details HTTP's body has too; nothing if it is too large."""
    body = error_body(error)["error"]
    details = body.get("details") if isinstance(body, dict) else None
    if not details:
        return ()
    value = {"code": int(error.code), "message": status_message(error), "details": details}
    packed = json_format.ParseDict(value, status_pb2.Status()).SerializeToString()
    return (("grpc-status-details-bin", packed),) if len(packed) <= MAX_DETAILS_BYTES else ()


def status_message(error: KastorError) -> str:
    """The error's message, as much of it as a trailer holds."""
    message = whole = public_message(error.code, error.message)
    while (size := len(quote(message, safe=PLAIN))) > MAX_MESSAGE_BYTES:
        message = message[: len(message) * MAX_MESSAGE_BYTES // size]
    return message if message == whole else message + "…"


def _header(name: str, value: str | bytes) -> tuple[bytes, bytes]:
    return name.encode("ascii"), value if isinstance(value, bytes) else value.encode("latin-1", "replace")

"""What an operator sees of the HTTP side: request log, request ids, metrics, `/healthz`. Keys never get here."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kastor import __version__
from kastor.api.http.endpoint import RouteFactory, json_response, parse_query
from kastor.domain.errors import PermissionDenied
from kastor.domain.job import State

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
REQUEST_ID = "kastor.request_id"  # where the scope carries it
READS = frozenset({"GET", "HEAD"})
"""What changes nothing: clients that wait for a job ask so several times a second. Logged at debug unless it fails."""


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Counter(
            "kastor_http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self._latency = Histogram(
            "kastor_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ("route", "method"),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._calls = Counter("kastor_grpc_calls", "gRPC calls answered.", ("method", "code"), registry=registry)
        self._call_latency = Histogram(
            "kastor_grpc_call_seconds",
            "Time from a call's message to its answer's last.",
            ("method",),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._prompt_tokens = Counter("kastor_prompt_tokens", "Tokens of prompts answered.", registry=registry)
        self._output_tokens = Counter("kastor_generated_tokens", "Tokens generated.", registry=registry)

    def watch_jobs(self, counts: Callable[[], Mapping[State, int]], steps: Callable[[], int]) -> None:
        """Report the job table, read at each scrape."""
        self._registry.register(_Jobs(counts, steps))

    def answered(self, route: str, method: str, status: int, elapsed_s: float) -> None:
        """Count a request."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route, method).observe(elapsed_s)

    def called(self, method: str, code: str, elapsed_s: float) -> None:
        """Count a gRPC call."""
        self._calls.labels(method, code).inc()
        self._call_latency.labels(method).observe(elapsed_s)

    def generated(self, prompt_tokens: int, output_tokens: int) -> None:
        """Count an answer's tokens."""
        self._prompt_tokens.inc(prompt_tokens)
        self._output_tokens.inc(output_tokens)

    def scrape(self) -> Response:
        """All of them in Prometheus' text format; reads the job table."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _Jobs(Collector):
    def __init__(self, counts: Callable[[], Mapping[State, int]], steps: Callable[[], int]) -> None:
        self._counts = counts
        self._steps = steps

    def collect(self) -> Iterator[Metric]:
        """The job table as metrics."""
        jobs = GaugeMetricFamily("kastor_jobs", "Jobs by state.", labels=("state",))
        for state, number in self._counts().items():
            jobs.add_metric((state.value,), number)
        yield jobs
        # a gauge, as it falls when a job is deleted
        yield GaugeMetricFamily("kastor_steps", "Optimizer steps done by all kept jobs.", value=self._steps())

    def describe(self) -> Iterator[Metric]:
        """Nothing: asking the database before the first scrape is not needed."""
        return iter(())


def metrics_route(metrics: Metrics, endpoints: RouteFactory, *, public: bool) -> Route:
    """`GET /metrics`: for operators, by their key or token as anywhere else; if `public`, for everybody."""

    async def answer(request: Request) -> Response:
        if not public:
            principal = await endpoints.principal(request.headers, parse_query(request.scope["query_string"]))
            if not principal.operator:
                raise PermissionDenied("Metrics are for operators: use an operator's key, or set KASTOR_METRICS=open.")
        return await run_in_threadpool(metrics.scrape)

    return Route("/metrics", answer)


def healthz(instance: str, faults: Callable[[], Sequence[str]]) -> Callable[[Request], Awaitable[Response]]:
    """`GET /healthz` of the server that announced itself as `instance`.

    `faults` says in a sentence each what does not answer just now, without waiting: neither does this.
    """

    async def answer(request: Request) -> Response:
        found = list(faults())
        told = {"status": "degraded" if found else "ok", "version": __version__, "instance": instance}
        return json_response(told | ({"faults": found} if found else {}))

    return answer


class RequestLogMiddleware:
    """Middleware: gives each request an id, logs and counts it, and logs what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.perf_counter(), 0
        scope[REQUEST_ID] = request_id

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, noted)
            except Exception:  # noqa: BLE001  # the server's loop: a bug costs one answer, not the server
                self._log.exception("request_failed", method=scope["method"], path=scope["path"])
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, elapsed_s: float) -> None:
        route = scope.get("route")
        template = str(route.path) if route is not None else "unknown"
        self._metrics.answered(template, scope["method"], status, elapsed_s)
        quiet = status < 400 and scope["method"] in READS
        say = self._log.warning if status >= 500 else self._log.debug if quiet else self._log.info
        say("request", method=scope["method"], path=scope["path"], status=status, ms=round(elapsed_s * 1000, 1))

"""The HTTP application: all dialects over one service. What it is made of is handed in by the composition root."""

import re
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kastor.api.gemini.discovery import PATH as DISCOVERY
from kastor.api.gemini.discovery import DiscoveryEndpoint
from kastor.api.gemini.files import FileRoutes
from kastor.api.gemini.permissions import PermissionRoutes
from kastor.api.gemini.routes import GeminiRoutes
from kastor.api.gemini.uploads import UploadRoutes
from kastor.api.gemini.wire_names import GEMINI_NAMES
from kastor.api.google.generate import GenerateRoutes
from kastor.api.google.methods import VERSIONS, MethodRoutes
from kastor.api.http.browser_guard import LoopbackOnlyMiddleware, with_cors
from kastor.api.http.endpoint import Endpoint, RouteFactory, json_response
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.api.http.observability import REQUEST_ID, Metrics, RequestLogMiddleware, healthz, metrics_route
from kastor.api.http.openapi import PATH as OPENAPI
from kastor.api.http.openapi import OpenApiEndpoint
from kastor.api.kastor.jobs import AdminRoutes
from kastor.api.kastor.wire_names import KASTOR_NAMES
from kastor.domain.errors import Internal, KastorError, NotFound, Unimplemented
from kastor.domain.request_limits import Limits
from kastor.security.auth import Authenticator
from kastor.services.datasets import DatasetService
from kastor.services.files import FileService
from kastor.services.generation import GenerationService
from kastor.services.sharing import SharingService
from kastor.services.tuning import TuningService

METHOD = re.compile(r"/(?P<version>[^/]+)/(?P<name>[^:]*[^:/]):(?P<verb>[^/:]+)")
"""A path that names a method of a resource."""
VERTEX_PATH = re.compile(r"/v[^/]+/(projects|publishers)/")
HUB_PATH = re.compile(
    r"/v[^/]+/(?:models/(?P<model>{0})(?::\w+)?|(?!(?:projects|publishers|tunedModels)/)(?P<asked>{0}):{1})".format(
        r"[A-Za-z0-9][\w.-]*/[\w.-]+", "(?:generateContent|streamGenerateContent|countTokens)"
    )
)
"""A path with the name of a repository of a model hub in the place of a base model's: behind `models/`, or asked."""
MAX_SHOWN_CHARS = 200
HERE = (
    "This is Kastor: it tunes open models through the Gemini API's tunedModels. POST /v1beta/tunedModels tunes one, "
    "GET /v1beta/models lists the bases, /openapi.json describes every method; there are no pages for a browser."
)
VERTEX = (
    "That is a path of Vertex AI; this server speaks the Gemini API. With google-genai, make the client with api_key "
    "and without vertexai=True; tuning is POST /v1beta/tunedModels, and /openapi.json describes every method."
)


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases behind the routes."""

    tuning: TuningService
    generation: GenerationService
    sharing: SharingService
    files: FileService
    datasets: DatasetService


@dataclass(frozen=True, slots=True)
class Application:
    """The HTTP application, with what another edge needs to answer by the same handlers."""

    routes: tuple[BaseRoute, ...]
    endpoints: RouteFactory
    asgi: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request over HTTP."""
        await self.asgi(scope, receive, send)


def make_app(
    services: Services,
    authenticator: Authenticator,
    metrics: Metrics,
    closing: threading.Event,
    *,
    limits: Limits,
    instance: str = "",
    cors_origins: Collection[str] = (),
    public_metrics: bool = False,
    faults: Callable[[], Sequence[str]] = tuple,
) -> Application:
    """The application; `closing`, once set, ends the streams under way, and requests keep to `limits`.

    `instance` is what `/healthz` calls it, and `faults` what it tells of parts that do not answer.
    """
    tuning, generation = services.tuning, services.generation
    metrics.watch_jobs(tuning.job_counts, tuning.total_steps)
    shared = RouteFactory(authenticator, limits.max_body_bytes, closing, tuning.version)
    endpoints = shared.with_names(GEMINI_NAMES)
    gemini, generate = GeminiRoutes(tuning, generation, limits), GenerateRoutes(generation, metrics, limits)
    admin = AdminRoutes(tuning, services.datasets, limits)
    permissions, files = PermissionRoutes(services.sharing), FileRoutes(services.files)
    routes: list[BaseRoute] = [Route("/healthz", healthz(instance, faults))]
    routes.append(metrics_route(metrics, endpoints, public=public_metrics))
    for version in VERSIONS:
        methods = MethodRoutes(endpoints, version)
        for part in (generate, gemini, permissions, files):
            routes += part.routes(methods)
    routes += UploadRoutes(services.files).routes(endpoints, VERSIONS)
    routes.append(Route(DISCOVERY, DiscoveryEndpoint(services.files.max_file_bytes).answer))
    routes += admin.routes(shared.with_names(KASTOR_NAMES))
    routes.append(Route(OPENAPI, OpenApiEndpoint(routes).answer))
    routes.sort(key=lambda route: not _polled(route))  # the router tries one after the other: these come first
    app = Starlette(
        routes=routes,
        exception_handlers={
            KastorError: _refused,
            HTTPException: partial(_unrouted, generation.base_model),
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    guarded = LoopbackOnlyMiddleware(app, cors_origins) if authenticator.open else app
    return Application(tuple(routes), endpoints, RequestLogMiddleware(with_cors(guarded, cors_origins), metrics))


def _polled(route: BaseRoute) -> bool:
    return isinstance(route, Route) and isinstance(route.endpoint, Endpoint) and route.endpoint.polled


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, KastorError):  # what Starlette's signature allows, and its table does not
        raise error
    return json_response(error_body(error), status=HTTP_STATUS[error.code])


def _unrouted(base_model: Callable[[str], object], request: Request, error: Exception) -> Response:
    """What has no route: in Google's shape and with its statuses, which know no 405; in plain text for a browser."""
    if not isinstance(error, HTTPException):
        raise error
    method, path = request.method, request.url.path
    if method == "GET" and "text/html" in request.headers.get("accept", ""):
        headers = {"X-Content-Type-Options": "nosniff"}
        return PlainTextResponse(f"{HERE}\n", 200 if path == "/" else 404, headers=headers)
    found = METHOD.fullmatch(path) if error.status_code == 405 else None
    hub = HUB_PATH.fullmatch(path)
    if hub is not None:
        return _refused(request, _no_base(base_model, hub["model"] or hub["asked"]))
    if found is None:
        said = VERTEX if VERTEX_PATH.match(path) else HERE
        return _refused(request, NotFound(f"There is no {method} {path[:MAX_SHOWN_CHARS]} here. {said}"))
    name, verb = found["name"], found["verb"]
    if name.startswith("models/"):
        said = f"{name} is not found for API version {found['version']}, or is not supported for {verb}."
        return _refused(request, NotFound(f"{said} See supportedGenerationMethods in GET /v1beta/models."))
    return _refused(request, Unimplemented(f"The method {verb} is not offered by this server for {name}."))


def _no_base(base_model: Callable[[str], object], name: str) -> KastorError:
    """What the catalog says of a name that is none of its."""
    try:
        base_model(name)
    except KastorError as error:
        return error
    return NotFound(f"The base model {name} is asked by its own name; see GET /v1beta/models.")


def _bug(request: Request, error: Exception) -> Response:
    """What nobody caught. `Observed` logs it, as Starlette raises it again."""
    said = f"Internal error. The server's log has the details under request_id {request.scope.get(REQUEST_ID)}."
    return _refused(request, Internal(said))

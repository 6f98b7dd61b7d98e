"""What browsers may do: CORS as the operator set it, and on a server without keys no page but this machine's own."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from kastor.api.http.endpoint import json_response
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.domain.errors import KastorError, PermissionDenied
from kastor.security.origin import is_trusted_origin, names_loopback

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXPOSED = (
    "x-goog-upload-url",
    "x-goog-upload-status",
    "x-goog-upload-chunk-granularity",
    "x-goog-upload-control-url",
    "x-goog-upload-size-received",
    "location",
    "x-kastor-next-offset",
    "x-request-id",
)
"""Headers of answers that pages may read besides the simple ones."""
PREFLIGHT_S = 600


def with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """The application for pages of these origins too; keys come in headers or the query, so no cookies."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_S,
    )


class LoopbackOnlyMiddleware:
    """Middleware of a server without keys: browsers on this machine show pages of anybody, which must not use it."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            refused = self._refusal(Headers(scope=scope))
            if refused is not None:
                answer = json_response(error_body(refused), status=HTTP_STATUS[refused.code])
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> KastorError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not names_loopback(host):
            return PermissionDenied(
                f"This server has no keys and answers to 127.0.0.1 and localhost only, not to {host[:80]!r}. For other "
                "names make keys: kastor keys create --email you@example.com"
            )
        if origin is not None and origin not in self._origins and not is_trusted_origin(origin, host):
            return PermissionDenied(
                f"A page of {origin[:80]} may not use this server, which has no keys. Name it in cors_origins, or make "
                "keys: kastor keys create --email you@example.com"
            )
        return None

"""The Gemini API's gRPC methods as the HTTP methods that they are: which path, query and body a request message means.

Mirrors the `google.api.http` rules of `google.ai.generativelanguage` and `google.longrunning` (gemini-api.md §1). What
then answers is found among the routes of HTTP: a method is served over gRPC because it has a route, and a field is
checked where HTTP checks it. Knows no grpc and no protobuf: messages come as their proto3 JSON.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson
from pydantic.alias_generators import to_camel, to_snake
from starlette.routing import BaseRoute, Route

from kastor.api.google.methods import METHODS, VERSIONS, ApiMethod, HttpRule
from kastor.api.http.endpoint import Endpoint
from kastor.domain.errors import InvalidArgument

GEMINI = "google.ai.generativelanguage."
LONG_RUNNING = "google.longrunning"
OPERATIONS, GENERATION = "Operations", "GenerativeService"
SHARED_MESSAGES = {"Empty": "google.protobuf.Empty", "Operation": f"{LONG_RUNNING}.Operation"}

Json = dict[str, object]


@dataclass(frozen=True)
class RpcMethod:
    """One gRPC method."""

    service: str  # under the version's package, or in google.longrunning
    name: str
    request: str
    answer: str
    rules: tuple[HttpRule, ...]  # one for each form that the name may have
    body: str = ""  # the field that is the body; `*` for all that is not in the path
    streams: bool = False
    if_empty: str = ""  # the name, where an empty one means something

    @property
    def field(self) -> str:
        """The request's field that holds the name."""
        return self.rules[0].field


def rpc_methods(methods: Iterable[ApiMethod]) -> tuple[RpcMethod, ...]:
    """The gRPC methods of the table; rows with the same rpc become one, with a rule each."""
    rows: dict[str, list[ApiMethod]] = {}
    for method in methods:
        if method.rpc:
            rows.setdefault(method.rpc, []).append(method)
    return tuple(_rpc_method(rpc, forms) for rpc, forms in rows.items())


def _rpc_method(rpc: str, forms: Sequence[ApiMethod]) -> RpcMethod:
    service, _, name = rpc.partition(".")
    first = forms[0]
    return RpcMethod(
        service=service,
        name=name,
        request=first.rpc_request or f"{name}Request",
        answer=SHARED_MESSAGES.get(first.response, first.response),
        rules=tuple(form.rule for form in forms),
        body=first.rpc_body,
        streams=first.streams,
        if_empty=first.rpc_empty_name,
    )


RPCS = rpc_methods(METHODS.values())


@dataclass(frozen=True, slots=True)
class TranscodedRequest:
    """A request as HTTP would have brought it."""

    endpoint: Endpoint
    path: Mapping[str, str]  # the variable segments
    query: Mapping[str, str]  # names in snake_case
    body: bytes


class BoundRpcMethod:
    """A gRPC method of one version, bound to the routes that answer it."""

    def __init__(self, rpc: RpcMethod, version: str, routes: Mapping[HttpRule, Route]) -> None:
        self.rpc = rpc
        self.version = version
        self._routes = routes

    @property
    def package(self) -> str:
        """The package of the service."""
        return LONG_RUNNING if self.rpc.service == OPERATIONS else GEMINI + self.version

    @property
    def full_name(self) -> str:
        """The method as a call names it."""
        return f"/{self.package}.{self.rpc.service}/{self.rpc.name}"

    @property
    def messages(self) -> tuple[str, str]:
        """The full names of request and answer."""
        request, answer = (n if "." in n else f"{self.package}.{n}" for n in (self.rpc.request, self.rpc.answer))
        return request, answer

    def transcoded(self, request: Json) -> TranscodedRequest:
        """The request, taken apart.

        Raises:
            InvalidArgument: its name has none of the forms of this method.

        """
        field = self.rpc.field
        name = (_taken(request, field) if field else "") or self.rpc.if_empty
        rule = next((rule for rule in self._routes if rule.fits(name)), None)
        if rule is None:
            forms = " or ".join(rule.pattern for rule in self._routes)
            raise InvalidArgument.of(to_camel(field), f"{name[:80]!r} is not of the form {forms}")
        route = self._routes[rule]
        _, scope = route.matches(_scope(self.version, rule, name))
        body = request if self.rpc.body == "*" else request.pop(to_camel(self.rpc.body), {})
        return TranscodedRequest(
            endpoint=_endpoint(route),
            path=scope["path_params"],
            query={} if self.rpc.body == "*" else {to_snake(n): _text(value) for n, value in request.items()},
            body=orjson.dumps(body) if self.rpc.body else b"",
        )


def bind_methods(routes: Iterable[BaseRoute], rpcs: Iterable[RpcMethod] = RPCS) -> dict[str, BoundRpcMethod]:
    """The methods that have routes, by their full names, under every version."""
    known = [route for route in routes if isinstance(route, Route) and isinstance(route.endpoint, Endpoint)]
    made: dict[str, BoundRpcMethod] = {}
    for rpc in rpcs:
        for version in VERSIONS[:1] if rpc.service == OPERATIONS else VERSIONS:
            found = {rule: _route(known, version, rule) for rule in rpc.rules}
            method = BoundRpcMethod(rpc, version, {rule: route for rule, route in found.items() if route is not None})
            if any(found.values()):
                made[method.full_name] = method
    return made


def _route(routes: Iterable[Route], version: str, rule: HttpRule) -> Route | None:
    path = rule.route_path(version)
    return next((route for route in routes if route.path == path and rule.verb in (route.methods or ())), None)


def _endpoint(route: Route) -> Endpoint:
    endpoint: object = route.endpoint
    if not isinstance(endpoint, Endpoint):
        raise TypeError(f"{route.path} is not a route of Endpoints")
    return endpoint


def _scope(version: str, rule: HttpRule, name: str) -> dict[str, object]:
    return {"type": "http", "method": rule.verb, "path": f"/{version}/{rule.path(name)}"}


def _taken(request: Json, field: str) -> str:
    """The text at `field`, a path in snake_case, which the request then has no more."""
    *outer, last = (to_camel(part) for part in field.split("."))
    holder = request
    for part in outer:
        inner = holder.get(part)
        if not isinstance(inner, dict):
            return ""
        holder = inner
    return str(holder.pop(last, ""))


def _text(value: object) -> str:
    """A value of the query as a URL spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)

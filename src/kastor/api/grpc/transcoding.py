"""The Gemini API's gRPC methods as the HTTP methods that they are: which path, query and body a request message means.

Mirrors the `google.api.http` rules of `google.ai.generativelanguage` and `google.longrunning` (gemini-api.md §1). What
then answers is found among the routes of HTTP: a method is served over gRPC because it has a route, and a field is
checked where HTTP checks it. Knows no grpc and no protobuf: messages come as their proto3 JSON.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import orjson
from pydantic.alias_generators import to_camel, to_snake
from starlette.routing import BaseRoute, Match, Route

from kastor.api.http.endpoint import Endpoint
from kastor.domain.errors import InvalidArgument

VERSIONS = ("v1beta", "v1", "v1alpha")
GEMINI = "google.ai.generativelanguage."
LONG_RUNNING = "google.longrunning"
EMPTY = "google.protobuf.Empty"
VARIABLE = re.compile(r"\{(?P<field>[a-z_.]+)=(?P<pattern>[^}]+)\}")

Json = dict[str, object]


@dataclass(frozen=True)
class HttpRule:
    """One HTTP method: a verb, and a path below the version with at most one variable, `{field=tunedModels/*}`."""

    verb: str
    template: str

    @cached_property
    def field(self) -> str:
        """The request's field that is the variable, by its path in snake_case; empty if there is none."""
        found = VARIABLE.search(self.template)
        return found["field"] if found else ""

    @cached_property
    def pattern(self) -> str:
        """What the variable looks like, with `*` for an id."""
        found = VARIABLE.search(self.template)
        return found["pattern"] if found else ""

    def fits(self, name: str) -> bool:
        """Whether the variable may be `name`.

        >>> (HttpRule("GET", "{name=tunedModels/*}").fits("tunedModels/x"),
        ...  HttpRule("GET", "{name=models/*}").fits("models/a/b"))
        (True, False)
        """
        return re.fullmatch(re.escape(self.pattern).replace(r"\*", "[^/]+"), name) is not None

    def path(self, name: str) -> str:
        """The path whose variable is `name`.

        >>> HttpRule("POST", "{name=tunedModels/*}:transferOwnership").path("tunedModels/x")
        'tunedModels/x:transferOwnership'
        """
        return VARIABLE.sub(lambda _: name, self.template)


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


def _rpc(
    service: str, signature: str, *rules: str, body: str = "", streams: bool = False, if_empty: str = ""
) -> RpcMethod:
    """A row of the table; the signature is `Name(Request) Answer`."""
    name, request, answer = re.fullmatch(r"(\w+)\((\w+)\) ([\w.]+)", signature).groups()  # type: ignore[union-attr]
    split = tuple(HttpRule(*rule.split(" ")) for rule in rules)
    return RpcMethod(service, name, request, answer, split, body, streams, if_empty)


BOTH = ("models/*", "tunedModels/*")
MODELS, GENERATION, SHARING, FILES = "ModelService", "GenerativeService", "PermissionService", "FileService"
PERMISSION = "tunedModels/*/permissions/*"
OPERATION = "tunedModels/*/operations/*"

RPCS = (
    _rpc(MODELS, "GetModel(GetModelRequest) Model", "GET {name=models/*}"),
    _rpc(MODELS, "ListModels(ListModelsRequest) ListModelsResponse", "GET models"),
    _rpc(MODELS, "GetTunedModel(GetTunedModelRequest) TunedModel", "GET {name=tunedModels/*}"),
    _rpc(MODELS, "ListTunedModels(ListTunedModelsRequest) ListTunedModelsResponse", "GET tunedModels"),
    _rpc(
        MODELS,
        "CreateTunedModel(CreateTunedModelRequest) google.longrunning.Operation",
        "POST tunedModels",
        body="tuned_model",
    ),
    _rpc(
        MODELS,
        "UpdateTunedModel(UpdateTunedModelRequest) TunedModel",
        "PATCH {tuned_model.name=tunedModels/*}",
        body="tuned_model",
    ),
    _rpc(MODELS, f"DeleteTunedModel(DeleteTunedModelRequest) {EMPTY}", "DELETE {name=tunedModels/*}"),
    _rpc(
        GENERATION,
        "GenerateContent(GenerateContentRequest) GenerateContentResponse",
        *(f"POST {{model={kind}}}:generateContent" for kind in BOTH),
        body="*",
    ),
    _rpc(
        GENERATION,
        "StreamGenerateContent(GenerateContentRequest) GenerateContentResponse",
        *(f"POST {{model={kind}}}:streamGenerateContent" for kind in BOTH),
        body="*",
        streams=True,
    ),
    _rpc(
        GENERATION,
        "CountTokens(CountTokensRequest) CountTokensResponse",
        *(f"POST {{model={kind}}}:countTokens" for kind in BOTH),
        body="*",
    ),
    _rpc(
        SHARING,
        "CreatePermission(CreatePermissionRequest) Permission",
        "POST {parent=tunedModels/*}/permissions",
        body="permission",
    ),
    _rpc(SHARING, "GetPermission(GetPermissionRequest) Permission", f"GET {{name={PERMISSION}}}"),
    _rpc(
        SHARING,
        "ListPermissions(ListPermissionsRequest) ListPermissionsResponse",
        "GET {parent=tunedModels/*}/permissions",
    ),
    _rpc(
        SHARING,
        "UpdatePermission(UpdatePermissionRequest) Permission",
        f"PATCH {{permission.name={PERMISSION}}}",
        body="permission",
    ),
    _rpc(SHARING, f"DeletePermission(DeletePermissionRequest) {EMPTY}", f"DELETE {{name={PERMISSION}}}"),
    _rpc(
        SHARING,
        "TransferOwnership(TransferOwnershipRequest) TransferOwnershipResponse",
        "POST {name=tunedModels/*}:transferOwnership",
        body="*",
    ),
    _rpc(FILES, "CreateFile(CreateFileRequest) CreateFileResponse", "POST files", body="*"),
    _rpc(FILES, "ListFiles(ListFilesRequest) ListFilesResponse", "GET files"),
    _rpc(FILES, "GetFile(GetFileRequest) File", "GET {name=files/*}"),
    _rpc(FILES, f"DeleteFile(DeleteFileRequest) {EMPTY}", "DELETE {name=files/*}"),
    _rpc("Operations", "GetOperation(GetOperationRequest) Operation", f"GET {{name={OPERATION}}}"),
    _rpc(
        "Operations",
        "ListOperations(ListOperationsRequest) ListOperationsResponse",
        "GET {name=operations}",
        "GET {name=tunedModels/*}/operations",
        if_empty="operations",
    ),
    _rpc(
        "Operations", f"CancelOperation(CancelOperationRequest) {EMPTY}", f"POST {{name={OPERATION}}}:cancel", body="*"
    ),
    _rpc("Operations", f"DeleteOperation(DeleteOperationRequest) {EMPTY}", f"DELETE {{name={OPERATION}}}"),
)
"""What is served. The rest of the four services, and WaitOperation, have no HTTP route here and are UNIMPLEMENTED."""


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
        return LONG_RUNNING if self.rpc.service == "Operations" else GEMINI + self.version

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
        for version in VERSIONS[:1] if rpc.service == "Operations" else VERSIONS:
            found = {rule: _route(known, version, rule) for rule in rpc.rules}
            method = BoundRpcMethod(rpc, version, {rule: route for rule, route in found.items() if route is not None})
            if any(found.values()):
                made[method.full_name] = method
    return made


def _route(routes: Iterable[Route], version: str, rule: HttpRule) -> Route | None:
    scope = _scope(version, rule, rule.pattern.replace("*", "x"))
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


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

"""The methods of the Gemini API that this server has: one table, from which everything that lists methods is made.

The HTTP routes take their paths and query parameters from it, gRPC its transcoding rules, and the discovery document
its entries. A row is one REST method with its `google.api.http` rule (gemini-api.md §1).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from starlette.routing import Route

from kastor.api.http.endpoint import Handler, ListSchema, RouteFactory
from kastor.api.http.protojson import ProtoModel

VERSIONS = ("v1beta", "v1", "v1alpha")
VARIABLE = re.compile(r"\{(?P<field>[a-z_.]+)=(?P<pattern>[^}]+)\}")
SEGMENT_NAMES = {
    "models": "model",
    "tunedModels": "model",
    "permissions": "permission",
    "operations": "operation",
    "files": "file",
}
"""What handlers call the id that follows a collection."""
PAGED = ("page_size", "page_token")
OPERATION_FILTERS = ("filter", "return_partial_success")  # of the latter: nothing here is ever unreachable


@dataclass(frozen=True)
class HttpRule:
    """A verb, and a path below the version with at most one variable, `{field=tunedModels/*}`."""

    verb: str
    template: str

    @cached_property
    def field(self) -> str:
        """The request's field that is the variable, by its path in snake_case; empty if there is none."""
        match = VARIABLE.search(self.template)
        return match["field"] if match else ""

    @cached_property
    def pattern(self) -> str:
        """The form of the variable, with `*` for an id."""
        match = VARIABLE.search(self.template)
        return match["pattern"] if match else ""

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

    def route_path(self, version: str) -> str:
        """The path of the route under a version; each id is a variable segment.

        A method on models of two kinds gets the kind as the segment's name.

        >>> HttpRule("GET", "{name=tunedModels/*/operations/*}").route_path("v1")
        '/v1/tunedModels/{model}/operations/{operation}'
        >>> HttpRule("POST", "{model=models/*}:countTokens").route_path("v1")
        '/v1/models/{models}:countTokens'
        """
        segments = self.pattern.split("/")
        for place in range(1, len(segments), 2):
            collection = segments[place - 1]
            segments[place] = f"{{{collection if self.field == 'model' else SEGMENT_NAMES[collection]}}}"
        return f"/{version}/{self.path('/'.join(segments))}"


@dataclass(frozen=True)
class ApiMethod:
    """One REST method. Messages go by their short names; `Empty` and `Operation` are the ones Google's APIs share."""

    id: str  # resources and name, with dots
    http: str  # `VERB template`
    response: str = "Empty"
    request: str = ""  # the message that is the body, if any
    query: tuple[str, ...] = ()  # in snake_case
    unlisted_query: tuple[str, ...] = ()  # known as well, but absent from the discovery document
    is_listed: bool = True  # in the discovery document
    rpc: str = ""  # `Service.Name`, if gRPC has it; rows of one rpc are the forms that its name may have
    rpc_request: str = ""  # the rpc's request message, where that is not `NameRequest`
    rpc_body: str = ""  # the request's field that is the body; `*` for all that is not in the path
    rpc_empty_name: str = ""  # the resource that an empty name means
    streams: bool = False

    @cached_property
    def rule(self) -> HttpRule:
        """The verb and the path."""
        return HttpRule(*self.http.split(" "))


def _generation_methods(collection: str) -> Iterable[ApiMethod]:
    """What models of either kind can do."""
    rows = (
        ("generateContent", "GenerateContent", False),
        ("streamGenerateContent", "StreamGenerateContent", True),
        ("countTokens", "CountTokens", False),
    )
    for name, rpc, streams in rows:
        kind = rpc.removeprefix("Stream")
        yield ApiMethod(
            f"{collection}.{name}",
            f"POST {{model={collection}/*}}:{name}",
            f"{kind}Response",
            f"{kind}Request",
            rpc=f"GenerativeService.{rpc}",
            rpc_request=f"{kind}Request",
            rpc_body="*",
            streams=streams,
        )


_MODEL_METHODS = (
    ApiMethod("models.list", "GET models", "ListModelsResponse", query=PAGED, rpc="ModelService.ListModels"),
    ApiMethod("models.get", "GET {name=models/*}", "Model", rpc="ModelService.GetModel"),
)
_TUNED_MODEL_METHODS = (
    ApiMethod(
        "tunedModels.create",
        "POST tunedModels",
        "Operation",
        "TunedModel",
        query=("tuned_model_id",),
        rpc="ModelService.CreateTunedModel",
        rpc_body="tuned_model",
    ),
    ApiMethod(
        "tunedModels.list",
        "GET tunedModels",
        "ListTunedModelsResponse",
        query=(*PAGED, "filter"),
        rpc="ModelService.ListTunedModels",
    ),
    ApiMethod("tunedModels.get", "GET {name=tunedModels/*}", "TunedModel", rpc="ModelService.GetTunedModel"),
    ApiMethod(
        "tunedModels.patch",
        "PATCH {tuned_model.name=tunedModels/*}",
        "TunedModel",
        "TunedModel",
        query=("update_mask",),
        rpc="ModelService.UpdateTunedModel",
        rpc_body="tuned_model",
    ),
    ApiMethod("tunedModels.delete", "DELETE {name=tunedModels/*}", rpc="ModelService.DeleteTunedModel"),
    ApiMethod("tunedModels.cancel", "POST {name=tunedModels/*}:cancel", request="Empty"),
    ApiMethod(
        "tunedModels.transferOwnership",
        "POST {name=tunedModels/*}:transferOwnership",
        "TransferOwnershipResponse",
        "TransferOwnershipRequest",
        is_listed=False,
        rpc="PermissionService.TransferOwnership",
        rpc_body="*",
    ),
)
_PERMISSION_METHODS = (
    ApiMethod(
        "tunedModels.permissions.create",
        "POST {parent=tunedModels/*}/permissions",
        "Permission",
        "Permission",
        is_listed=False,
        rpc="PermissionService.CreatePermission",
        rpc_body="permission",
    ),
    ApiMethod(
        "tunedModels.permissions.list",
        "GET {parent=tunedModels/*}/permissions",
        "ListPermissionsResponse",
        query=PAGED,
        is_listed=False,
        rpc="PermissionService.ListPermissions",
    ),
    ApiMethod(
        "tunedModels.permissions.get",
        "GET {name=tunedModels/*/permissions/*}",
        "Permission",
        is_listed=False,
        rpc="PermissionService.GetPermission",
    ),
    ApiMethod(
        "tunedModels.permissions.patch",
        "PATCH {permission.name=tunedModels/*/permissions/*}",
        "Permission",
        "Permission",
        query=("update_mask",),
        is_listed=False,
        rpc="PermissionService.UpdatePermission",
        rpc_body="permission",
    ),
    ApiMethod(
        "tunedModels.permissions.delete",
        "DELETE {name=tunedModels/*/permissions/*}",
        is_listed=False,
        rpc="PermissionService.DeletePermission",
    ),
)
_OPERATION_METHODS = (
    ApiMethod(
        "operations.list",
        "GET {name=operations}",
        "ListOperationsResponse",
        query=PAGED,
        unlisted_query=OPERATION_FILTERS,
        is_listed=False,
        rpc="Operations.ListOperations",
        rpc_empty_name="operations",
    ),
    ApiMethod(
        "tunedModels.operations.list",
        "GET {name=tunedModels/*}/operations",
        "ListOperationsResponse",
        query=PAGED,
        unlisted_query=OPERATION_FILTERS,
        rpc="Operations.ListOperations",
    ),
    ApiMethod(
        "tunedModels.operations.get",
        "GET {name=tunedModels/*/operations/*}",
        "Operation",
        rpc="Operations.GetOperation",
    ),
    ApiMethod(
        "tunedModels.operations.cancel",
        "POST {name=tunedModels/*/operations/*}:cancel",
        request="Empty",
        rpc="Operations.CancelOperation",
        rpc_body="*",
    ),
    ApiMethod(
        "tunedModels.operations.delete",
        "DELETE {name=tunedModels/*/operations/*}",
        is_listed=False,
        rpc="Operations.DeleteOperation",
    ),
)
_FILE_METHODS = (
    ApiMethod("files.list", "GET files", "ListFilesResponse", query=PAGED, rpc="FileService.ListFiles"),
    ApiMethod("files.get", "GET {name=files/*}", "File", rpc="FileService.GetFile"),
    ApiMethod("files.delete", "DELETE {name=files/*}", rpc="FileService.DeleteFile"),
    ApiMethod("files.download", "GET {name=files/*}:download", is_listed=False),
    ApiMethod(
        "media.upload",
        "POST files",
        "CreateFileResponse",
        "CreateFileRequest",
        rpc="FileService.CreateFile",
        rpc_body="*",
    ),
)
METHODS: Mapping[str, ApiMethod] = {
    method.id: method
    for method in (
        *_MODEL_METHODS,
        *_generation_methods("models"),
        *_generation_methods("tunedModels"),
        *_TUNED_MODEL_METHODS,
        *_PERMISSION_METHODS,
        *_OPERATION_METHODS,
        *_FILE_METHODS,
    )
}
"""By id. What else Google's services have, WaitOperation among it, is not served: 404, or UNIMPLEMENTED over gRPC."""


class MethodRoutes:
    """Makes the routes of one version; the path, the verb and the query parameters are the table's."""

    def __init__(self, endpoints: RouteFactory, version: str) -> None:
        self._endpoints = endpoints
        self._version = version

    def route(
        self,
        method_id: str,
        handler: Handler,
        *,
        takes: type[ProtoModel] | None = None,
        gives: type[ProtoModel] | ListSchema | None = None,
        alts: Sequence[str] = ("json",),
    ) -> Route:
        """A route whose answer is quick."""
        method, path = self._method(method_id)
        query = (*method.query, *method.unlisted_query)
        return self._endpoints.route(path, method.rule.verb, handler, query=query, alts=alts, takes=takes, gives=gives)

    def polled(self, method_id: str, handler: Handler, *, gives: type[ProtoModel]) -> Route:
        """A route that waiting clients ask again and again."""
        return self._endpoints.polled(self._method(method_id)[1], handler, gives=gives)

    def generating(
        self, method_id: str, handler: Handler, *, takes: type[ProtoModel], gives: type[ProtoModel]
    ) -> Route:
        """A route whose answer takes its time."""
        method, path = self._method(method_id)
        return self._endpoints.generating(path, handler, takes=takes, gives=gives, sse=method.streams)

    def _method(self, method_id: str) -> tuple[ApiMethod, str]:
        method = METHODS[method_id]
        return method, method.rule.route_path(self._version)

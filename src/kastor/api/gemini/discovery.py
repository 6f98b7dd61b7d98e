"""The discovery document: what google-api-python-client builds its methods from, and with it the legacy upload_file.

Made from one table of the methods that this server has. Messages are spelled out only where a client reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from kastor.api.http.endpoint import json_response, request_base_url
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.domain.errors import NotFound

PATH = "/$discovery/rest"
VERSIONS = ("v1", "v1alpha", "v1beta")
PAGED = ("pageSize", "pageToken")
GLOBAL = ("access_token", "alt", "key", "prettyPrint", "quotaUser", "uploadType", "upload_protocol")
INTEGERS = frozenset({"pageSize"})
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the API, as this server has it."""

    id: str  # resources and name, with dots
    http: str
    path: str  # `{+name}` stands for a resource name of the given pattern
    pattern: str = ""
    query: tuple[str, ...] = ()
    request: str = ""
    response: str = "Empty"


MODEL, TUNED = "^models/[^/]+$", "^tunedModels/[^/]+$"
OPERATION, FILE = "^tunedModels/[^/]+/operations/[^/]+$", "^files/[^/]+$"
METHODS = (
    Method("models.list", "GET", "models", query=PAGED, response="ListModelsResponse"),
    Method("models.get", "GET", "{+name}", MODEL, response="Model"),
    *(
        Method(f"{kind}.{verb}", "POST", f"{{+model}}:{verb}", pattern, request=f"{says}Request", response=answer)
        for kind, pattern in (("models", MODEL), ("tunedModels", TUNED))
        for verb, says, answer in (
            ("generateContent", "GenerateContent", "GenerateContentResponse"),
            ("streamGenerateContent", "GenerateContent", "GenerateContentResponse"),
            ("countTokens", "CountTokens", "CountTokensResponse"),
        )
    ),
    Method("tunedModels.create", "POST", "tunedModels", "", ("tunedModelId",), "TunedModel", "Operation"),
    Method("tunedModels.list", "GET", "tunedModels", "", (*PAGED, "filter"), response="ListTunedModelsResponse"),
    Method("tunedModels.get", "GET", "{+name}", TUNED, response="TunedModel"),
    Method("tunedModels.patch", "PATCH", "{+name}", TUNED, ("updateMask",), "TunedModel", "TunedModel"),
    Method("tunedModels.delete", "DELETE", "{+name}", TUNED),
    Method("tunedModels.cancel", "POST", "{+name}:cancel", TUNED, request="Empty"),
    Method("tunedModels.operations.list", "GET", "{+name}/operations", TUNED, PAGED, response="ListOperationsResponse"),
    Method("tunedModels.operations.get", "GET", "{+name}", OPERATION, response="Operation"),
    Method("tunedModels.operations.cancel", "POST", "{+name}:cancel", OPERATION, request="Empty"),
    Method("files.list", "GET", "files", "", PAGED, response="ListFilesResponse"),
    Method("files.get", "GET", "{+name}", FILE, response="File"),
    Method("files.delete", "DELETE", "{+name}", FILE),
    Method("media.upload", "POST", "files", request="CreateFileRequest", response="CreateFileResponse"),
)
TEXT: Json = {"type": "string"}
FILE_FIELDS = (
    *("name", "displayName", "mimeType", "sizeBytes", "createTime", "updateTime", "expirationTime", "sha256Hash"),
    *("uri", "downloadUri", "state", "source"),
)


def discovery_document(version: str, root_url: str, max_file_bytes: int) -> Json:
    """The document of one version, for callers who reach this server at `root_url`."""
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": f"generativelanguage:{version}",
        "name": "generativelanguage",
        "version": version,
        "title": "Kastor, on the wire of the Gemini API",
        "protocol": "rest",
        "rootUrl": f"{root_url}/",
        "servicePath": "",
        "basePath": "",
        "baseUrl": f"{root_url}/",
        "batchPath": "batch",
        "parameters": {name: {"type": "string", "location": "query"} for name in GLOBAL},
        "schemas": _schemas(),
        "resources": _resources(version, max_file_bytes),
    }


class DiscoveryEndpoint:
    """Answers with the document; it is no secret, so no key is asked for."""

    def __init__(self, max_file_bytes: int) -> None:
        self._max_file_bytes = max_file_bytes

    def answer(self, request: Request) -> Response:
        """`GET /$discovery/rest?version=…`."""
        version = request.query_params.get("version", "v1beta")
        if version not in VERSIONS:
            error = NotFound(f"There is no version {version[:40]!r} here; use {', '.join(VERSIONS)}.")
            return json_response(error_body(error), status=HTTP_STATUS[error.code])
        return json_response(discovery_document(version, request_base_url(request.scope), self._max_file_bytes))


def _resources(version: str, max_file_bytes: int) -> Json:
    tree: Json = {}
    for method in METHODS:
        *resources, name = method.id.split(".")
        node: Json = {"resources": tree}
        for resource in resources:
            node = _child(_child(node, "resources"), resource)
        written = _method(method, version)
        if method.id == "media.upload":
            written |= _media(version, max_file_bytes)
        _child(node, "methods")[name] = written
    return tree


def _child(node: Json, name: str) -> Json:
    child = node.setdefault(name, {})
    if not isinstance(child, dict):
        raise TypeError(name)
    return child


def _method(method: Method, version: str) -> Json:
    parameters: Json = {
        name: {"type": "integer", "format": "int32", "location": "query"}
        if name in INTEGERS
        else {"type": "string", "location": "query"}
        for name in method.query
    }
    order: Sequence[str] = ()
    if method.pattern:
        variable = method.path[2 : method.path.index("}")]
        order = (variable,)
        parameters[variable] = {"type": "string", "location": "path", "required": True, "pattern": method.pattern}
    written: Json = {
        "id": f"generativelanguage.{method.id}",
        "path": f"{version}/{method.path}",
        "flatPath": f"{version}/{method.path}",
        "httpMethod": method.http,
        "parameters": parameters,
        "parameterOrder": list(order),
        "response": {"$ref": method.response},
    }
    return written | ({"request": {"$ref": method.request}} if method.request else {})


def _media(version: str, max_file_bytes: int) -> Json:
    protocols = {
        "simple": {"multipart": True, "path": f"/upload/{version}/files"},
        "resumable": {"multipart": True, "path": f"/resumable/upload/{version}/files"},
    }
    upload = {"accept": ["*/*"], "maxSize": str(max_file_bytes), "protocols": protocols}
    return {"supportsMediaUpload": True, "mediaUpload": upload}


def _schemas() -> Json:
    """The messages of the methods: files in full, of the others that they are objects."""
    named = {name for method in METHODS for name in (method.request, method.response) if name}
    schemas: Json = {name: {"id": name, "type": "object"} for name in sorted(named | {"File"})}
    wrapped = {"type": "object", "properties": {"file": {"$ref": "File"}}}
    listed = {"files": {"type": "array", "items": {"$ref": "File"}}, "nextPageToken": TEXT}
    schemas["File"] = {"id": "File", "type": "object", "properties": dict.fromkeys(FILE_FIELDS, TEXT)}
    schemas["CreateFileRequest"] = {"id": "CreateFileRequest", **wrapped}
    schemas["CreateFileResponse"] = {"id": "CreateFileResponse", **wrapped}
    schemas["ListFilesResponse"] = {"id": "ListFilesResponse", "type": "object", "properties": listed}
    return schemas

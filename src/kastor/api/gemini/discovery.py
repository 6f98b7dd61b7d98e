"""The discovery document: what google-api-python-client builds its methods from, and with it the legacy upload_file.

Its methods come from the table. Messages are spelled out only where a client reads their fields.
"""

from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from kastor.api.google.methods import METHODS, VERSIONS, ApiMethod
from kastor.api.http.endpoint import json_response, request_base_url
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.domain.errors import NotFound

PATH = "/$discovery/rest"
GLOBAL = ("access_token", "alt", "key", "prettyPrint", "quotaUser", "uploadType", "upload_protocol")
INTEGERS = frozenset({"page_size"})
Json = dict[str, object]


LISTED = tuple(method for method in METHODS.values() if method.is_listed)
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
    for method in LISTED:
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


def _method(method: ApiMethod, version: str) -> Json:
    parameters: Json = {to_camel(name): _query_parameter(name) for name in method.query}
    rule, order = method.rule, list[str]()
    path = rule.template
    if rule.field:
        variable = rule.field.rpartition(".")[2]
        path = rule.path(f"{{+{variable}}}")
        pattern = "^" + rule.pattern.replace("*", "[^/]+") + "$"
        parameters[variable] = {"type": "string", "location": "path", "required": True, "pattern": pattern}
        order = [variable]
    entry: Json = {
        "id": f"generativelanguage.{method.id}",
        "path": f"{version}/{path}",
        "flatPath": f"{version}/{path}",
        "httpMethod": rule.verb,
        "parameters": parameters,
        "parameterOrder": order,
        "response": {"$ref": method.response},
    }
    return entry | ({"request": {"$ref": method.request}} if method.request else {})


def _query_parameter(name: str) -> Json:
    kind: Json = {"type": "integer", "format": "int32"} if name in INTEGERS else {"type": "string"}
    return kind | {"location": "query"}


def _media(version: str, max_file_bytes: int) -> Json:
    protocols = {
        "simple": {"multipart": True, "path": f"/upload/{version}/files"},
        "resumable": {"multipart": True, "path": f"/resumable/upload/{version}/files"},
    }
    upload = {"accept": ["*/*"], "maxSize": str(max_file_bytes), "protocols": protocols}
    return {"supportsMediaUpload": True, "mediaUpload": upload}


def _schemas() -> Json:
    """The messages of the methods: files in full, of the others that they are objects."""
    named = {name for method in LISTED for name in (method.request, method.response) if name}
    schemas: Json = {name: {"id": name, "type": "object"} for name in sorted(named | {"File"})}
    wrapped = {"type": "object", "properties": {"file": {"$ref": "File"}}}
    listed = {"files": {"type": "array", "items": {"$ref": "File"}}, "nextPageToken": TEXT}
    schemas["File"] = {"id": "File", "type": "object", "properties": dict.fromkeys(FILE_FIELDS, TEXT)}
    schemas["CreateFileRequest"] = {"id": "CreateFileRequest", **wrapped}
    schemas["CreateFileResponse"] = {"id": "CreateFileResponse", **wrapped}
    schemas["ListFilesResponse"] = {"id": "ListFilesResponse", "type": "object", "properties": listed}
    return schemas

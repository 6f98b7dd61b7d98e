"""The description of the HTTP API as an OpenAPI 3.1 document, made from the routes and messages themselves.

Nothing is said twice: a path, its parameters and its messages are the route's, a summary is the first line of its
handler, and what a message holds is its class's. Uploads are not in it: their protocols are told by headers, which the
discovery document and `uploads` describe.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kastor import __version__
from kastor.api.http.endpoint import Endpoint, ListSchema, MethodSchema, json_response
from kastor.api.http.errors import HTTP_STATUS
from kastor.api.http.protojson import ProtoModel
from kastor.domain.errors import Code

PATH = "/openapi.json"
REF = "#/components/schemas/{model}"
NOT_PROMISED = frozenset({Code.CANCELLED, Code.DATA_LOSS, Code.INTERNAL})  # said to nobody; faults of the server's own
NAMED = re.compile(r"The method ([\w.]*\w)")
VARIABLE = re.compile(r"\{(\w+)(?::\w+)?\}")
SECURITY: Sequence[Mapping[str, object]] = ({"header": []}, {"query": []}, {"bearer": []}, {})
"""A key in the header or the query, a token, or nothing on a server without keys."""
SECURITY_SCHEMES = {
    "header": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
    "query": {"type": "apiKey", "in": "query", "name": "key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
ERROR = {
    "description": "google.rpc.Status, as the Gemini API writes it.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "status": {"enum": [code.name for code in Code]},
                "details": {"type": "array", "items": {"type": "object", "required": ["@type"]}},
            },
        }
    },
}
Json = dict[str, object]


class OpenApiEndpoint:
    """Answers with the document; it is no secret, so no key is asked for."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = tuple(routes)
        self._made: Json | None = None

    def answer(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        if self._made is None:  # at the first request: the start does not wait for it
            self._made = openapi_document(self._routes)
        return json_response(self._made)


def documented_routes(routes: Iterable[BaseRoute]) -> list[tuple[Route, Endpoint]]:
    """The routes that the document tells of."""
    plain = [route for route in routes if isinstance(route, Route)]
    return [(route, route.endpoint) for route in plain if isinstance(route.endpoint, Endpoint)]


def openapi_document(routes: Iterable[BaseRoute]) -> Json:
    """The whole document."""
    told = documented_routes(routes)
    paths: dict[str, Json] = {}
    for route, endpoint in told:
        methods = sorted((route.methods or set()) - {"HEAD"})
        for method in methods:
            paths.setdefault(VARIABLE.sub(r"{\1}", route.path), {})[method.lower()] = _operation(route, endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kastor", "version": __version__, "description": "Tuned models on the Gemini API's wire."},
        "paths": dict(sorted(paths.items())),
        "security": [dict(one) for one in SECURITY],
        "components": {
            "schemas": _schemas(endpoint.described for _, endpoint in told) | {"Error": ERROR},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def method_name(route: Route, endpoint: Endpoint) -> str:
    """What Google calls the method, or we where it is none of theirs.

    The handlers of generation serve two kinds of models; the path tells which.
    """
    found = NAMED.match(endpoint.handler.__doc__ or "")
    if found is None:
        return endpoint.handler.__name__
    return found[1] if "." in found[1] else f"{route.path.split('/')[2]}.{found[1].partition(':')[0]}"


def _operation(route: Route, endpoint: Endpoint) -> Json:
    said = (endpoint.handler.__doc__ or "").strip().partition("\n")[0]
    version = route.path.split("/")[1]
    name = method_name(route, endpoint)
    one = "all." if route.path == f"/{version}/operations" else ""
    made: Json = {
        "operationId": f"{version}.{one}{name}",
        "summary": said,
        "tags": [version],
        "parameters": [_parameter(name, "path") for name in VARIABLE.findall(route.path)]
        + [_parameter(to_camel(name), "query") for name in sorted(endpoint.query)],
        "responses": _responses(endpoint),
    }
    if len(endpoint.alts) > 1:
        made["parameters"] = [*_list(made["parameters"]), _alt(endpoint.alts)]
    takes = endpoint.described.takes
    if takes is not None:
        schema = {"$ref": REF.format(model=takes.__name__)}
        made["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return made


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _parameter(name: str, where: str) -> Json:
    kind: Json = {"type": "integer", "minimum": 0} if name in ("pageSize", "offset") else {"type": "string"}
    return {"name": name, "in": where, "required": where == "path", "schema": kind}


def _alt(alts: Sequence[str]) -> Json:
    return {"name": "alt", "in": "query", "required": False, "schema": {"type": "string", "enum": list(alts)}}


def _responses(endpoint: Endpoint) -> Json:
    """An answer for every status; each code of the error table is one."""
    wrong = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}
    statuses = sorted({str(HTTP_STATUS[code]) for code in Code if code not in NOT_PROMISED})
    refusals: Json = {status: {"description": "Refused.", "content": wrong} for status in statuses}
    return {"200": {"description": "Done.", "content": _content(endpoint)}} | refusals


def _content(endpoint: Endpoint) -> Json:
    gives = endpoint.described.gives
    if endpoint.handler.__name__ in ("download", "log", "report"):
        return {"*/*": {}}
    if isinstance(gives, ListSchema):
        items = {"type": "array", "items": {"$ref": REF.format(model=gives.item.__name__)}}
        return _json({"type": "object", "properties": {gives.field: items, "nextPageToken": {"type": "string"}}})
    if gives is None:
        return _json({"type": "object", "maxProperties": 0})
    schema: Json = {"$ref": REF.format(model=gives.__name__)}
    if "sse" in endpoint.alts:
        return _json({"type": "array", "items": schema}) | {"text/event-stream": {"schema": {"type": "string"}}}
    return _json(schema)


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _schemas(told: Iterable[MethodSchema]) -> Json:
    """Every message that goes in or out, with those inside of them."""
    found: dict[type[ProtoModel], JsonSchemaMode] = {}
    for one in told:
        if one.takes is not None:
            found[one.takes] = "validation"
        if one.gives is not None:
            found[one.gives.item if isinstance(one.gives, ListSchema) else one.gives] = "serialization"
    asked = sorted(found.items(), key=lambda pair: pair[0].__name__)
    _, definitions = models_json_schema(asked, by_alias=True, ref_template=REF)
    schemas = definitions["$defs"]
    for schema in schemas.values():
        _without_null(schema)
    return dict(schemas)


def _without_null(schema: dict[str, Any]) -> None:
    """Say of fields that may be absent that they need not be there, instead of that they may be null."""
    properties = schema.get("properties", {})
    for name, field in list(properties.items()):
        kinds = field.get("anyOf", [])
        if {"type": "null"} not in kinds:
            continue
        rest = [kind for kind in kinds if kind != {"type": "null"}]
        whole = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
        properties[name] = whole | (rest[0] if len(rest) == 1 else {"anyOf": rest})
        schema["required"] = [one for one in schema.get("required", []) if one != name]

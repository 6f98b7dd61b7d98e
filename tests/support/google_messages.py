"""Google's own proto messages as the judge of our JSON: which message answers a request, and whether JSON spells it.

Reading is strict (an unknown field is an error), and stricter than proto3 JSON asks of a reader: what a writer must do
is checked too, field by field along the message's descriptor (gemini-api.md §3.1).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import google.ai.generativelanguage_v1beta as glm
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, empty_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2

Message = Any  # generated classes, which have no types
VERSION = r"/(?:v1|v1beta|v1alpha)"
TUNED = VERSION + r"/tunedModels"
MODEL = TUNED + r"/[^/:]+"
ANY_MODEL = VERSION + r"/(?:tunedModels|models)/[^/:]+"
UPLOADS = r"(?:/resumable)?/upload" + VERSION

METHODS: tuple[tuple[str, str, Message], ...] = (
    ("POST", TUNED, operations_pb2.Operation),
    ("GET", TUNED, glm.ListTunedModelsResponse.pb()),
    ("GET", MODEL, glm.TunedModel.pb()),
    ("PATCH", MODEL, glm.TunedModel.pb()),
    ("DELETE", MODEL, empty_pb2.Empty),
    ("POST", MODEL + ":cancel", empty_pb2.Empty),
    ("POST", MODEL + ":transferOwnership", glm.TransferOwnershipResponse.pb()),
    ("POST", MODEL + "/permissions", glm.Permission.pb()),
    ("GET", MODEL + "/permissions", glm.ListPermissionsResponse.pb()),
    ("GET", MODEL + "/permissions/[a-z0-9]+", glm.Permission.pb()),
    ("PATCH", MODEL + "/permissions/[a-z0-9]+", glm.Permission.pb()),
    ("DELETE", MODEL + "/permissions/[a-z0-9]+", empty_pb2.Empty),
    ("GET", MODEL + "/operations", operations_pb2.ListOperationsResponse),
    ("GET", VERSION + "/operations", operations_pb2.ListOperationsResponse),
    ("GET", MODEL + "/operations/[a-z0-9]+", operations_pb2.Operation),
    ("DELETE", MODEL + "/operations/[a-z0-9]+", empty_pb2.Empty),
    ("POST", MODEL + "/operations/[a-z0-9]+:cancel", empty_pb2.Empty),
    ("GET", VERSION + "/models", glm.ListModelsResponse.pb()),
    ("GET", VERSION + "/models/[^/:]+", glm.Model.pb()),
    ("POST", ANY_MODEL + ":generateContent", glm.GenerateContentResponse.pb()),
    ("POST", ANY_MODEL + ":streamGenerateContent", glm.GenerateContentResponse.pb()),
    ("POST", ANY_MODEL + ":countTokens", glm.CountTokensResponse.pb()),
    ("POST", UPLOADS + "/files", glm.CreateFileResponse.pb()),
    ("POST", VERSION + "/files", glm.CreateFileResponse.pb()),
    ("GET", VERSION + "/files", glm.ListFilesResponse.pb()),
    ("GET", VERSION + "/files/[^/:]+", glm.File.pb()),
    ("DELETE", VERSION + "/files/[^/:]+", empty_pb2.Empty),
)
"""Each method of gemini-api.md §1 that answers with a message, and the message."""

POOL = descriptor_pool.Default()
NEVER = frozenset({"trainingData", "learningRateMultiplier"})  # one of them makes legacy clients' lists unreadable
WHOLE = frozenset({FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64})
ANY, OWN_JSON = "google.protobuf.Any", "google.protobuf."  # types of that package have JSON forms of their own
ERROR_DETAILS = frozenset(
    {error_details_pb2.ErrorInfo.DESCRIPTOR.full_name, error_details_pb2.BadRequest.DESCRIPTOR.full_name}
)


def message_of(method: str, path: str) -> Message:
    """The class of the message that answers the method at this path."""
    found = [kind for verb, pattern, kind in METHODS if verb == method and re.fullmatch(pattern, path)]
    assert len(found) == 1, f"{method} {path} is {len(found)} methods of the table"
    return found[0]


def strictly(value: Mapping[str, Any], kind: Message) -> Message:
    """The message that the JSON value spells; a fault of any kind fails the test."""
    read = json_format.ParseDict(value, kind(), ignore_unknown_fields=False)
    faults = list(unmannered(value, kind.DESCRIPTOR, kind.DESCRIPTOR.name))
    assert not faults, "; ".join(faults)
    return read


def strict_error(body: Mapping[str, Any], http_status: int) -> Message:
    """The google.rpc.Status in an error's body; its details are messages that clients know."""
    assert set(body) == {"error"}
    error = dict(body["error"])
    name = error.pop("status")
    assert name in code_pb2.Code.DESCRIPTOR.values_by_name, name
    assert error["code"] == http_status
    status = strictly(error, status_pb2.Status)
    for detail in status.details:
        assert detail.type_url.rpartition("/")[2] in ERROR_DETAILS, detail.type_url
    return status


def unmannered(value: Mapping[str, Any], kind: Descriptor, at: str) -> Iterator[str]:
    """What a strict reader lets pass and a client of Google's does not, as sentences."""
    if kind.full_name == ANY:
        type_name = value["@type"].rpartition("/")[2]
        inner = {name: held for name, held in value.items() if name != "@type"}
        yield from unmannered(inner, POOL.FindMessageTypeByName(type_name), f"{at}({type_name})")
        return
    if kind.full_name.startswith(OWN_JSON):
        return
    by_name = {field.json_name: field for field in kind.fields}
    for name, held in value.items():
        field = by_name.get(name)
        if field is None:
            yield f"{at}.{name} is not the camelCase name of a field"
        elif name in NEVER:
            yield f"{at}.{name} is never given away"
        else:
            yield from _unmannered_field(held, field, f"{at}.{name}")


def _unmannered_field(held: Any, field: FieldDescriptor, at: str) -> Iterator[str]:
    if isinstance(held, list):
        if not held:
            yield f"{at} is an empty list, which is left out"
        for index, one in enumerate(held):
            yield from _unmannered_value(one, field, f"{at}[{index}]")
        return
    yield from _unmannered_value(held, field, at)
    defaults = (0, "", False) if field.type == FieldDescriptor.TYPE_STRING else (0, "", False, "0")
    if held is None or (not field.has_presence and not isinstance(held, dict) and held in defaults):
        yield f"{at} has its default value {held!r}, which is left out"


def _unmannered_value(held: Any, field: FieldDescriptor, at: str) -> Iterator[str]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if isinstance(held, dict) and not field.message_type.GetOptions().map_entry:
            yield from unmannered(held, field.message_type, at)
    elif field.type == FieldDescriptor.TYPE_ENUM:
        if not isinstance(held, str):
            yield f"{at} is the number {held!r} of an enum; google-genai reads names only"
        elif field.enum_type.values_by_name[held].number == 0:
            yield f"{at} is {held}, an enum's default, which is left out"
    elif field.type in WHOLE and not isinstance(held, str):
        yield f"{at} is {held!r}; 64-bit numbers are texts"
    elif field.cpp_type == FieldDescriptor.CPPTYPE_INT32 and not isinstance(held, int):
        yield f"{at} is {held!r}, not a whole number"

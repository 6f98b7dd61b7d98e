"""A gRPC request means one HTTP method: its path, query and body are taken from the message by the rules of its row."""

import importlib
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pool
from pydantic.alias_generators import to_snake

from kastor.api.google.methods import VERSIONS
from kastor.api.grpc.transcoding import RPCS, BoundRpcMethod, RpcMethod, TranscodedRequest, bind_methods
from kastor.domain.errors import InvalidArgument
from support.api_world import World

PACKAGE = "/google.ai.generativelanguage.v1beta."


def transcoded(world: World, method: str, request: dict[str, Any]) -> TranscodedRequest:
    full = method if method.startswith("/") else PACKAGE + method
    return bind_methods(world.app.routes)[full].transcoded(request)


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc.service}.{rpc.name}")
def test_every_method_has_a_route_for_each_form_of_its_name(world: World, rpc: RpcMethod) -> None:
    method = BoundRpcMethod(rpc, "v1beta", {})
    found = bind_methods(world.app.routes)[method.full_name]
    for rule in rpc.rules:
        name = rule.pattern.replace("*", "x")
        request: dict[str, Any] = {}
        holder = request
        *outer, last = rpc.field.split(".")
        for part in outer:
            holder = holder.setdefault(part.replace("tuned_model", "tunedModel"), {})
        holder[last] = name
        assert set(found.transcoded(request).path.values()) == set(name.split("/")[1::2])


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc.service}.{rpc.name}")
def test_every_row_names_messages_and_fields_that_google_has(rpc: RpcMethod) -> None:
    for version in VERSIONS:
        importlib.import_module(f"google.ai.generativelanguage_{version}.types")
    importlib.import_module("google.longrunning.operations_pb2")
    request, answer = BoundRpcMethod(rpc, "v1beta", {}).messages
    pool = descriptor_pool.Default()
    pool.FindMessageTypeByName(answer)
    fields = pool.FindMessageTypeByName(request).fields_by_name
    assert rpc.body in ("", "*") or rpc.body in fields
    first, _, inner = rpc.field.partition(".")
    assert not first or first in fields
    assert not inner or inner in fields[first].message_type.fields_by_name


def test_the_name_becomes_the_path_and_the_rest_the_query(world: World) -> None:
    found = transcoded(world, "PermissionService/ListPermissions", {"parent": "tunedModels/x", "pageSize": 3})
    assert (dict(found.path), found.query, found.body) == ({"model": "x"}, {"page_size": "3"}, b"")


def test_a_field_is_the_body_without_the_name_in_it(world: World) -> None:
    request = {"tunedModel": {"name": "tunedModels/x", "topP": 0.0}, "updateMask": "topP,displayName"}
    found = transcoded(world, "ModelService/UpdateTunedModel", request)
    assert found.path == {"model": "x"}
    assert found.query == {"update_mask": "topP,displayName"}
    assert orjson.loads(found.body) == {"topP": 0.0}


def test_all_but_the_name_is_the_body_where_the_rule_says_so(world: World) -> None:
    request = {"model": "tunedModels/x", "contents": [{"parts": [{"text": "?"}]}]}
    found = transcoded(world, "GenerativeService/GenerateContent", request)
    assert (list(found.path.values()), found.query) == (["x"], {})
    assert orjson.loads(found.body) == {"contents": [{"parts": [{"text": "?"}]}]}


def test_operations_are_listed_for_all_or_for_one_model(world: World) -> None:
    everywhere = transcoded(world, "/google.longrunning.Operations/ListOperations", {})
    of_one = transcoded(world, "/google.longrunning.Operations/ListOperations", {"name": "tunedModels/x"})
    assert (dict(everywhere.path), dict(of_one.path)) == ({}, {"model": "x"})
    assert everywhere.endpoint.handler != of_one.endpoint.handler


@pytest.mark.parametrize("name", ["", "x", "models/x", "tunedModels/", "tunedModels/x/permissions/y", "tunedModels/x/"])
def test_a_name_of_another_form_reaches_no_other_method(world: World, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not of the form tunedModels/\*"):
        transcoded(world, "ModelService/DeleteTunedModel", {"name": name})


def test_methods_without_a_route_are_not_there(world: World) -> None:
    assert PACKAGE + "GenerativeService/EmbedContent" not in bind_methods(world.app.routes)
    assert bind_methods([]) == {}


def test_paths_in_rows_are_in_snake_case() -> None:
    assert all(rpc.field == to_snake(rpc.field) and rpc.body == to_snake(rpc.body) for rpc in RPCS)

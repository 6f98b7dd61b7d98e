"""The table of methods: every row has a route under every version, and no route of the API stands beside the table."""

import pytest
from starlette.routing import Route

from kastor.api.google.methods import METHODS, VERSIONS
from support.api_world import World


@pytest.mark.parametrize("version", VERSIONS)
def test_the_routes_of_a_version_are_the_rows_of_the_table(world: World, version: str) -> None:
    served = sorted(
        (verb, route.path)
        for route in world.app.routes
        if isinstance(route, Route) and route.path.startswith(f"/{version}/")
        for verb in (route.methods or set()) - {"HEAD"}
    )
    assert served == sorted((method.rule.verb, method.rule.route_path(version)) for method in METHODS.values())


def test_ids_follow_the_resources_of_the_path() -> None:
    for method in METHODS.values():
        collections = method.rule.path(method.rule.pattern).partition(":")[0].split("/")[::2]
        assert method.id.split(".")[:-1] == (["media"] if method.id == "media.upload" else collections)

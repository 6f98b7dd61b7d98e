"""The filters of lists: what they mean, and what they are refused for."""

from typing import Any

import pytest

from kastor.api.gemini.filters import model_filter, operation_filter
from kastor.domain.model_filter import ModelFilter
from kastor.domain.permission import Role
from support.api_world import World, error_of, fields_of

OWNER, WRITER, READER = (frozenset({role}) for role in (Role.OWNER, Role.WRITER, Role.READER))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (None, ModelFilter()),
        ("  ", ModelFilter()),
        ("owner:me", ModelFilter(roles=OWNER)),
        ("Writers:ME", ModelFilter(roles=WRITER)),
        ("readers:me", ModelFilter(roles=READER)),
        ("readers:everyone", ModelFilter(everyone=True)),
        ("owner:me increment", ModelFilter(("increment",), OWNER)),
        ("owner:me AND writers:me", ModelFilter(roles=OWNER | WRITER)),
        ('"number generator"\tnext', ModelFilter(("number generator", "next"))),
        ('"owner:me" "OR" or 12:30', ModelFilter(("owner:me", "OR", "or", "12:30"))),
        ('"" x', ModelFilter(("x",))),
    ],
)
def test_terms_between_spaces_hold_all_together(text: str | None, meant: ModelFilter) -> None:
    assert model_filter(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "state:x",
        "state=ACTIVE",
        "tuningTask.state:ACTIVE",
        "owner:bob@example.org",
        "owner:everyone",
        "writers:everyone",
        "-readers:me",
        "(owner:me",
        "owner:",
        "a OR b",
        "NOT a",
        '"open',
        'o"p"',
        'owner:"me"',
        "x" * 501,
        "a\0b",
    ],
)
def test_what_is_not_known_is_refused_with_what_is(world: World, text: str) -> None:
    answer = world.call("GET", "/v1beta/tunedModels", params={"filter": text})
    assert (answer.status_code, fields_of(answer)) == (400, ["filter"])
    if ":" in text and '"' not in text:
        assert "owner:me, writers:me, readers:me, readers:everyone" in error_of(answer)["message"]


def listed(world: World, filter_text: str, items: str = "tunedModels") -> list[str]:
    answer = world.call("GET", f"/v1/{items}", params={"filter": filter_text})
    assert answer.status_code == 200, answer.text
    return [item["name"].split("/")[1] for item in answer.json().get(items, [])]


def test_a_list_is_filtered_by_text_and_owner(world: World) -> None:
    world.create("one", displayName="Number generator")
    world.create("two", displayName="x", description="counts the NUMBER 100%")
    for text, names in (
        ("number", ["two", "one"]),
        ("owner:me number generator", ["one"]),
        ('"number generator"', ["one"]),
        ('"generator number"', []),
        ("100%", ["two"]),
        ("1%0", []),
        ("readers:me", []),
        ("readers:everyone", []),
    ):
        assert listed(world, text) == names
    for raw in ("owner:me", "owner%3Ame", "owner%3Ame+number"):  # as the clients write it
        assert len(world.call("GET", f"/v1beta/tunedModels?filter={raw}").json()["tunedModels"]) == 2


def test_a_page_token_is_good_for_its_own_filter_only(world: World) -> None:
    for name in ("one", "two", "three"):
        world.create(name)

    def page(**params: Any) -> Any:
        return world.call("GET", "/v1beta/tunedModels", params={"pageSize": 1, **params})

    token = page(filter="number").json()["nextPageToken"]
    assert page(filter="number", pageToken=token).json()["tunedModels"][0]["name"] == "tunedModels/two"
    for other in ({}, {"filter": "number generator"}):
        answer = page(pageToken=token, **other)
        assert (answer.status_code, fields_of(answer)) == (400, ["pageToken"])
    plain = page().json()["nextPageToken"]
    assert page(filter="number", pageToken=plain).status_code == 400
    assert world.call("GET", "/v1/operations", params={"pageToken": plain}).status_code == 400
    assert world.call("GET", "/kastor/v1/jobs", params={"pageToken": plain}).status_code == 400


def test_operations_are_filtered_by_whether_they_are_done(world: World) -> None:
    world.failed("ended")
    world.create("waiting")
    for text, names in (
        ("done:true", ["ended"]),
        (" done = TRUE ", ["ended"]),
        ("done:false", ["waiting"]),
        ("", ["waiting", "ended"]),
    ):
        assert listed(world, text, "operations") == names
        own = world.call("GET", "/v1/tunedModels/ended/operations", params={"filter": text}).json()
        assert bool(own) is ("ended" in names)


@pytest.mark.parametrize("text", ["done:maybe", "name:x", "done", "done:true done:false"])
@pytest.mark.parametrize("target", ["/v1/operations", "/v1/tunedModels/numbers/operations"])
def test_another_filter_of_operations_is_refused(world: World, target: str, text: str) -> None:
    world.create()
    answer = world.call("GET", target, params={"filter": text})
    assert (answer.status_code, fields_of(answer)) == (400, ["filter"])
    assert "done:true" in error_of(answer)["message"]
    assert operation_filter("done:true").done is True


def test_every_list_of_operations_takes_what_is_documented_for_it(world: World) -> None:
    world.create()
    for target in ("/v1/operations", "/v1/tunedModels/numbers/operations"):
        answer = world.call("GET", f"{target}?returnPartialSuccess=true&pageSize=5&filter=")
        assert len(answer.json()["operations"]) == 1

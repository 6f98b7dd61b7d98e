"""The discovery document tells what this server has, and nothing else."""

import pytest

from kastor.api.gemini.discovery import LISTED
from kastor.api.google.methods import VERSIONS, ApiMethod
from support.api_world import World, error_of


def test_the_document_leads_back_to_this_server(world: World) -> None:
    answer = world.call("GET", "/$discovery/rest?version=v1beta&key=any", headers={"Host": "127.0.0.1:4711"})
    found = answer.json()
    assert found["rootUrl"] == "http://127.0.0.1:4711/"
    upload = found["resources"]["media"]["methods"]["upload"]
    assert upload["mediaUpload"]["protocols"]["resumable"]["path"] == "/resumable/upload/v1beta/files"
    assert upload["mediaUpload"]["maxSize"] == str(world.max_file_bytes)


def test_no_key_is_asked_for(world: World) -> None:
    locked = World(world.folder, world.database, keys={"ada@example.org": "key-of-ada"})
    assert locked.call("GET", "/$discovery/rest").json()["version"] == "v1beta"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", LISTED, ids=lambda method: method.id)
def test_every_method_in_it_has_a_route(world: World, method: ApiMethod, version: str) -> None:
    rule = method.rule
    path = rule.path(rule.pattern.replace("*", "x"))
    answer = world.call(rule.verb, f"/{version}/{path}?{'&'.join(f'{name}=' for name in method.query)}")
    if answer.status_code >= 400:  # there is no such model, or the body was empty; not: there is no such method
        said = error_of(answer)
        assert answer.status_code not in (405, 501)
        assert "There is no " + rule.verb not in said["message"]
        assert "query parameter" not in said["message"]


def test_every_message_it_refers_to_is_in_it(world: World) -> None:
    text = world.call("GET", "/$discovery/rest?version=v1").text
    found = world.call("GET", "/$discovery/rest?version=v1").json()
    referred = {line.partition(": ")[2].strip(' ",') for line in text.splitlines() if '"$ref"' in line}
    assert referred <= found["schemas"].keys()


def test_a_version_that_is_none_is_refused(world: World) -> None:
    answer = world.call("GET", "/$discovery/rest?version=v9")
    assert (answer.status_code, error_of(answer)["status"]) == (404, "NOT_FOUND")

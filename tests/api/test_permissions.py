"""Permissions of tuned models over the wire, with callers of several roles."""

from typing import Any

import httpx
import pytest

from kastor.domain.job import State
from kastor.store.database import Database
from support.api_world import World, error_of, fields_of, keep_checkpoint, tuning_body

ADA, BOB, CLEO, EVE = (f"{name}@example.org" for name in ("ada", "bob", "cleo", "eve"))
MODEL = "/v1beta/tunedModels/numbers"


class Callers:
    """The same server for callers with a key each: the key is the name."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, email: str, method: str, target: str, body: object = None) -> httpx.Response:
        options: dict[str, Any] = {} if body is None else {"json": body}
        return self.world.call(method, target, headers={"x-goog-api-key": f"key of {email}"}, **options)

    def share(self, email: str, role: str, by: str = ADA, grantee: str = "USER") -> str:
        """The name of a new permission."""
        body = {"granteeType": grantee, "emailAddress": email, "role": role}
        answer = self(by, "POST", f"{MODEL}/permissions", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["name"])


@pytest.fixture
def call(world: World, store: Database) -> Callers:
    """Ada owns `numbers`, which is ready to use."""
    keyed = World(world.folder, store, keys={email: f"key of {email}" for email in (ADA, BOB, CLEO, EVE)})
    callers = Callers(keyed)
    made = callers(ADA, "POST", "/v1beta/tunedModels?tunedModelId=numbers", tuning_body())
    assert made.status_code == 200, made.text
    job = keyed.start()
    keyed.step(job, 1)
    keyed.jobs.move(job, State.SUCCEEDED, at=keyed.clock())
    return callers


def uses(operation: str, job: str) -> dict[str, list[tuple[str, str, object]]]:
    """What each role may do, the smaller ones first; of the owner's, giving the model away."""
    hello = {"contents": [{"parts": [{"text": "1"}]}]}
    return {
        "READER": [
            ("GET", MODEL, None),
            ("POST", f"{MODEL}:generateContent", hello),
            ("POST", f"{MODEL}:streamGenerateContent?alt=sse", hello),
            ("POST", f"{MODEL}:countTokens", hello),
            ("GET", f"{MODEL}/operations", None),
            ("GET", operation, None),
            ("GET", job, None),
        ],
        "WRITER": [
            ("PATCH", MODEL, {"description": "d"}),
            ("POST", f"{MODEL}:cancel", None),
            ("POST", f"{operation}:cancel", None),
            ("POST", f"{job}:cancel", None),
            ("GET", f"{job}/log", None),
            ("GET", f"{MODEL}/permissions", None),
            ("GET", f"{MODEL}/permissions/owner", None),
        ],
        "OWNER": [("POST", f"{MODEL}:transferOwnership", {"emailAddress": "new@example.org"})],
    }


@pytest.mark.parametrize("role", [None, "READER", "WRITER", "OWNER"])
def test_a_role_opens_what_it_says_and_nothing_above(call: Callers, role: str | None) -> None:
    job = call(ADA, "GET", "/kastor/v1/jobs").json()["jobs"][0]
    caller = ADA if role == "OWNER" else BOB
    if role in ("READER", "WRITER"):
        call.share(BOB, role)
    order = ["READER", "WRITER", "OWNER"]
    allowed = order[: order.index(role) + 1] if role else []
    for needed, requests in uses(f"/v1/{job['operation']}", f"/kastor/v1/jobs/{job['id']}").items():
        for method, target, body in requests:
            answer = call(caller, method, target, body)
            assert answer.status_code == (200 if needed in allowed else 403), (role, method, target, answer.text)
            if needed not in allowed:
                error = error_of(answer)
                assert error["status"] == "PERMISSION_DENIED"
                said = "You do not have permission to access tuned model tunedModels/numbers"
                assert error["message"] == said if role is None else error["message"].startswith(f"{said} as {needed}")


def test_only_the_owner_deletes(call: Callers) -> None:
    call.share(BOB, "WRITER")
    for caller in (BOB, EVE):
        assert call(caller, "DELETE", MODEL).status_code == 403
    assert call(ADA, "DELETE", MODEL).json() == {}
    assert error_of(call(EVE, "GET", MODEL))["message"] == "Tuned model tunedModels/numbers does not exist."


def test_an_operator_may_do_everything(call: Callers, world: World) -> None:
    for method, target in (("GET", MODEL), ("GET", f"{MODEL}/permissions"), ("DELETE", MODEL)):
        assert world.call(method, target).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"granteeType": 1, "emailAddress": "a@b.c", "role": 2},
        {"grantee_type": "USER", "email_address": "A@B.C", "role": "WRITER"},
        {"name": "echoed", "granteeType": "USER", "emailAddress": " a@b.c ", "role": 2},
    ],
)
def test_a_permission_makes_the_round_trip_of_the_sdks(call: Callers, body: object) -> None:
    made = call(ADA, "POST", f"{MODEL}/permissions", body).json()
    name = made.pop("name")
    parent, _, permission_id = name.rpartition("/")
    assert parent == "tunedModels/numbers/permissions"
    assert permission_id.isalnum() and permission_id.islower() and permission_id.isascii()
    assert made == {"granteeType": "USER", "emailAddress": "a@b.c", "role": "WRITER"}
    echoed = {"granteeType": 1, "emailAddress": "a@b.c", "role": 3}
    changed = call(ADA, "PATCH", f"/v1beta/{name}?updateMask=role&%24alt=json%3Benum-encoding%3Dint", echoed).json()
    assert changed == made | {"name": name, "role": "READER"}
    assert call(ADA, "GET", f"/v1/{name}").json() == changed
    assert call(ADA, "DELETE", f"/v1beta/{name}").json() == {}
    for method, query in (("GET", ""), ("PATCH", "?updateMask=role"), ("DELETE", "")):
        gone = call(ADA, method, f"/v1beta/{name}{query}", {"role": 3} if method == "PATCH" else None)
        assert gone.status_code == 404
        assert error_of(gone)["message"] == f"Permission {name} does not exist."


def test_everyone_has_no_address(call: Callers) -> None:
    made = call(ADA, "POST", f"{MODEL}/permissions", {"role": "READER", "grantee_type": "EVERYONE"}).json()
    assert made.keys() == {"name", "granteeType", "role"}
    assert call(EVE, "GET", MODEL).status_code == 200
    call(ADA, "DELETE", f"/v1/{made['name']}")
    assert call(EVE, "GET", MODEL).status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "granteeType"),
        ({"role": "READER"}, "granteeType"),
        ({"role": "READER", "granteeType": 0, "emailAddress": "a@b.c"}, "granteeType"),
        ({"role": "READER", "granteeType": "PLANET"}, "granteeType"),
        ({"role": "READER", "granteeType": 4}, "granteeType"),
        ({"granteeType": "EVERYONE"}, "role"),
        ({"granteeType": "EVERYONE", "role": 0}, "role"),
        ({"granteeType": "EVERYONE", "role": "ADMIN"}, "role"),
        ({"granteeType": "EVERYONE", "role": "WRITER"}, "role"),
        ({"granteeType": "EVERYONE", "role": "OWNER"}, "role"),
        ({"granteeType": "USER", "emailAddress": "a@b.c", "role": "OWNER"}, "role"),
        ({"granteeType": "EVERYONE", "emailAddress": "a@b.c", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "role": "READER"}, "emailAddress"),
        ({"granteeType": "GROUP", "emailAddress": "", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": "nobody", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": "a@b.c,d@e.f", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": "a\0@b.c", "role": "READER"}, "emailAddress"),
        ({"granteeType": "USER", "emailAddress": f"{'a' * 320}@b.c", "role": "READER"}, "emailAddress"),
    ],
)
@pytest.mark.parametrize("caller", [ADA, BOB])
def test_a_permission_that_widens_or_is_half_said_is_refused(
    call: Callers, caller: str, body: dict[str, object], field: str
) -> None:
    call.share(BOB, "WRITER")
    before = call(ADA, "GET", f"{MODEL}/permissions").json()
    answer = call(caller, "POST", f"{MODEL}/permissions", body)
    assert (answer.status_code, fields_of(answer)) == (400, [field])
    assert call(ADA, "GET", f"{MODEL}/permissions").json() == before


def test_who_has_a_permission_gets_no_second_one(call: Callers) -> None:
    call.share(BOB, "READER")
    call(ADA, "POST", f"{MODEL}/permissions", {"granteeType": 3, "role": 3})
    for grantee, email in (("USER", "BOB@example.org"), ("USER", ADA), ("EVERYONE", None)):
        body = {"granteeType": grantee, "role": "READER"} | ({"emailAddress": email} if email else {})
        answer = call(ADA, "POST", f"{MODEL}/permissions", body)
        assert answer.status_code == 409
        assert error_of(answer)["status"] == "ALREADY_EXISTS"
    call.share(BOB, "READER", grantee="GROUP")  # a group of that address is somebody else


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("", {"role": "READER"}, "updateMask"),
        ("?updateMask=", {"role": "READER"}, "updateMask"),
        ("?updateMask=role,emailAddress", {"role": "READER"}, "updateMask"),
        ("?updateMask=*", {"role": "READER"}, "updateMask"),
        ("?updateMask=role", {}, "role"),
        ("?updateMask=role", {"role": 0}, "role"),
        ("?updateMask=role", {"role": "OWNER"}, "role"),
    ],
)
@pytest.mark.parametrize("caller", [ADA, BOB])
def test_only_the_role_changes_and_never_to_owner(
    call: Callers, caller: str, query: str, body: object, field: str
) -> None:
    name = call.share(BOB, "WRITER")
    answer = call(caller, "PATCH", f"/v1beta/{name}{query}", body)
    assert (answer.status_code, fields_of(answer)) == (400, [field])
    assert call(ADA, "GET", f"/v1beta/{name}").json()["role"] == "WRITER"


def test_a_change_of_role_leaves_the_grantee(call: Callers) -> None:
    name = call.share(BOB, "WRITER")
    body = {"granteeType": "EVERYONE", "emailAddress": EVE, "role": "READER"}
    changed = call(ADA, "PATCH", f"/v1/{name}?update_mask=role", body).json()
    assert changed == {"name": name, "granteeType": "USER", "emailAddress": BOB, "role": "READER"}
    everyone = call(ADA, "POST", f"{MODEL}/permissions", {"granteeType": 3, "role": 3}).json()["name"]
    assert call(ADA, "PATCH", f"/v1/{everyone}?updateMask=role", {"role": "WRITER"}).status_code == 400


def test_the_owners_permission_is_listed_first_and_stays(call: Callers) -> None:
    name = call.share(BOB, "WRITER")
    owner = {
        "name": "tunedModels/numbers/permissions/owner",
        "granteeType": "USER",
        "emailAddress": ADA,
        "role": "OWNER",
    }
    writer = {"name": name, "granteeType": "USER", "emailAddress": BOB, "role": "WRITER"}
    for caller in (ADA, BOB):
        for method, query in (("PATCH", "?updateMask=role"), ("DELETE", "")):
            answer = call(caller, method, f"/v1/{owner['name']}{query}", {"role": 3} if method == "PATCH" else None)
            assert (answer.status_code, error_of(answer)["status"]) == (400, "FAILED_PRECONDITION")
        assert call(caller, "GET", f"{MODEL}/permissions").json() == {"permissions": [owner, writer]}
        assert call(caller, "GET", f"/v1/{owner['name']}").json() == owner


def test_permissions_are_paged_owner_first(call: Callers) -> None:
    for number in range(12):
        call.share(f"user{number}@example.org", "READER")
    first = call(ADA, "GET", f"{MODEL}/permissions").json()
    assert len(first["permissions"]) == 10
    emails, glue = [], ""
    while True:
        page = call(ADA, "GET", f"{MODEL}/permissions?page_size=1{glue}").json()
        emails += [permission["emailAddress"] for permission in page["permissions"]]
        if "nextPageToken" not in page:
            break
        glue = f"&page_token={page['nextPageToken']}"
    assert emails == [ADA, *(f"user{number}@example.org" for number in range(12))]
    foreign = call(ADA, "GET", f"/v1/tunedModels?pageToken={first['nextPageToken']}")
    assert (foreign.status_code, fields_of(foreign)) == (400, ["pageToken"])


def test_a_model_is_given_away_and_its_owner_stays_a_writer(call: Callers) -> None:
    call.share(BOB, "READER")
    assert call(BOB, "POST", f"{MODEL}:transferOwnership", {"emailAddress": BOB}).status_code == 403
    assert call(ADA, "POST", f"{MODEL}:transferOwnership", {"emailAddress": "BOB@example.org"}).json() == {}
    listed = call(ADA, "GET", f"{MODEL}/permissions").json()["permissions"]
    assert [(p["emailAddress"], p["role"]) for p in listed] == [(BOB, "OWNER"), (ADA, "WRITER")]
    assert call(ADA, "DELETE", MODEL).status_code == 403
    assert call(BOB, "POST", f"{MODEL}:transferOwnership", {"email_address": ADA}).json() == {}
    listed = call(ADA, "GET", f"{MODEL}/permissions").json()["permissions"]
    assert [(p["emailAddress"], p["role"]) for p in listed] == [(ADA, "OWNER"), (BOB, "WRITER")]


@pytest.mark.parametrize("body", [{}, {"emailAddress": ""}, {"emailAddress": "nobody"}, {"emailAddress": ADA}])
def test_a_model_is_given_to_an_address_and_to_somebody_else(call: Callers, body: object) -> None:
    answer = call(ADA, "POST", f"{MODEL}:transferOwnership", body)
    assert (answer.status_code, fields_of(answer)) == (400, ["emailAddress"])


@pytest.mark.parametrize("target", ["/v1/tunedModels/none/permissions", "/v1/tunedModels/none:transferOwnership"])
def test_permissions_of_no_model_are_not_found(call: Callers, target: str) -> None:
    answer = call(
        ADA, "POST", target, {"granteeType": 3, "role": 3} if "permissions" in target else {"emailAddress": BOB}
    )
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "Tuned model tunedModels/none does not exist."


def test_lists_hold_what_is_owned_or_shared_by_name(call: Callers) -> None:
    def names(caller: str, target: str) -> list[str]:
        answer = call(caller, "GET", target).json()
        return [item.get("name", item.get("id")) for items in answer.values() for item in items]

    lists = ("/v1/tunedModels", "/v1/operations", "/kastor/v1/jobs")
    assert [len(names(BOB, target)) for target in lists] == [0, 0, 0]
    everyone = call(ADA, "POST", f"{MODEL}/permissions", {"granteeType": 3, "role": 3}).json()["name"]
    assert [len(names(BOB, target)) for target in lists] == [0, 0, 0]
    assert names(BOB, "/v1/tunedModels?filter=readers:everyone") == ["tunedModels/numbers"]
    call(ADA, "DELETE", f"/v1/{everyone}")
    assert names(BOB, "/v1/tunedModels?filter=readers:everyone") == []
    call.share(BOB, "READER")
    assert [len(names(caller, target)) for caller in (ADA, BOB) for target in lists] == [1] * 6


def test_a_job_whose_models_name_somebody_else_took_is_nobodys(call: Callers, world: World) -> None:
    answer = call(EVE, "POST", "/v1/tunedModels?tunedModelId=short", tuning_body())
    job = world.jobs.get(answer.json()["name"].rpartition("/")[2])
    world.jobs.claim(at=world.clock(), max_active=9)
    call(EVE, "DELETE", "/v1/tunedModels/short")
    assert call(EVE, "GET", f"/kastor/v1/jobs/{job.id}").status_code == 404
    call(BOB, "POST", "/v1/tunedModels?tunedModelId=short", tuning_body())
    for caller in (BOB, EVE):
        for method, target in (("GET", ""), ("POST", ":cancel"), ("GET", "/log")):
            assert call(caller, method, f"/kastor/v1/jobs/{job.id}{target}").status_code in (403, 404)
    assert world.call("GET", f"/kastor/v1/jobs/{job.id}").status_code == 200


@pytest.mark.parametrize(("role", "status"), [(None, 403), ("READER", 403), ("WRITER", 200), ("OWNER", 200)])
def test_writers_resume_a_failed_job_and_see_both(call: Callers, world: World, role: str | None, status: int) -> None:
    assert call(ADA, "POST", "/v1beta/tunedModels?tunedModelId=second", tuning_body()).status_code == 200
    job = call(ADA, "GET", "/kastor/v1/jobs").json()["jobs"][0]
    caller = ADA if role == "OWNER" else BOB
    if role in ("READER", "WRITER"):
        body = {"granteeType": "USER", "emailAddress": BOB, "role": role}
        assert call(ADA, "POST", "/v1beta/tunedModels/second/permissions", body).status_code == 200
    claimed = world.jobs.claim(at=world.clock(), max_active=9)
    assert claimed is not None
    keep_checkpoint(world.blobs.checkpoints(job["id"]), 3)
    world.jobs.move(claimed, State.FAILED, at=world.clock())
    answer = call(caller, "POST", f"/kastor/v1/jobs/{job['id']}:resume", {})
    assert answer.status_code == status, answer.text
    if status == 200:
        listed = call(caller, "GET", "/kastor/v1/jobs").json()["jobs"]
        assert [one["id"] for one in listed][:2] == [answer.json()["id"], job["id"]]
        assert call(caller, "GET", f"/kastor/v1/jobs/{job['id']}").json()["resumedAs"] == answer.json()["id"]
        assert call(EVE, "GET", f"/kastor/v1/jobs/{job['id']}").status_code == 403

"""The operator's routes: jobs as they are."""

import pytest

from kastor.api.http.paging import decode_page_token, encode_page_token, position_token
from kastor.domain.errors import Code
from kastor.domain.job import JobError, State, TuningJob
from kastor.security.auth import Authenticator
from kastor.store.blobs.checkpoint_folder import CheckpointFolder
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.manifests import STATE_FILE
from kastor.store.database import Database
from support.api_world import World, error_of, fields_of, keep_checkpoint, tuning_body


def test_a_job_shows_what_it_does_and_how_far_it_is(world: World) -> None:
    world.create()
    job = world.start()
    for number in (1, 2):
        world.step(job, number)
    shown = world.call("GET", f"/kastor/v1/jobs/{job.id}").json()
    assert shown == {
        "id": job.id,
        "tunedModel": "tunedModels/numbers",
        "operation": f"tunedModels/numbers/operations/{job.id}",
        "state": "RUNNING",
        "baseModel": "models/smollm2-135m-instruct",
        "numExamples": 15,
        "totalSteps": 19,
        "completedSteps": 2,
        "hyperparameters": {"epochCount": 5, "batchSize": 4, "learningRate": 0.001},
        "supervise": "all",
        "trainTower": False,
        "adapter": {"rank": 8, "alpha": 16.0},
        "createTime": "2026-03-01T12:00:01.000000Z",
        "startTime": "2026-03-01T12:00:02.000000Z",
        "attempt": 1,
        "lastSnapshot": {
            "step": 2,
            "epoch": 1,
            "meanLoss": 1.4020672,
            "numTokens": 120,
            "tokensPerSecond": 240.0,
            "computeTime": "2026-03-01T12:00:05.000000Z",
        },
        "etaSeconds": 8.5,
    }


def test_a_full_view_adds_events_and_snapshots(world: World) -> None:
    job = world.failed()
    shown = world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    assert shown["error"] == {
        "code": "RESOURCE_EXHAUSTED",
        "message": "No space left on the disk; free some and tune again.",
    }
    assert shown["events"][0] == {"at": "2026-03-01T12:00:01.000000Z", "level": "info", "message": "QUEUED"}
    assert shown["snapshots"] == [] and "etaSeconds" not in shown and shown["endTime"]


def test_a_full_view_shows_the_certificate_of_a_success(world: World) -> None:
    job = world.active()
    assert "certificate" not in world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    file = JobFiles(world.folder).certificate(job.id)
    file.parent.mkdir(parents=True)
    file.write_text('{"format": 1, "verdict": "passed", "effect": 1.5}')
    shown = world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    assert shown["certificate"] == {"format": 1, "verdict": "passed", "effect": 1.5}
    assert "certificate" not in world.call("GET", f"/kastor/v1/jobs/{job.id}").json()


def test_a_full_view_counts_the_rows_as_the_report_does(world: World) -> None:
    job = world.active()
    assert "rows" not in world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    file = JobFiles(world.folder).report(job.id)
    file.write_text('{"rows": 12, "accepted": 9, "dropped": 3, "leftOut": [{"line": 4}]}')
    shown = world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    assert shown["rows"] == {"total": 12, "trainedOn": 9, "leftOut": 3}
    file.write_text('{"rows": ')
    assert "rows" not in world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()


@pytest.mark.parametrize("text", [b'{"format": 1, "ver', b"", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_certificate_is_shown_as_such(world: World, text: bytes) -> None:
    job = world.active()
    file = JobFiles(world.folder).certificate(job.id)
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    answer = world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full")
    assert answer.status_code == 200
    shown = answer.json()["certificate"]
    assert shown["verdict"] == "unreadable" and f"certificate.json of job {job.id} is damaged" in shown["error"]


def test_jobs_are_paged_newest_first(world: World) -> None:
    ids = [world.create(name).id for name in ("one", "two", "three")]
    first = world.call("GET", "/kastor/v1/jobs?pageSize=2").json()
    second = world.call("GET", f"/kastor/v1/jobs?pageSize=2&pageToken={first['nextPageToken']}").json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert "nextPageToken" not in second


def test_a_page_goes_on_after_a_job_that_was_deleted_meanwhile(world: World) -> None:
    ids = [world.create(name).id for name in ("one", "two")]
    token = world.call("GET", "/kastor/v1/jobs?pageSize=1").json()["nextPageToken"]
    world.call("DELETE", "/v1/tunedModels/two")
    rest = world.call("GET", f"/kastor/v1/jobs?pageSize=1&pageToken={token}").json()
    assert [job["id"] for job in rest["jobs"]] == ids[:1]


@pytest.mark.parametrize(("target", "of"), [("/kastor/v1/jobs", "jobs"), ("/v1/tunedModels", "tunedModels ")])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"])
def test_a_made_up_page_token_is_refused(world: World, target: str, of: str, moment: str) -> None:
    sound = position_token(world.now, "x", of=of)
    assert world.call("GET", target, params={"pageToken": sound}).status_code == 200
    made_up = encode_page_token(moment, *decode_page_token(sound, 3)[1:])
    answer = world.call("GET", target, params={"pageToken": made_up})
    assert (answer.status_code, fields_of(answer)) == (400, ["pageToken"])


def test_no_jobs_are_an_empty_list(world: World) -> None:
    assert world.call("GET", "/kastor/v1/jobs").json() == {"jobs": []}


def test_cancel_answers_with_the_job(world: World) -> None:
    job = world.create()
    assert world.call("POST", f"/kastor/v1/jobs/{job.id}:cancel", json={}).json()["state"] == "CANCELLED"
    assert world.jobs.get(job.id).state is State.CANCELLED


def test_a_log_is_read_on_from_an_offset(world: World) -> None:
    job = world.create()
    target = f"/kastor/v1/jobs/{job.id}/log"
    empty = world.call("GET", target)
    assert (empty.text, empty.headers["x-kastor-next-offset"]) == ("", "0")
    world.blobs.log(job.id).write_bytes(b'{"event": "a"}\nb\xc3')
    whole = world.call("GET", target)
    assert whole.content == b'{"event": "a"}\nb\xc3'
    rest = world.call("GET", f"{target}?offset=15")
    assert (rest.content, rest.headers["x-kastor-next-offset"]) == (b"b\xc3", "17")
    assert world.call("GET", f"{target}?offset=999").content == b""


@pytest.mark.parametrize("name", ["log", "report"])
def test_a_file_of_a_job_that_cannot_be_read_is_named(world: World, name: str) -> None:
    job = world.create()
    {"log": world.blobs.log, "report": world.blobs.report}[name](job.id).mkdir()  # as unreadable for root as for others
    answer = world.call("GET", f"/kastor/v1/jobs/{job.id}/{name}")
    assert error_of(answer)["status"] == "DATA_LOSS"
    assert error_of(answer)["message"].startswith(f"The {name} of job {job.id} cannot be read: Is a directory.")


@pytest.mark.parametrize("offset", ["-1", "x", "9" * 30])
def test_a_bad_offset_is_refused(world: World, offset: str) -> None:
    job = world.create()
    assert world.call("GET", f"/kastor/v1/jobs/{job.id}/log?offset={offset}").status_code == 400


@pytest.mark.parametrize("target", ["/kastor/v1/jobs/nope", "/kastor/v1/jobs/nope/log", "/kastor/v1/jobs/..%2f/log"])
def test_an_unknown_job_is_not_found(world: World, target: str) -> None:
    assert error_of(world.call("GET", target))["status"] == "NOT_FOUND"


def failed_with_checkpoints(world: World, *steps: int) -> TuningJob:
    """A job that failed after it had kept checkpoints."""
    world.create()
    job = world.start()
    for step in range(1, 8):
        world.step(job, step)
    for step in steps:
        keep_checkpoint(world.blobs.checkpoints(job.id), step)
    error = JobError(Code.INTERNAL, "The worker was killed.")
    return world.jobs.move(world.jobs.get(job.id), State.FAILED, at=world.clock(), error=error)


def test_a_failed_job_with_checkpoints_is_resumed_as_a_new_one_that_makes_the_same_model(world: World) -> None:
    job = failed_with_checkpoints(world, 4, 6)
    assert world.call("GET", f"/kastor/v1/jobs/{job.id}").json()["resumable"] is True
    answer = world.call("POST", f"/kastor/v1/jobs/{job.id}:resume", json={})
    assert answer.status_code == 200, answer.text
    new = answer.json()
    assert (new["state"], new["completedSteps"], new["tunedModel"]) == ("QUEUED", 6, "tunedModels/numbers")
    assert world.woken.is_set()
    model = world.call("GET", "/v1beta/tunedModels/numbers").json()
    assert model["state"] == "CREATING"
    assert [s["step"] for s in model["tuningTask"]["snapshots"]] == [1, 2, 3, 4, 5, 6]
    stored = world.jobs.get(new["id"])
    assert (stored.spec, stored.creator) == (job.spec, job.creator)
    assert world.blobs.dataset(new["id"]).read_bytes() == world.blobs.dataset(job.id).read_bytes()
    found = CheckpointFolder(world.blobs.checkpoints(new["id"])).latest_intact(lambda _: None)
    assert found is not None and found.step == 6


def test_the_operation_of_a_resumed_job_stays_failed_beside_the_new_one(world: World) -> None:
    job = failed_with_checkpoints(world, 6)
    new = world.call("POST", f"/kastor/v1/jobs/{job.id}:resume", json={}).json()
    old_operation = world.call("GET", f"/v1beta/tunedModels/numbers/operations/{job.id}").json()
    assert old_operation["done"] is True
    assert old_operation["error"]["message"] == "The worker was killed."
    assert "done" not in world.call("GET", f"/v1beta/{new['operation']}").json()
    old = world.call("GET", f"/kastor/v1/jobs/{job.id}?view=full").json()
    assert (old["state"], old["resumedAs"]) == ("FAILED", new["id"])
    assert "resumable" not in old
    assert old["events"][-1]["message"] == f"resumed as job {new['id']}"
    listed = [one["id"] for one in world.call("GET", "/kastor/v1/jobs").json()["jobs"]]
    assert listed == [new["id"], job.id]


def test_a_resumed_job_that_fails_can_be_resumed_again_and_all_operations_stay(world: World) -> None:
    first = failed_with_checkpoints(world, 6)
    second = world.call("POST", f"/kastor/v1/jobs/{first.id}:resume", json={}).json()["id"]
    world.start()
    world.jobs.move(world.jobs.get(second), State.FAILED, at=world.clock(), error=JobError(Code.INTERNAL, "Again."))
    third = world.call("POST", f"/kastor/v1/jobs/{second}:resume", json={}).json()["id"]
    for job_id in (first.id, second):
        assert world.jobs.get(job_id).resumed_as == third
        assert world.call("GET", f"/v1beta/tunedModels/numbers/operations/{job_id}").json()["done"] is True
    again = world.call("POST", f"/kastor/v1/jobs/{first.id}:resume", json={})
    assert error_of(again)["status"] == "FAILED_PRECONDITION"
    assert third in again.json()["error"]["message"]


def test_deleting_the_model_of_a_resumed_job_removes_all_that_belongs_to_it(world: World) -> None:
    job = failed_with_checkpoints(world, 6)
    world.service.delete_orphans()
    new = world.call("POST", f"/kastor/v1/jobs/{job.id}:resume", json={}).json()["id"]
    world.service.delete_orphans()
    assert {one.id for one in world.jobs.page(limit=9)} == {job.id, new}
    world.call("DELETE", "/v1beta/tunedModels/numbers")
    world.service.delete_orphans()
    assert world.jobs.page(limit=9) == []
    assert not world.blobs.job_dir(job.id).exists() and not world.blobs.job_dir(new).exists()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (State.FAILED, "kept no sound checkpoint to resume from; tune again"),
        (State.SUCCEEDED, "is SUCCEEDED; only a job that failed can be resumed"),
        (None, "is RUNNING; only a job that failed can be resumed"),
    ],
)
def test_what_cannot_be_resumed_is_refused_with_the_reason(world: World, end: State | None, said: str) -> None:
    world.create()
    job = world.start()
    if end is not None:
        world.jobs.move(job, end, at=world.clock())
    answer = world.call("POST", f"/kastor/v1/jobs/{job.id}:resume", json={})
    assert error_of(answer)["status"] == "FAILED_PRECONDITION"
    assert said in answer.json()["error"]["message"]
    assert [one.id for one in world.jobs.page(limit=9)] == [job.id]
    assert world.call("POST", "/kastor/v1/jobs/none:resume", json={}).status_code == 404


def test_a_damaged_newest_checkpoint_is_resumed_from_the_one_before(world: World) -> None:
    job = failed_with_checkpoints(world, 4, 6)
    (world.blobs.checkpoints(job.id) / "step-000006" / STATE_FILE).write_bytes(b"damaged")
    assert world.call("POST", f"/kastor/v1/jobs/{job.id}:resume", json={}).json()["completedSteps"] == 4


def test_paths_of_the_server_stand_in_the_log_for_operators_only(world: World, store: Database) -> None:
    keys = {email: f"key-of-{email}" for email in ("ada@example.org", "root@example.org")}
    watched = World(world.folder, store, authenticator=Authenticator(keys, operators=["root@example.org"]))
    ada, root = ({"x-goog-api-key": key} for key in keys.values())
    made = watched.call("POST", "/v1beta/tunedModels?tunedModelId=numbers", json=tuning_body(), headers=ada)
    job_id = made.json()["name"].rpartition("/")[2]
    first = f'{{"event": "writing {watched.folder}/my data/x and\\n/usr/lib/y.py", "path": "/v1beta/models"}}\n'
    rest = f'{{"event": "{watched.folder}/half'
    watched.blobs.log(job_id).write_text(first + rest)
    target = f"/kastor/v1/jobs/{job_id}/log"
    assert watched.call("GET", target, headers=root).text == first + rest
    shown = watched.call("GET", target, headers=ada)
    assert shown.text == '{"event": "writing …/my data/x and\\n…/y.py", "path": "/v1beta/models"}\n'
    assert shown.headers["x-kastor-next-offset"] == str(len(first))
    for offset in (5, 30, len(first), len(first) + 4):
        cut = watched.call("GET", f"{target}?offset={offset}", headers=ada)
        assert cut.text == "" and int(cut.headers["x-kastor-next-offset"]) >= len(first), offset
    watched.blobs.log(job_id).write_text(first + rest + '"}\n')
    assert watched.call("GET", f"{target}?offset={len(first)}", headers=ada).text == '{"event": "…/half"}\n'

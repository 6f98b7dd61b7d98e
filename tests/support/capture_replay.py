"""Replays captured requests against an API that is first brought into the state they expect."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import httpx
from sqlalchemy import insert

from kastor.domain.errors import Code
from kastor.domain.job import JobError, State, TuningJob
from kastor.domain.permission import GranteeType, Role
from kastor.store import tables
from kastor.store.blobs.manifests import write_manifest
from support.api_world import ALIAS, World
from support.captures import Capture, Decision, before
from support.domain_values import after, make_job, make_model

IN_PATH = re.compile(r"/tunedModels/(?P<model>[^/:?]+)(?:/operations/(?P<job>[a-z0-9]+))?")
OWNER = "ada@example.org"
NUM_SEVERAL = 5
NUM_STEPS = 3
SOURCE = "increment-1"


def credential(asked: Capture) -> str:
    """The key or the token that the client was given; of an upload's later requests, that of the first."""
    for one in (asked, *before(asked.name)):
        key = one.headers.get("x-goog-api-key") or one.headers.get("authorization", "").removeprefix("Bearer ")
        found = key or parse_qs(one.target.partition("?")[2]).get("key", [""])[0].partition("?")[0]
        if found:
            return found
    raise AssertionError(f"{asked.name} shows no credential")


def prepared(world: World, asked: Capture, decision: Decision) -> None:
    """Bring the world to the place of the decision."""
    if decision.place == "several":
        for number in range(NUM_SEVERAL):
            add_model(world, f"increment-{number}", f"several{number}", display_name=f"increment by {number}")
        return
    if decision.place == "file":
        add_file(world, asked)
        return
    for model_id, job_id in _named(asked):
        if decision.place == "missing":
            model_id = "another-one"
        source = {"source": SOURCE} if decision.place == "derived" else {}
        MOVED.get(decision.place, finish)(world, add_model(world, model_id, job_id, **source))
    _share(world, asked)


def _named(asked: Capture) -> list[tuple[str, str]]:
    """The tuned models that a request is about, with the ids of their jobs."""
    found = IN_PATH.search(asked.path)
    if found:
        return [(found["model"], found["job"] or "job1")]
    in_body = re.search(r'"(?:baseModel|tunedModel)": "tunedModels/([^"]+)"', asked.body.decode("utf-8", "replace"))
    return [(in_body[1], "job1")] if in_body else []


def add_model(world: World, model_id: str, job_id: str, **changes: Any) -> TuningJob:
    """A tuned model of the caller's, its job queued."""
    number = len(world.jobs.page(limit=100))
    job = make_job(job_id, tuned_model_id=model_id, created_at=after(number), updated_at=after(number))
    base = ALIAS.removeprefix("models/")
    named = {"base_model": base, "owner": OWNER, "display_name": "increment", "description": "d"}
    world.jobs.add(job, make_model(job, **named | changes))
    return job


def train(world: World, job: TuningJob) -> None:
    """Some steps of the job."""
    running = world.start()
    assert running.id == job.id
    for number in range(1, NUM_STEPS + 1):
        world.step(running, number)


def finish(world: World, job: TuningJob) -> None:
    """All of its steps."""
    running = world.start()
    for number in range(1, job.spec.total_steps + 1):
        world.step(running, number)
    world.jobs.move(running, State.SUCCEEDED, at=world.clock())
    adapter = world.blobs.adapter(job.id)
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    write_manifest(adapter, {"job": job.id})


def fail(world: World, job: TuningJob) -> None:
    """A failure after some steps."""
    train(world, job)
    error = JobError(Code.INTERNAL, "The worker ended in mid-training.")
    world.jobs.move(world.jobs.get(job.id), State.FAILED, at=world.clock(), error=error)


def cancel(world: World, job: TuningJob) -> None:
    """A cancel after some steps."""
    train(world, job)
    world.jobs.request_cancel(job.id, at=world.clock())
    world.jobs.move(world.jobs.get(job.id), State.CANCELLED, at=world.clock())


def stay(world: World, job: TuningJob) -> None:
    """Nothing: the job waits."""


MOVED: Mapping[str, Callable[[World, TuningJob], None]] = {
    "queued": stay,
    "training": train,
    "failed": fail,
    "cancelled": cancel,
}


def _share(world: World, asked: Capture) -> None:
    """The permission that the path names, and for a list of them one more than the owner's."""
    found = re.fullmatch(r"/\w+/tunedModels/([^/]+)/permissions(?:/(\w+))?", asked.path)
    if found is None or (found[2] is None and asked.method == "POST"):
        return
    grant = {
        "id": found[2] or "102",
        "model_id": found[1],
        "grantee_type": GranteeType.USER,
        "email": "a@b.c",
        "role": Role.WRITER,
        "created_at": after(1),
    }
    with world.database.write() as connection:
        connection.execute(insert(tables.grants).values(grant))


def add_file(world: World, asked: Capture) -> None:
    """The file that the path names, or one; it is the caller's."""
    name = re.search(r"/files/([^/:]+)", asked.path)
    file_id = name[1] if name else "cf0be5077e7e"
    headers = {
        "x-goog-api-key": credential(asked),
        "x-goog-upload-protocol": "resumable",
        "x-goog-upload-command": "start",
        "x-goog-upload-header-content-length": "10",
        "x-goog-upload-header-content-type": "text/plain",
    }
    body = {"file": {"name": f"files/{file_id}", "displayName": "my file"}}
    begun = world.call("POST", "/upload/v1beta/files", headers=headers, json=body)
    assert begun.status_code == 200, begun.text
    rest = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
    ended = world.call("POST", begun.headers["x-goog-upload-url"], headers=rest, content=b"hello file")
    assert ended.status_code == 200, ended.text


def replay(world: World, asked: Capture, decision: Decision) -> httpx.Response:
    """Our answer to the request.

    What only the server can know, and a client got from an earlier answer, is taken from our earlier answer: the URL of
    an upload, the token of a page.
    """
    target = asked.target
    if decision.place == "upload":
        target = _upload_url(world, before(asked.name))
    elif "page_token=" in target.lower() or "pageToken=" in target:
        target = _next_page(world, asked)
    return send(world, asked, target)


def send(world: World, asked: Capture, target: str | None = None) -> httpx.Response:
    """The answer to the request, sent as it is, or to another target."""
    return world.call(asked.method, target or asked.target, headers=dict(asked.headers), content=asked.body)


def _upload_url(world: World, earlier: list[Capture]) -> str:
    starts = [one for one in earlier if "/upload/" in one.path]
    assert len(starts) == 1, earlier
    begun = send(world, starts[0])
    assert begun.status_code == 200, begun.text
    url = str(begun.headers.get("location") or begun.headers["x-goog-upload-url"])
    for chunk in earlier[earlier.index(starts[0]) + 1 :]:
        answer = send(world, chunk, url)
        assert (answer.status_code, answer.headers["x-goog-upload-status"]) == (200, "active"), answer.text
    return url


def _next_page(world: World, asked: Capture) -> str:
    token = re.search(r"&?(page_?[tT]oken)=([^&]*)", asked.target)
    assert token is not None
    first = send(world, asked, asked.target.replace(token[0], ""))
    assert first.status_code == 200, first.text
    return asked.target.replace(token[0], f"&{token[1]}={first.json()['nextPageToken']}")

"""`kastor jobs` against a server whose answers are known."""

import json

import pytest

from kastor.domain.certificate import Certificate, Distance, GoldenRow, Rounding, Tolerance, unreadable_certificate
from support.command_result import Kastor
from support.fake_kastor import JOB_ID, MODEL, FakeServer, Reply, make_job, snapshot

LOG = f"/kastor/v1/jobs/{JOB_ID}/log"


def log_line(message: str, **more: object) -> bytes:
    return json.dumps({"timestamp": "2026-01-02T03:04:05Z", "level": "info", "event": message} | more).encode() + b"\n"


def log_reply(content: bytes, next_offset: int) -> Reply:
    return Reply(content, headers={"X-Kastor-Next-Offset": str(next_offset)})


@pytest.fixture
def jobs(server: FakeServer) -> FakeServer:
    """The fake with one job that has succeeded."""
    server.on("GET", "/kastor/v1/jobs", {"jobs": [make_job("SUCCEEDED", 19)]})
    server.on_job(make_job("SUCCEEDED", 19, snapshots=[snapshot(step) for step in range(1, 20)]))
    return server


def test_list_shows_a_row_per_job(kastor: Kastor, jobs: FakeServer) -> None:
    shown = kastor("jobs", "list", "--server", jobs.url).out
    assert JOB_ID in shown
    assert "succeeded" in shown
    assert "19/19" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_names_and_ids_are_whole_and_on_one_line_however_narrow_the_terminal(
    width: int, kastor: Kastor, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = make_job("CANCELLING", 19, id="b" * 12, tunedModel=f"tunedModels/{'n' * 40}", totalSteps=123_456)
    server.on("GET", "/kastor/v1/jobs", {"jobs": [make_job("SUCCEEDED", 19), long]})
    monkeypatch.setenv("COLUMNS", str(width))
    lines = kastor("jobs", "list", "--server", server.url).out.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= width, lines
    assert lines[2].split()[:3] == [JOB_ID, MODEL, "succeeded"]
    assert lines[3].split()[:3] == [long["id"], long["tunedModel"], "cancelling"]


def test_list_goes_on_over_pages_until_the_limit(kastor: Kastor, server: FakeServer) -> None:
    first = {"jobs": [make_job(id="a"), make_job(id="b")], "nextPageToken": "t"}
    server.on("GET", "/kastor/v1/jobs", first, {"jobs": [make_job(id="c"), make_job(id="d")], "nextPageToken": "u"})
    found = kastor("jobs", "list", "--limit", "3", "--json", "--server", server.url).json
    assert [job["id"] for job in found] == ["a", "b", "c"]
    assert server.seen[1].query == {"pageSize": ["1"], "pageToken": ["t"]}


def test_an_empty_list_says_how_to_begin(kastor: Kastor, server: FakeServer) -> None:
    server.on("GET", "/kastor/v1/jobs", {})
    ran = kastor("jobs", "list", "--server", server.url)
    assert (ran.code, ran.out) == (0, "")
    assert "kastor tune" in ran.err
    assert kastor("jobs", "list", "--json", "--server", server.url).json == []


def test_show_draws_the_loss(kastor: Kastor, jobs: FakeServer) -> None:
    shown = kastor("jobs", "show", JOB_ID, "--server", jobs.url).out
    assert "epochCount 5  batchSize 4  learningRate 0.001" in shown
    assert "mean loss per step" in shown
    assert "⠢" in shown


def test_show_counts_the_rows_that_are_trained_on_and_those_that_were_left_out(
    kastor: Kastor, server: FakeServer
) -> None:
    server.on_job(make_job("SUCCEEDED", 19, rows={"total": 1200, "trainedOn": 1188, "leftOut": 12}))
    assert "1,188 of 1,200 rows, 12 left out" in kastor("jobs", "show", JOB_ID, "--server", server.url).out


def test_show_says_how_near_serving_came_to_training(kastor: Kastor, server: FakeServer) -> None:
    rows = [{"example": 0, "numTokens": 14, "trained": -0.5, "served": -0.51}] * 2
    figures = {"verdict": "passed", "rows": rows, "largestDifference": 0.0213, "effect": 3.2}
    server.on_job(make_job("SUCCEEDED", 19, certificate=figures | {"tolerance": {"largest": 2.0, "mean": 0.2}}))
    shown = " ".join(kastor("jobs", "show", JOB_ID, "--server", server.url).out.split())
    assert "certificate passed: served as trained, 28 tokens of 2 examples" in shown
    assert "at most 0.021 apart (tolerance 2)" in shown


def test_show_says_what_was_compared_in_which_dtype_and_what_rounding_does(kastor: Kastor, server: FakeServer) -> None:
    proof = Certificate(
        base_model="tiny",
        dtype="bfloat16",
        compared_in="float32",
        rows=(GoldenRow(0, 14, -0.5, -0.5),),
        largest_difference=0.00002,
        mean_difference=0.000003,
        decode_difference=0.00001,
        tolerance=Tolerance(0.002, 0.0002),
        rounding=Rounding(Distance(0.436, 1.2), Distance(0.431, 1.1)),
        effect=3.2,
        num_tensors=28,
        finish_reason="STOP",
        num_generated=3,
        versions={},
    )
    server.on_job(make_job("SUCCEEDED", 19, certificate=proof.document()))
    shown = " ".join(kastor("jobs", "show", JOB_ID, "--server", server.url).out.split())
    assert "at most 2e-05 apart in float32 (tolerance 0.002)" in shown
    assert "bfloat16 rounds them by 0.44 on average (0.43 in transformers and peft)" in shown


@pytest.mark.parametrize(
    "stored",
    [unreadable_certificate(JOB_ID), {}, {"verdict": "passed"}, {"verdict": "passed", "rows": 3, "tolerance": []}],
)
def test_show_says_that_a_certificate_is_damaged(kastor: Kastor, server: FakeServer, stored: dict[str, object]) -> None:
    server.on_job(make_job("SUCCEEDED", 19, certificate=stored))
    shown = " ".join(kastor("jobs", "show", JOB_ID, "--server", server.url).out.split())
    assert f"certificate unreadable: certificate.json of job {JOB_ID} is damaged" in shown


def test_show_finds_a_job_by_its_tuned_model(kastor: Kastor, jobs: FakeServer) -> None:
    assert kastor("jobs", "show", MODEL, "--json", "--server", jobs.url).json["id"] == JOB_ID


def test_an_unknown_job_is_an_error_that_says_where_to_look(kastor: Kastor, jobs: FakeServer) -> None:
    ran = kastor("jobs", "show", "nope", "--server", jobs.url)
    assert (ran.code, ran.err) == (1, "Error: There is no job 'nope'. To list the jobs: kastor jobs list\n")


def test_cancel_says_where_the_job_stands(kastor: Kastor, jobs: FakeServer) -> None:
    jobs.on("POST", f"/kastor/v1/jobs/{JOB_ID}:cancel", make_job("CANCELLING", 3))
    assert kastor("jobs", "cancel", JOB_ID, "--server", jobs.url).out == f"{JOB_ID} is cancelling\n"


def test_logs_are_written_for_people(kastor: Kastor, jobs: FakeServer) -> None:
    content = log_line("step", step=3, loss=0.5) + b"Killed\n"
    jobs.on("GET", LOG, log_reply(content, len(content)), log_reply(b"", len(content)))
    lines = kastor("jobs", "logs", JOB_ID, "--server", jobs.url).out.splitlines()
    assert lines[0].endswith("info     step  step=3  loss=0.5")
    assert lines[1] == "Killed"


def test_logs_as_json_are_an_object_a_line(kastor: Kastor, jobs: FakeServer) -> None:
    content = log_line("begun") + b"Killed\n"
    jobs.on("GET", LOG, log_reply(content, len(content)), log_reply(b"", len(content)))
    entries = [
        json.loads(line) for line in kastor("jobs", "logs", JOB_ID, "--json", "--server", jobs.url).out.splitlines()
    ]
    assert [entry.get("event") or entry.get("message") for entry in entries] == ["begun", "Killed"]


def test_followed_logs_join_a_line_that_came_in_two_pieces_and_end_with_the_job(
    kastor: Kastor, jobs: FakeServer
) -> None:
    content = log_line("first") + log_line("second")
    jobs.on_job(make_job(), make_job(), make_job(), make_job("SUCCEEDED", 19))
    cut = len(content) - 10
    jobs.on(
        "GET", LOG, log_reply(content[:cut], cut), log_reply(content[cut:], len(content)), log_reply(b"", len(content))
    )
    ran = kastor("jobs", "logs", "-f", JOB_ID, "--server", jobs.url)
    assert [line.split()[-1] for line in ran.out.splitlines()] == ["first", "second"]
    offsets = [s.query["offset"][0] for s in jobs.seen if s.path == LOG]
    assert offsets[:3] == ["0", str(cut), str(len(content))]


def test_resume_follows_the_new_job_to_its_end(kastor: Kastor, server: FakeServer) -> None:
    server.on("GET", "/kastor/v1/jobs/failed", make_job("FAILED", 9, id="failed", resumable=True))
    server.on("POST", "/kastor/v1/jobs/failed:resume", make_job("QUEUED", 8))
    server.on_job(make_job("RUNNING", 12), make_job("SUCCEEDED", 19))
    ran = kastor("jobs", "resume", "failed", "--server", server.url)
    assert ran.code == 0
    assert f"Job {JOB_ID} continues from step 8 of 19" in " ".join(ran.err.split())
    assert MODEL in ran.out


def test_resume_detached_says_the_new_job(kastor: Kastor, server: FakeServer) -> None:
    server.on("GET", "/kastor/v1/jobs/failed", make_job("FAILED", 9, id="failed"))
    server.on("POST", "/kastor/v1/jobs/failed:resume", make_job("QUEUED", 8))
    ran = kastor("jobs", "resume", "failed", "--detach", "--json", "--server", server.url)
    assert (ran.code, ran.json["id"]) == (0, JOB_ID)


def test_show_says_that_a_failed_job_can_be_resumed_and_how(kastor: Kastor, server: FakeServer) -> None:
    server.on_job(make_job("FAILED", 9, resumable=True, error={"code": "INTERNAL", "message": "It broke."}))
    assert f"kastor jobs resume {JOB_ID}" in " ".join(
        kastor("jobs", "show", JOB_ID, "--server", server.url).out.split()
    )
    server.on_job(make_job("FAILED", 9, resumedAs="abc123abc123"))
    shown = kastor("jobs", "show", JOB_ID, "--server", server.url).out
    assert "abc123abc123" in shown and "jobs resume" not in shown


def test_a_resumed_job_that_fails_again_says_how_to_go_on(kastor: Kastor, server: FakeServer) -> None:
    server.on("GET", "/kastor/v1/jobs/failed", make_job("FAILED", 9, id="failed", resumable=True))
    server.on("POST", "/kastor/v1/jobs/failed:resume", make_job("QUEUED", 8))
    error = {"code": "INTERNAL", "message": "The worker died 3 times."}
    server.on_job(make_job("FAILED", 12, resumable=True, error=error))
    ran = kastor("jobs", "resume", "failed", "--server", server.url)
    assert ran.code == 1
    assert f"kastor jobs resume {JOB_ID}" in " ".join(ran.err.split())

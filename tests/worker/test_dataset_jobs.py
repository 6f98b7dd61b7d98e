"""A job on a dataset file judges it first: what is accepted is trained on, a fault ends the job with the reason."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kastor.domain.content import SupervisedTurns
from kastor.domain.job import State
from support.worker_environment import Place


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def turn(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text}]}


def row(number: int, turns: int = 1) -> dict[str, object]:
    contents = [turn("user", str(number)), turn("model", str(number + 1))] * turns
    return {"systemInstruction": {"parts": [{"text": "Count."}]}, "contents": contents}


def test_conversations_with_a_system_instruction_are_trained_on(place: Place) -> None:
    place.add_file([row(n, turns=1 + n % 3) for n in range(10)])
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    assert job.spec.num_examples == 10
    assert job.completed_steps == job.spec.total_steps == 5
    assert job.spec.file is not None and job.spec.file.settled
    report = json.loads(place.blobs.report("job1").read_bytes())
    assert (report["rows"], report["accepted"]) == (10, 10)


def test_a_job_teaches_the_turns_that_it_was_asked_to(place: Place) -> None:
    supervised = {}
    for job_id, supervise in (("job1", SupervisedTurns.ALL), ("job2", SupervisedTurns.LAST)):
        place.add_file([row(n, turns=2) for n in range(4)], job_id, supervise=supervise)
        assert place.work(place.claim()) == 0
        job = place.jobs.get(job_id)
        assert job.state is State.SUCCEEDED, job.error
        supervised[supervise] = place.jobs.snapshots(job_id)[0].num_supervised
    assert supervised[SupervisedTurns.ALL] == 2 * supervised[SupervisedTurns.LAST]


def test_function_calls_are_trained_on(place: Place) -> None:
    def called(number: int) -> dict[str, object]:
        return {
            "contents": [
                turn("user", str(number)),
                {"role": "model", "parts": [{"functionCall": {"name": "next", "args": {"n": number}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "next", "response": {"n": number + 1}}}]},
                turn("model", str(number + 1)),
            ],
        }

    place.add_file([called(n) for n in range(4)])
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error


def test_faulty_rows_end_the_job_before_training_with_rules_and_counts(place: Place) -> None:
    place.add_file([row(1), "{}", "no json", row(2)])
    place.work(place.claim())
    job = place.jobs.get("job1")
    assert job.state is State.FAILED and job.error is not None
    assert job.error.message.startswith("data.jsonl: 2 of 4 rows are faulty: ")
    assert job.completed_steps == 0
    assert json.loads(place.blobs.report("job1").read_bytes())["rejected"] == 2
    assert not place.blobs.dataset("job1").exists()


def test_what_a_rule_drops_is_left_out_and_said(place: Place) -> None:
    too_long = {"contents": [turn("user", "x" * 3000), turn("model", "y")]}
    place.add_file([row(n) for n in range(19)] + [too_long])
    assert place.work(place.claim()) == 0
    job = place.jobs.get("job1")
    assert job.state is State.SUCCEEDED, job.error
    assert job.spec.num_examples == 19
    assert any("19 of 20 examples accepted, 1 dropped" in event.message for event in place.jobs.events("job1"))


def test_too_many_dropped_end_the_job_with_the_share(place: Place) -> None:
    too_long = {"contents": [turn("user", "x" * 3000), turn("model", "y")]}
    place.add_file([row(1), too_long], profile="vertex-gemini-2.5")
    place.work(place.claim())
    job = place.jobs.get("job1")
    assert job.error is not None
    assert "1 of 2 examples (50.0%) would be dropped, more than 10%: 1 too_many_tokens" in job.error.message


def test_a_settled_job_is_not_judged_again(place: Place) -> None:
    place.add_file([row(n) for n in range(10)])
    job = place.claim()
    place.work(job)
    settled = place.jobs.get("job1").spec
    place.blobs.workspace("job1").source.unlink()  # it cannot be
    assert place.validate_dataset(replace(job, spec=settled)) == settled


def test_a_csv_is_read_by_its_ending(place: Place) -> None:
    place.add_file(["text_input,output", *(f"{n},{n + 1}" for n in range(8))], name="pairs.csv")
    assert place.work(place.claim()) == 0
    assert place.jobs.get("job1").spec.num_examples == 8

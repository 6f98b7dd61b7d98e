"""Following a job: what its events say reaches who waits for it."""

from typing import Self

from kastor.cli.client.follow import STALLED_S, Clock, follow
from kastor.cli.client.messages import Job
from support.fake_kastor import JOB_ID, make_job

FULL = {"time": "2026-01-02T03:04:09Z", "level": "warning", "message": "the disk is full: the checkpoint waits"}


class StalledServer:
    """Answers for a job that waits for room after its second step, until it was asked often enough."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.asked_full: list[bool] = []

    def job(self, job_id: str, full: bool = False) -> Job:
        self.asked_full.append(full)
        ended = len(self.asked_full) > self.answers
        found = make_job("SUCCEEDED" if ended else "RUNNING", 2)
        return Job.of(found | ({"events": [FULL]} if full and len(self.asked_full) > 3 else {}))


class SaidLines:
    """A display that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def show(self, job: Job, note: str) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_job_that_gets_no_further_is_asked_why_now_and_then_and_its_warning_is_said_once() -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    server, display = StalledServer(200), SaidLines()
    follow(server, JOB_ID, display, lambda: None, Clock(lambda: now[0], sleep))  # type: ignore[arg-type]  # as much of a client as it needs
    assert display.said == ["the disk is full: the checkpoint waits"]
    assert sum(server.asked_full) <= 4 + (now[0] - 1000) / STALLED_S

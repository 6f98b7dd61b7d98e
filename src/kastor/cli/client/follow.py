"""Polls a job until it ends, through lost connections and restarts of its worker."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from kastor.cli.client.client import Client
from kastor.cli.client.messages import Job
from kastor.cli.console.progress import Display
from kastor.domain.errors import KastorError, Unavailable
from kastor.domain.job import State

POLL_S = 0.4
PATIENCE_S = 120.0
"""How long a lost connection is retried."""
STALLED_S = 10.0
"""Time without a step after which a running job's events are read: they may say why."""

TRANSITION = re.compile(r"^[A-Z]+ -> [A-Z]+( \(attempt \d+\))?(: )?")
AHEAD_LIMIT = 200  # jobs read to count those ahead of a queued one


@dataclass(frozen=True, slots=True)
class Clock:
    """The time source; tests pass their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class _FollowState:
    state: State | None = None
    attempt: int = 0
    events: int = 0
    steps: int = -1
    advanced_at: float = 0.0  # or when its events were last read


def follow(client: Client, job_id: str, display: Display, check: Callable[[], None], clock: Clock | None = None) -> Job:
    """Display the job until it has ended, and return it.

    Raises:
        Unavailable: the server did not answer for two minutes.
        KastorError: the server refused, or `check` knows that it is gone.

    """
    clock = clock or Clock()
    last = _FollowState()
    while True:
        job = _retried(lambda: _poll(client, job_id, last, clock.now()), display, check, clock)
        _show_warnings(job, last, display)
        display.show(job, _note(client, job))
        if job.state.terminal:
            return job
        clock.sleep(POLL_S)


def _poll(client: Client, job_id: str, last: _FollowState, now: float) -> Job:
    """The job; with its events unless it is running as before, when its numbers are enough.

    A job that makes no progress is read with its events from time to time: it may be waiting for disk space.
    """
    stalled = now - last.advanced_at > STALLED_S
    job = client.job(job_id, full=last.state is not State.RUNNING or stalled)
    if stalled or job.completed_steps != last.steps:
        last.steps, last.advanced_at = job.completed_steps, now
    if (
        last.state is State.RUNNING
        and not job.state.terminal
        and (job.state, job.attempt) != (last.state, last.attempt)
    ):
        job = client.job(job_id, full=True)
    last.state, last.attempt = job.state, job.attempt
    return job


def _retried(ask: Callable[[], Job], display: Display, check: Callable[[], None], clock: Clock) -> Job:
    lost_at: float | None = None
    while True:
        try:
            job = ask()
        except Unavailable as error:
            check()
            if lost_at is None:
                lost_at = clock.now()
                display.say(f"{error.message} Trying again for {PATIENCE_S:.0f} s.")
            elif clock.now() - lost_at > PATIENCE_S:
                raise Unavailable(f"{error.message} Gave up after {PATIENCE_S:.0f} s.") from error
            clock.sleep(1.0)
        else:
            if lost_at is not None:
                display.say("The server answers again.")
            return job


def _show_warnings(job: Job, last: _FollowState, display: Display) -> None:
    """Print new warnings and errors; the final error of a failed job is reported elsewhere."""
    if not job.events:
        return
    for event in job.events[last.events :]:
        if event.level in ("warning", "error") and not job.state.terminal:
            display.say(without_transition(event.message))
    last.events = len(job.events)


def _note(client: Client, job: Job) -> str:
    if job.state is State.QUEUED:
        ahead = _num_ahead(client, job)
        return f"{ahead} job{'s' if ahead > 1 else ''} ahead" if ahead else ""
    if job.state is State.PREPARING:
        return (without_transition(job.events[-1].message) if job.events else "") or "starting its process"
    if job.state is State.RUNNING and not job.completed_steps:
        return "the first step"
    return ""


def without_transition(message: str) -> str:
    """An event's message without its state transition, which is shown anyway.

    >>> without_transition("RUNNING -> QUEUED: the worker ended by SIGKILL")
    'the worker ended by SIGKILL'
    >>> without_transition("QUEUED -> PREPARING (attempt 1)"), without_transition("fetching")
    ('', 'fetching')
    """
    return TRANSITION.sub("", message)


def _num_ahead(client: Client, job: Job) -> int:
    try:
        jobs = client.jobs(AHEAD_LIMIT)
    except KastorError:
        return 0
    ids = [other.id for other in jobs]
    older = jobs[ids.index(job.id) + 1 :] if job.id in ids else []
    return sum(not other.state.terminal for other in older)

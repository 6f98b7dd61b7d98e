"""Following a job to its end by asking the server, over lost connections and restarts of its worker."""

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
"""For so long a lost connection is tried again."""
STALLED_S = 10.0
"""Without a step for so long, a running job's events are looked at: they may say why."""

MOVE = re.compile(r"^[A-Z]+ -> [A-Z]+( \(attempt \d+\))?(: )?")
AHEAD_LIMIT = 200  # jobs looked at to say how many stand before a queued one


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the following sees it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class _Seen:
    state: State | None = None
    attempt: int = 0
    events: int = 0
    steps: int = -1
    advanced_at: float = 0.0  # or last asked why not


def follow(client: Client, job_id: str, display: Display, check: Callable[[], None], clock: Clock | None = None) -> Job:
    """The job once it has ended; until then it is shown.

    Raises:
        Unavailable: the server did not answer for two minutes.
        KastorError: the server refused, or `check` knows that it is gone.

    """
    clock = clock or Clock()
    seen = _Seen()
    while True:
        job = _patiently(lambda: _looked_at(client, job_id, seen, clock.now()), display, check, clock)
        _tell_troubles(job, seen, display)
        display.show(job, _note(client, job))
        if job.state.terminal:
            return job
        clock.sleep(POLL_S)


def _looked_at(client: Client, job_id: str, seen: _Seen, now: float) -> Job:
    """The job; with its events, unless it is running on as it was: then its numbers say all.

    Of one that gets no further the events are asked for now and then: it may wait for room on the disk.
    """
    stalled = now - seen.advanced_at > STALLED_S
    job = client.job(job_id, full=seen.state is not State.RUNNING or stalled)
    if stalled or job.completed_steps != seen.steps:
        seen.steps, seen.advanced_at = job.completed_steps, now
    if (
        seen.state is State.RUNNING
        and not job.state.terminal
        and (job.state, job.attempt) != (seen.state, seen.attempt)
    ):
        job = client.job(job_id, full=True)
    seen.state, seen.attempt = job.state, job.attempt
    return job


def _patiently(ask: Callable[[], Job], display: Display, check: Callable[[], None], clock: Clock) -> Job:
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


def _tell_troubles(job: Job, seen: _Seen, display: Display) -> None:
    """Warnings and errors among the events not seen so far; the last word of a failed job is told elsewhere."""
    if not job.events:
        return
    for event in job.events[seen.events :]:
        if event.level in ("warning", "error") and not job.state.terminal:
            display.say(without_state_move(event.message))
    seen.events = len(job.events)


def _note(client: Client, job: Job) -> str:
    if job.state is State.QUEUED:
        ahead = _num_ahead(client, job)
        return f"{ahead} job{'s' if ahead > 1 else ''} ahead" if ahead else ""
    if job.state is State.PREPARING:
        return (without_state_move(job.events[-1].message) if job.events else "") or "starting its process"
    if job.state is State.RUNNING and not job.completed_steps:
        return "the first step"
    return ""


def without_state_move(message: str) -> str:
    """An event's message without the move of states, which is shown anyway.

    >>> without_state_move("RUNNING -> QUEUED: the worker ended by SIGKILL")
    'the worker ended by SIGKILL'
    >>> without_state_move("QUEUED -> PREPARING (attempt 1)"), without_state_move("fetching")
    ('', 'fetching')
    """
    return MOVE.sub("", message)


def _num_ahead(client: Client, job: Job) -> int:
    try:
        others = client.jobs(AHEAD_LIMIT)
    except KastorError:
        return 0
    ids = [other.id for other in others]
    older = others[ids.index(job.id) + 1 :] if job.id in ids else []
    return sum(not other.state.terminal for other in older)

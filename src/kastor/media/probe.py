"""What media files are, and which frames would be taken from them, found out in child processes.

A child reads many files, as starting one costs as much as probing fifty. When one dies, the file it died of is named
and the others are tried again in a new child.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from kastor.domain.media import FrameSampling, MediaFault, MediaKind, MediumError, Probe, SamplingPlan
from kastor.media.decode_limits import DecodeLimits
from kastor.media.memory_budget import decoder_slot
from kastor.media.sandbox import SandboxCrashed, SandboxProcess, TimeBudget

FILES_PER_CHILD = 256
AHEAD = 4  # requests sent before the first is answered; as much as surely fits a pipe


@dataclass(frozen=True, slots=True)
class ProbedVideo:
    """A video, as its frames (not only its header) tell, and the frames to take."""

    probe: Probe
    plan: SamplingPlan


class MediaProber:
    """Probes and plans, one child process at a time; for one thread at a time. Close it, or use it as a context."""

    def __init__(
        self,
        guards: DecodeLimits | None = None,
        *,
        files_per_child: int = FILES_PER_CHILD,
        start: Callable[[DecodeLimits], SandboxProcess] = SandboxProcess,
    ) -> None:
        self._guards = guards or DecodeLimits()
        self._start = start
        self._files_per_child = files_per_child
        self._child: SandboxProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def probes(self, paths: Iterable[Path]) -> Iterator[Probe | MediaFault]:
        """What each file is or why it cannot be used, in order: from its header where that can be trusted."""
        requests = ({"do": "probe", "path": _absolute(path)} for path in paths)
        yield from (_probe(answer) if isinstance(answer, dict) else answer for answer in self._answers(requests))

    def plans(self, wanted: Iterable[tuple[Path, FrameSampling]]) -> Iterator[ProbedVideo | MediaFault]:
        """For each video the frames that `Sampling` asks for, in order; reads each file once in whole."""
        requests = (
            {
                "do": "plan",
                "path": _absolute(path),
                "sampling": {"fps": sampling.fps, "start_s": sampling.start_s, "end_s": sampling.end_s},
            }
            for path, sampling in wanted
        )
        yield from (_planned(answer) if isinstance(answer, dict) else answer for answer in self._answers(requests))

    def _answers(self, requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any] | MediaFault]:
        """One answer for each request, within the memory that all decoders share; the dead are replaced."""
        with decoder_slot(self._guards):
            yield from self._answered(requests)

    def _answered(self, requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any] | MediaFault]:
        unsent: deque[dict[str, Any]] = deque()  # given back by a child that died
        waiting: deque[dict[str, Any]] = deque()
        while True:
            try:
                child = self._ready_child(idle=not waiting)
                self._send_ahead(child, unsent, waiting, requests)
                if not waiting:
                    return
                answer, _ = child.receive(TimeBudget(self._guards.probe_wall_s))
            except SandboxCrashed as died:
                first = self._child is None or self._child.num_answers == 0
                self.close()
                if waiting and (first or died.timed_out):
                    waiting.popleft()
                    yield died.fault
                # one that was not the first may have died of an earlier file's harm: it gets a child of its own
                unsent.extendleft(reversed(waiting))
                waiting.clear()
                continue
            waiting.popleft()
            yield _fault(answer) or answer

    def _ready_child(self, *, idle: bool) -> SandboxProcess:
        if self._child is not None and idle and self._child.num_answers >= self._files_per_child:
            self.close()
        if self._child is None:
            self._child = self._start(self._guards)
        return self._child

    def _send_ahead(
        self,
        child: SandboxProcess,
        unsent: deque[dict[str, Any]],
        waiting: deque[dict[str, Any]],
        requests: Iterator[dict[str, Any]],
    ) -> None:
        while len(waiting) < AHEAD and child.num_answers + len(waiting) < self._files_per_child:
            request = unsent.popleft() if unsent else next(requests, None)
            if request is None:
                return
            waiting.append(request)
            child.send(request | {"cpu_s": self._guards.probe_cpu_s})


def probe(path: Path, guards: DecodeLimits | None = None) -> Probe:
    """What one file is; for many, an `MediaProber` is faster.

    Raises:
        MediumError: it cannot be used.

    """
    with MediaProber(guards) as inspector:
        (answer,) = inspector.probes([path])
    if isinstance(answer, MediaFault):
        raise MediumError.because(answer)
    return answer


def plan(path: Path, sampling: FrameSampling, guards: DecodeLimits | None = None) -> ProbedVideo:
    """The frames to take from one video; for many, an `MediaProber` is faster.

    Raises:
        MediumError: it cannot be used, or the sampling asks for what it has not.

    """
    with MediaProber(guards) as inspector:
        (answer,) = inspector.plans([(path, sampling)])
    if isinstance(answer, MediaFault):
        raise MediumError.because(answer)
    return answer


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _fault(answer: dict[str, Any]) -> MediaFault | None:
    fault = answer.get("fault")
    return MediaFault(*map(str, fault)) if isinstance(fault, list) and len(fault) == 3 else None


def _probe(answer: dict[str, Any]) -> Probe:
    fields = dict(answer["probe"])
    fields["kind"] = MediaKind(fields["kind"])
    fields["page_sizes"] = tuple((float(width), float(height)) for width, height in fields["page_sizes"])
    stored = fields.get("stored_size")
    fields["stored_size"] = stored and (int(stored[0]), int(stored[1]))
    return Probe(**fields)


def _planned(answer: dict[str, Any]) -> ProbedVideo:
    plan = answer["plan"]
    return ProbedVideo(
        _probe(answer),
        SamplingPlan(
            tuple(map(float, plan["moments_s"])),
            tuple(map(int, plan["pts"])),
            Fraction(*plan["time_base"]),
            int(plan["start_pts"]),
            float(plan["duration_s"]),
        ),
    )

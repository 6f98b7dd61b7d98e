"""Rows whose media turned out bad after the gate had accepted them: left out, counted and said, or the job's end.

A medium is left out by what is looked at of it: the same file may have a sound beginning and a damaged end. It is
written down before the step that would have used it, and left out for good, so that a job that is killed and resumed
trains on the same rows in the same steps. How many steps there are does not change.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from kastor.domain.counts import counted
from kastor.domain.errors import InvalidArgument
from kastor.domain.media import MediaFault
from kastor.domain.vision import MediumPlan
from kastor.worker.job_monitor import JobMonitor
from kastor.worker.pipeline.inputs import Workspace
from kastor.worker.pipeline.rendered_examples import PreparedFiles

KEY = "leftOut"
"""Of the report: the rows that were accepted and then left out; its counts know of them."""

MAX_TOLD = 10  # media that have a line of their own in the job's events

UnreadableMedium = list[tuple[int, MediaFault]]
"""Rows by their lines in the file that was handed in, and why."""


class UnreadableMedia:
    """Leaves out of one job what cannot be had; `key_of` names what is looked at of a medium."""

    def __init__(
        self,
        file_name: str,
        max_dropped_share: float,
        workspace: Workspace,
        monitor: JobMonitor,
        files: PreparedFiles,
        key_of: Callable[[MediumPlan], str],
    ) -> None:
        self._file_name = file_name
        self._max_dropped_share = max_dropped_share
        self._workspace = workspace
        self._monitor = monitor
        self._files = files
        self._key_of = key_of
        self._faults = self._known()
        if self._faults:  # it may have been killed between the two files
            self._report(self._lost()[0])

    def has(self, planned: MediumPlan) -> bool:
        """Whether the medium is left out."""
        return bool(self._faults) and self._key_of(planned) in self._faults

    def add(self, planned: MediumPlan, fault: MediaFault) -> None:
        """Leave the medium out from now on: written down when this returns.

        Raises:
            InvalidArgument: more rows are left out than the profile allows, or all.

        """
        before = len(self._lost()[0]) if self._faults else 0
        self._faults[self._key_of(planned)] = (planned.sha256, fault)
        held = {key: {"sha256": sha256, **asdict(why)} for key, (sha256, why) in self._faults.items()}
        self._workspace.write(self._workspace.unreadable_rows, [orjson.dumps(held)])
        lost, num_left = self._lost()
        report = self._report(lost)
        self._refuse(report, lost, num_left)
        if len(self._faults) <= MAX_TOLD:
            self._tell(lost, len(lost) - before, num_left)

    def end(self) -> None:
        """Say what was left out in all, where not each was told."""
        if len(self._faults) > MAX_TOLD:
            lost, num_left = self._lost()
            self._tell(lost, len(lost), num_left)

    def _known(self) -> dict[str, tuple[str, MediaFault]]:
        try:
            held = orjson.loads(self._workspace.unreadable_rows.read_bytes())
        except FileNotFoundError:
            return {}
        return {key: (said.pop("sha256"), MediaFault(**said)) for key, said in held.items()}

    def _lost(self) -> tuple[UnreadableMedium, int]:
        """The rows that are left out, and how many are not."""
        contents = {sha256 for sha256, _ in self._faults.values()}
        lost: UnreadableMedium = []
        num_left = 0
        for _, _, row in self._files.plans():
            keys = [self._key_of(medium) for medium in row.media if medium.sha256 in contents]
            bad = next((self._faults[key][1] for key in keys if key in self._faults), None)
            if bad is None:
                num_left += 1
            else:
                lost.append((row.line, bad))
        return lost, num_left

    def _report(self, lost: UnreadableMedium) -> Mapping[str, Any]:
        path = self._workspace.report
        report = _reported(orjson.loads(path.read_bytes()), lost)
        self._workspace.write(path, [orjson.dumps(report)])
        return report

    def _refuse(self, report: Mapping[str, Any], lost: UnreadableMedium, num_left: int) -> None:
        share = report["dropped"] / report["rows"]
        if num_left and share <= self._max_dropped_share:
            return
        allowed = f"more than {self._max_dropped_share:.0%}" if num_left else "which leaves none"
        before = report["dropped"] - len(lost)
        line, first = lost[0]
        raise InvalidArgument(
            f"{self._file_name}: {counted(len(lost), 'example')} with media that turned out bad when they were decoded "
            f"({_listed(lost)}); with {before:,} dropped before, that is {share:.1%} of the rows, {allowed}. "
            f"The first is line {line}: {first.message} {first.hint}".rstrip()
        )

    def _tell(self, lost: UnreadableMedium, num_new: int, num_left: int) -> None:
        lines = ", ".join(str(line) for line, _ in lost[:10]) + (", …" if len(lost) > 10 else "")
        self._monitor.log_event(
            f"{counted(num_new, 'example')} left out whose media turned out bad when they were decoded; "
            f"in all {len(lost):,} "
            f"({_listed(lost)}): lines {lines}; {num_left:,} are trained on"
        )


def _reported(report: dict[str, Any], lost: UnreadableMedium) -> dict[str, Any]:
    """The report with its ledger moved: what was accepted is dropped now. Safe to repeat."""
    before = report.get(KEY, [])
    by_rule = Counter(report["droppedByRule"])
    by_rule.subtract(one["rule"] for one in before)
    by_rule.update(fault.rule for _, fault in lost)
    num_new = len(lost) - len(before)
    return report | {
        "accepted": report["accepted"] - num_new,
        "dropped": report["dropped"] + num_new,
        "droppedByRule": dict((+by_rule).most_common()),
        KEY: [{"line": line, **asdict(fault)} for line, fault in lost],
    }


def _listed(lost: UnreadableMedium) -> str:
    rules = Counter(fault.rule for _, fault in lost)
    return ", ".join(f"{count:,} {rule}" for rule, count in rules.most_common())

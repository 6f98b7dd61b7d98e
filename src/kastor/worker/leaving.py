"""Rows whose media turned out bad after the gate had accepted them: left out, counted and said, or the job's end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import orjson

from kastor.domain.dataset_limits import dataset_limits
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import TuningJob, TuningSpec, resolve
from kastor.domain.limits import PROFILES
from kastor.domain.media import MediaFault
from kastor.settings import Settings
from kastor.store.blobs import Blobs
from kastor.worker.ownership import Ownership
from kastor.worker.rows import Files

KEY = "leftOut"
"""Of the report: the rows that were accepted and then left out; its counts know of them."""

Faults = Mapping[str, MediaFault]
"""By the hash of the medium's content."""


class Leaving:
    """Settles one job without the rows that cannot be had."""

    def __init__(self, settings: Settings, job: TuningJob, blobs: Blobs, ownership: Ownership) -> None:
        self._settings = settings
        self._job = job
        self._blobs = blobs
        self._ownership = ownership

    def known(self) -> Faults | None:
        """What was left out when all media were first seen; `None` before that."""
        try:
            held = orjson.loads(self._blobs.left_out(self._job.id).read_bytes())
        except FileNotFoundError:
            return None
        return {sha256: MediaFault(**fault) for sha256, fault in held.items()}

    def settled(self, files: Files, faults: Faults) -> TuningSpec:
        """The job's spec for the rows that are left, kept together with what is left out; safe to repeat.

        Raises:
            InvalidArgument: more rows would be left out than the profile allows, or all.

        """
        lost, num_left = [], 0
        for _, _, row in files.plans():
            bad = next((faults[medium.sha256] for medium in row.media if medium.sha256 in faults), None)
            if bad is None:
                num_left += 1
            else:
                lost.append((row.line, bad))
        report: dict[str, Any] = orjson.loads(self._blobs.report(self._job.id).read_bytes())
        if lost and KEY not in report:
            report = _reported(report, lost)
            self._refuse(report, lost, num_left)
        self._blobs.write(
            self._blobs.left_out(self._job.id),
            [orjson.dumps({sha256: asdict(fault) for sha256, fault in faults.items()})],
        )
        if not lost:
            return self._job.spec
        self._blobs.write(self._blobs.report(self._job.id), [orjson.dumps(report)])
        if self._job.spec.num_examples != num_left:
            self._settle(lost, num_left)
        return self._job.spec

    def _refuse(self, report: Mapping[str, Any], lost: list[tuple[int, MediaFault]], num_left: int) -> None:
        file = self._job.spec.file
        assert file is not None  # noqa: S101  # other jobs have no media
        most = dataset_limits(file.profile, self._settings.dataset_limits).max_dropped_share
        share = report["dropped"] / report["rows"]
        if num_left and share <= most:
            return
        allowed = f"more than {most:.0%}" if num_left else "which leaves none"
        before = report["dropped"] - len(lost)
        line, first = lost[0]
        raise InvalidArgument(
            f"{file.name}: {len(lost):,} examples hold media that turned out bad when they were decoded "
            f"({_listed(lost)}); with {before:,} dropped before, that is {share:.1%} of the rows, {allowed}. "
            f"The first is line {line}: {first.message} {first.hint}".rstrip()
        )

    def _settle(self, lost: list[tuple[int, MediaFault]], num_left: int) -> None:
        spec = self._job.spec
        assert spec.file is not None  # noqa: S101  # as above
        profile = PROFILES[self._settings.profile]
        hyperparameters = resolve(spec.file.asked, num_left, profile, has_media=True)
        spec = replace(spec, num_examples=num_left, hyperparameters=hyperparameters)
        self._ownership.settle(spec)
        self._job = replace(self._job, spec=spec)
        lines = ", ".join(str(line) for line, _ in lost[:10]) + (", …" if len(lost) > 10 else "")
        self._ownership.note(
            f"{len(lost):,} examples left out whose media turned out bad when they were decoded ({_listed(lost)}): "
            f"lines {lines}; {num_left:,} are trained on"
        )


def _reported(report: dict[str, Any], lost: list[tuple[int, MediaFault]]) -> dict[str, Any]:
    """The report with its ledger moved: what was accepted is dropped now."""
    by_rule = Counter(report["droppedByRule"])
    by_rule.update(fault.rule for _, fault in lost)
    return report | {
        "accepted": report["accepted"] - len(lost),
        "dropped": report["dropped"] + len(lost),
        "droppedByRule": dict(by_rule.most_common()),
        KEY: [{"line": line, **asdict(fault)} for line, fault in lost],
    }


def _listed(lost: list[tuple[int, MediaFault]]) -> str:
    rules = Counter(fault.rule for _, fault in lost)
    return ", ".join(f"{count:,} {rule}" for rule, count in rules.most_common())

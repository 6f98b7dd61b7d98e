"""Encodes a report as JSON, for `kastor check --json` and for storage with a job.

`supervisedTuningDataStats` within it has the names and types of Vertex (vertex-api.md §4): int64 as text, indices
from 1.
"""

import json
from collections.abc import Mapping
from typing import Any

from kastor.dataset.formats.issues import Issue
from kastor.dataset.validation.cost_estimate import Estimate
from kastor.dataset.validation.report import DatasetReport, ValidatedFile
from kastor.dataset.validation.stats import Distribution, Duplicates
from kastor.domain.content import Content, FunctionCall, Media, Part, Text

NUM_LONGEST = 10
MAX_DROPPED_SHOWN = 100  # Google gives "a partial sample", too

Document = dict[str, Any]


def report_document(report: DatasetReport, estimate: Estimate | None = None) -> Document:
    """The whole report; the totals at the top are those of the training file.

    `estimate` is `None` if nothing can be trained or the training settings are unknown.
    """
    gate = report.gate
    return {
        "baseModel": gate.base.name,
        "profile": gate.limits.name,
        "fine": not report.refusals,
        "partial": report.partial,
        "refusals": list(report.refusals),
        **_judged(report.training),
        "duplicates": _duplicates(report.duplicates),
        "validation": None if report.validation is None else _judged(report.validation),
        "leaked": _duplicates(report.leaked),
        "estimate": None if estimate is None else estimate.document(),
        "supervisedTuningDataStats": data_stats(report.training, None if estimate is None else estimate.num_steps),
    }


def _judged(judged: ValidatedFile) -> Document:
    ledger, statistics = judged.ledger, judged.statistics
    return {
        "file": str(judged.path),
        "readAs": judged.facts.sentence or None,
        "rowsAreNumberedBy": judged.facts.unit,
        "rows": ledger.num_rows,
        "accepted": ledger.num_accepted,
        "dropped": ledger.num_dropped,
        "rejected": ledger.num_rejected,
        "droppedByRule": dict(ledger.dropped_by_rule.most_common()),
        "rejectedByRule": dict(ledger.rejected_by_rule.most_common()),
        "notes": dict(ledger.notes.most_common()),
        "firstIssues": {rule: list(map(_issue, issues)) for rule, issues in ledger.first.items()},
        "issues": list(map(_issue, ledger.issues)),
        "tokens": statistics.num_tokens or None,
        "supervisedTokens": sum(statistics.output_tokens) or None,
        "inputTokens": distribution(Distribution.of(statistics.input_tokens)),
        "outputTokens": distribution(Distribution.of(statistics.output_tokens)),
        "messages": distribution(Distribution.of(statistics.num_messages)),
        "longest": [{"line": line, "tokens": tokens} for line, tokens in statistics.longest(NUM_LONGEST)],
        "slices": dict(statistics.slices.most_common()),
        "preambles": [
            {"where": shared.where, "text": shared.text, "share": shared.share} for shared in statistics.preambles()
        ],
    }


def data_stats(judged: ValidatedFile, num_steps: int | None = None) -> Document:
    """Vertex's `SupervisedTuningDataStats`, without unknown fields."""
    ledger, statistics = judged.ledger, judged.statistics
    dropped = ledger.dropped[:MAX_DROPPED_SHOWN]
    found = {
        "tuningDatasetExampleCount": str(ledger.num_rows),
        "totalTuningCharacterCount": str(statistics.num_characters),
        "totalBillableCharacterCount": str(statistics.num_characters),
        "totalBillableTokenCount": str(statistics.num_tokens) if statistics.input_tokens else None,
        "tuningStepCount": None if num_steps is None else str(num_steps),
        "totalTruncatedExampleCount": str(ledger.num_dropped),
        "truncatedExampleIndices": [str(index) for index, _ in dropped],
        "droppedExampleReasons": [_reason(issue) for _, issue in dropped],
        "userInputTokenDistribution": distribution(Distribution.of(statistics.input_tokens), billable=True),
        "userOutputTokenDistribution": distribution(Distribution.of(statistics.output_tokens), billable=True),
        "userMessagePerExampleDistribution": distribution(Distribution.of(statistics.num_messages)),
        "userDatasetExamples": [_content(content) for content in statistics.examples],
    }
    return {name: value for name, value in found.items() if value is not None}


def distribution(spread: Distribution | None, *, billable: bool = False) -> Document | None:
    """Vertex's `SupervisedTuningDatasetDistribution`; `None` without values."""
    if spread is None:
        return None
    return {
        "sum": str(spread.sum),
        **({"billableSum": str(spread.sum)} if billable else {}),
        "min": spread.min,
        "max": spread.max,
        "mean": spread.mean,
        "median": spread.median,
        "p5": spread.p5,
        "p95": spread.p95,
        "buckets": [{"count": one.count, "left": one.left, "right": one.right} for one in spread.buckets],
    }


def _issue(issue: Issue) -> Document:
    return {
        "line": issue.line,
        "path": issue.path,
        "rule": issue.rule,
        "message": issue.message,
        "hint": issue.hint,
    }


def _reason(issue: Issue) -> str:
    return f"{issue.rule}: {issue.message}"


def _duplicates(found: Duplicates) -> Document:
    return {"number": found.number, "lines": [{"line": line, "first": first} for line, first in found.lines]}


def _content(content: Content) -> Document:
    return {"role": content.role.value, "parts": [_part(part) for part in content.parts]}


def _part(part: Part) -> Mapping[str, object]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Media):
        if part.uri:
            return {"fileData": {"mimeType": part.mime_type, "fileUri": part.uri}}
        return {"inlineData": {"mimeType": part.mime_type}}  # its bytes are not repeated
    if isinstance(part, FunctionCall):
        return {"functionCall": {"name": part.name, "args": json.loads(part.arguments)}}
    return {"functionResponse": {"name": part.name, "response": json.loads(part.response)}}

"""The report as a document: what it holds, and that it holds what Vertex's statistics are."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from kastor.dataset.validation.cost_estimate import ModelSize, estimate_cost
from kastor.dataset.validation.report import DatasetValidation, validate_dataset
from kastor.dataset.validation.report_json import data_stats, report_document
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, RowVerdict
from kastor.domain.content import Example
from kastor.domain.dataset_limits import DATASET_PROFILES, OPEN_DATASET
from kastor.domain.job import Hyperparameters
from kastor.domain.vision import MediaLayouts, TokenCount

LONG = "word " * 300


class CountsWords:
    """A token for each word; the answer's are supervised."""

    def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts]) -> list[TokenCount]:
        return [
            TokenCount(sum(len(c.text.split()) for c in one.contents), len(one.contents[-1].text.split()))
            for one in examples
        ]


def gate(max_tokens: int = 200, counter: CountsWords | None = None) -> DatasetValidator:
    return DatasetValidator(
        OPEN_DATASET, BaseModelLimits("models/b", max_tokens, None, counter or CountsWords()), lambda media: {}
    )


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def pair(given: str, answer: str) -> dict[str, str]:
    return {"text_input": given, "output": answer}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [pair("a b c", "d"), "", pair("e", "f g"), pair(LONG, "x"), pair("a b c", "d"), "{bad", pair(LONG, "y")]
    return written(tmp_path / "data.jsonl", *rows)


def test_the_totals_sum_and_the_document_is_plain_json(data: Path) -> None:
    found = report_document(validate_dataset(gate(), data))
    assert orjson.loads(orjson.dumps(found)) == found
    assert (found["rows"], found["accepted"], found["dropped"], found["rejected"]) == (6, 3, 2, 1)
    assert (found["droppedByRule"], found["rejectedByRule"]) == ({"too_many_tokens": 2}, {"not_json": 1})
    assert [issue["line"] for issue in found["firstIssues"]["too_many_tokens"]] == [4, 7]
    assert found["duplicates"] == {"number": 1, "lines": [{"line": 5, "first": 1}]}
    assert (found["fine"], found["partial"]) == (False, False)


def test_vertex_statistics_have_the_names_and_types_of_the_service(data: Path) -> None:
    report = validate_dataset(gate(), data)
    ledger, counted = report.training.ledger, report.training.statistics
    asked = Hyperparameters(2, 2, 0.1)
    estimate = estimate_cost(
        asked,
        ModelSize(1000, 4),
        num_examples=ledger.num_accepted,
        num_tokens=counted.num_tokens,
        longest=4,
        num_bytes=1,
        pace=None,
    )
    assert report_document(report, estimate)["supervisedTuningDataStats"] == {
        "tuningDatasetExampleCount": "6",
        "totalTuningCharacterCount": "16",
        "totalBillableCharacterCount": "16",
        "totalBillableTokenCount": "11",
        "tuningStepCount": "3",
        "totalTruncatedExampleCount": "2",
        "truncatedExampleIndices": ["3", "6"],
        "droppedExampleReasons": [
            "too_many_tokens: 301 tokens, at most 200 fit models/b",
            "too_many_tokens: 301 tokens, at most 200 fit models/b",
        ],
        "userInputTokenDistribution": {
            "sum": "7",
            "billableSum": "7",
            "min": 1,
            "max": 3,
            "mean": pytest.approx(7 / 3),
            "median": 3.0,
            "p5": pytest.approx(1.2),
            "p95": 3.0,
            "buckets": [{"count": 1, "left": 1, "right": 1}, {"count": 2, "left": 3, "right": 3}],
        },
        "userOutputTokenDistribution": {
            "sum": "4",
            "billableSum": "4",
            "min": 1,
            "max": 2,
            "mean": pytest.approx(4 / 3),
            "median": 1.0,
            "p5": 1.0,
            "p95": pytest.approx(1.9),
            "buckets": [{"count": 2, "left": 1, "right": 1}, {"count": 1, "left": 2, "right": 2}],
        },
        "userMessagePerExampleDistribution": {
            "sum": "6",
            "min": 2,
            "max": 2,
            "mean": 2.0,
            "median": 2.0,
            "p5": 2.0,
            "p95": 2.0,
            "buckets": [{"count": 3, "left": 2, "right": 2}],
        },
        "userDatasetExamples": [
            {"role": role, "parts": [{"text": text}]}
            for role, text in (
                ("user", "a b c"),
                ("model", "d"),
                ("user", "e"),
                ("model", "f g"),
                ("user", "a b c"),
                ("model", "d"),
            )
        ],
    }


def test_what_is_not_known_is_left_out(data: Path) -> None:
    uncounted = DatasetValidator(OPEN_DATASET, BaseModelLimits("models/b", 200, None, None), lambda media: {})
    found = data_stats(validate_dataset(uncounted, data).training)
    missing = {
        "totalBillableTokenCount",
        "tuningStepCount",
        "userInputTokenDistribution",
        "userOutputTokenDistribution",
    }
    assert not missing & found.keys()
    assert all(value is not None for value in found.values())


def test_validation_is_judged_and_leaks_are_named(data: Path, tmp_path: Path) -> None:
    held_out = written(tmp_path / "held-out.jsonl", pair("new", "n"), pair("e", "f g"))
    found = report_document(validate_dataset(gate(), data, held_out))
    assert found["validation"]["rows"] == 2
    assert found["leaked"] == {"number": 1, "lines": [{"line": 2, "first": 3}]}


class Stop(BaseException):
    """As Ctrl-C is."""


def test_an_interrupted_report_is_on_what_was_judged_by_then(tmp_path: Path) -> None:
    path = written(tmp_path / "many.jsonl", *[pair(str(number), "x") for number in range(1000)])
    judging = DatasetValidation(gate(), path)

    def stop_at(file: Path, verdict: RowVerdict) -> None:
        if verdict.line == 300:
            raise Stop

    with pytest.raises(Stop):
        judging.run(on_verdict=stop_at)
    found = report_document(judging.report())
    assert (found["partial"], found["rows"], found["accepted"]) == (True, 300, 300)


def test_progress_ends_with_the_size_of_the_file(data: Path) -> None:
    told: list[int] = []
    DatasetValidation(gate(), data).run(on_bytes=lambda path, num_bytes: told.append(num_bytes))
    assert told == sorted(told)
    assert told[-1] == data.stat().st_size


def test_rows_with_large_lines_are_judged_in_small_chunks(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counts(CountsWords):
        def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts]) -> list[TokenCount]:
            sizes.append(len(examples))
            return super().counts(examples, views)

    path = tmp_path / "large.jsonl"
    path.write_text("".join(json.dumps(pair("x" * 3_000_000, "y")) + "\n" for _ in range(7)))
    validate_dataset(gate(counter=Counts()), path)
    assert sizes == [3, 3, 1]


def test_a_profile_that_refuses_dropped_rows_says_so(data: Path) -> None:
    strict = DatasetValidator(
        DATASET_PROFILES["vertex-gemini-2.5"], BaseModelLimits("models/b", 200, None, CountsWords()), lambda media: {}
    )
    refusals: Iterator[str] = iter(report_document(validate_dataset(strict, data))["refusals"])
    assert next(refusals) == "1 of 6 rows is faulty: 1 not_json."
    assert next(refusals).startswith("2 of 6 examples (33.3%) would be dropped, more than 10%")

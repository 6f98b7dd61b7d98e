"""Metrics of tasks: what they must hold for any answers."""

import json
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.evaluation.interval_parser import parse_interval
from kastor.metrics.intervals import Interval, best_constant, temporal_iou
from kastor.metrics.json_fields import extract_json_object, field_f1
from kastor.metrics.labels import accuracy, balanced_accuracy, majority_label, recalls

moments = st.integers(0, 600).map(lambda number: Fraction(number, 4))
intervals = st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair) + 1))
labels = st.lists(st.sampled_from("abc"), min_size=1, max_size=30)


@given(intervals, intervals)
def test_iou_is_a_share_that_is_one_for_equals_only(one: Interval, other: Interval) -> None:
    found = temporal_iou(one, other)
    assert found == temporal_iou(other, one)
    assert 0 <= found <= 1
    assert (found == 1) == (one == other)


@given(intervals, intervals, moments)
def test_iou_does_not_ask_when(one: Interval, other: Interval, later: Fraction) -> None:
    moved = [(start + later, end + later) for start, end in (one, other)]
    assert temporal_iou(*moved) == temporal_iou(one, other)


@given(st.lists(intervals, min_size=1, max_size=8))
def test_no_other_constant_answer_of_the_truths_own_beats_the_best(truths: list[Interval]) -> None:
    def score(answer: Interval) -> float:
        return sum(temporal_iou(answer, truth) for truth in truths)

    assert score(best_constant(truths)) >= max(map(score, truths)) - 1e-9


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The dog barks from 0:03 to 0:06.", (3, 6)),
        ("00:03-00:06 a dog", (3, 6)),
        ('{"start": "01:00", "end": "01:30.5"}', (60, Fraction(181, 2))),
        ('{"end": "00:06"}', None),
        ("between 12s and 15s", (12, 15)),
        ("no idea", None),
        ("", None),
    ],
)
def test_an_interval_is_read_as_people_and_models_write_it(text: str, found: Interval | None) -> None:
    assert parse_interval(text) == found


@given(labels)
def test_saying_the_truth_is_perfect_and_one_answer_is_one_over_the_classes(truths: list[str]) -> None:
    assert balanced_accuracy(truths, truths) == accuracy(truths, truths) == 1
    always = [majority_label(truths)] * len(truths)
    assert balanced_accuracy(truths, always) == pytest.approx(1 / len(set(truths)))
    assert accuracy(truths, always) >= 1 / len(set(truths)) - 1e-9
    assert set(recalls(truths, always)) == set(truths)


def test_fields_count_by_path_and_value() -> None:
    truth = json.dumps({"event": "dog", "span": {"start": 1, "end": 2}, "tags": ["a", "b"]})
    near = json.dumps({"tags": ["a", "c"], "event": "dog", "span": {"start": 1}})
    assert field_f1([truth], [near]) == pytest.approx(2 * 3 / (5 + 4))
    assert field_f1([truth], [truth]) == 1
    assert field_f1([truth], ["no JSON"]) == 0
    assert extract_json_object("```json\n" + truth + "\n```") == json.loads(truth)


def test_metrics_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, kastor.metrics.labels, kastor.metrics.intervals, kastor.metrics.json_fields;"
        "sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

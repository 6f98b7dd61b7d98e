"""A linear probe finds what is linearly there, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from kastor.domain.content import Resolution
from kastor.evaluation.linear_probe import fit_linear_probe, pool_features
from kastor.evaluation.linear_probe_client import run_linear_probe
from kastor.metrics.labels import balanced_accuracy
from support.tiny_models import tiny_seeing_base

TEXTILE = Path(__file__).parent.parent / "data" / "textile"


def clouds(seed: int, apart: float, sizes: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Points around three centres in 40 dimensions of very different scales."""
    source, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(3, 40))
    rows = [centres[index] * apart + source.normal(size=(size, 40)) for index, size in enumerate(sizes)]
    labels = [label for label, size in zip("abc", sizes, strict=True) for _ in range(size)]
    return np.concatenate(rows) * np.geomspace(1e-3, 1e3, 40), labels


def test_classes_that_lie_apart_are_told_apart_whatever_the_scales() -> None:
    known, labels = clouds(1, 1.0, (30, 30, 30))
    asked, truths = clouds(2, 1.0, (20, 20, 20))
    assert balanced_accuracy(truths, fit_linear_probe(known, labels, asked)) > 0.9


def test_a_rare_class_is_not_forgotten() -> None:
    known, labels = clouds(1, 1.0, (200, 200, 8))
    asked, truths = clouds(2, 1.0, (30, 30, 30))
    assert balanced_accuracy(truths, fit_linear_probe(known, labels, asked)) > 0.75


def test_of_noise_nothing_is_learnt() -> None:
    known, labels = clouds(1, 0.0, (60, 60, 60))
    asked, truths = clouds(2, 0.0, (100, 100, 100))
    assert balanced_accuracy(truths, fit_linear_probe(known, labels, asked)) < 0.45


def test_a_number_that_never_changes_does_no_harm() -> None:
    known, labels = clouds(1, 1.0, (30, 30, 30))
    asked, truths = clouds(2, 1.0, (20, 20, 20))
    known[:, 3], asked[:, 3] = 5.0, 5.0
    assert balanced_accuracy(truths, fit_linear_probe(known, labels, asked)) > 0.9


def test_pooling_forgets_where() -> None:
    features = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float16)
    shuffled = np.random.default_rng(1).permutation(features)
    np.testing.assert_allclose(pool_features(features), pool_features(shuffled))


def test_pictures_are_looked_at_in_a_process_of_its_own_and_once(tmp_path: Path) -> None:
    base = tiny_seeing_base(tmp_path / "base")
    pictures = sorted(TEXTILE.glob("*.jpg"))
    known = [(path, path.name.split("_")[0]) for path in pictures[::2]]
    for _ in range(2):
        labels = run_linear_probe(
            base, tmp_path / "features", "kastor-nano-vl", Resolution.LOW, known, pictures[1::2], threads=1
        )
        assert len(labels) == 6 and set(labels) <= {"nominal", "local", "global"}
    stored = [path for path in (tmp_path / "features" / "objects").rglob("*") if path.is_file()]
    assert len(stored) == 12


def test_whoever_asks_for_a_probe_loads_no_torch() -> None:
    code = "import sys, json, kastor.evaluation.linear_probe_client; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False

"""What frozen features tell by themselves: ridge regression on the classes, its penalty chosen by cross-validation.

The yardstick of a tuned model that sees through the same tower: it should come near, or do better.

Shapes: E examples, D numbers of each, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PENALTIES = tuple(10.0**power for power in range(-1, 6))
NUM_FOLDS = 5
MIN_DEVIATION = 1e-6  # a number that never changes tells nothing, and is not blown up

Numbers = NDArray[np.float64]


def pool_features(features_NC: NDArray[np.float16] | NDArray[np.float32]) -> Numbers:
    """A picture's features in one row, wherever in it they are: mean and deviation of each channel, (2 C,).

    >>> pool_features(np.array([[1.0, 2.0], [3.0, 2.0]], np.float16)).tolist()
    [2.0, 2.0, 1.0, 0.0]
    """
    exact = features_NC.astype(np.float64)
    return np.concatenate([exact.mean(axis=0), exact.std(axis=0)])


def fit_linear_probe(known_ED: Numbers, labels: Sequence[str], asked_ED: Numbers, *, seed: int = 0) -> list[str]:
    """A label for each row of `asked_ED`, learnt from the rows of `known_ED`, which must be two at least."""
    classes = sorted(set(labels))
    wanted_EK = np.array([[float(label == name) for name in classes] for label in labels])
    folds = np.random.default_rng(seed).permutation(len(labels)) % min(NUM_FOLDS, len(labels))
    right = {penalty: 0.0 for penalty in PENALTIES}
    for fold in range(folds.max() + 1):
        kept, left = folds != fold, folds == fold
        scores = _scores(known_ED[kept], wanted_EK[kept], known_ED[left])
        for penalty, scores_EK in scores.items():
            right[penalty] += float((scores_EK.argmax(axis=1) == wanted_EK[left].argmax(axis=1)).sum())
    best = max(PENALTIES, key=lambda penalty: right[penalty])
    return [classes[index] for index in _scores(known_ED, wanted_EK, asked_ED)[best].argmax(axis=1)]


def _scores(known_ED: Numbers, wanted_EK: Numbers, asked_ED: Numbers) -> dict[float, Numbers]:
    """Scores of the asked rows in each class, (E, K), by penalty; each class weighs alike, however rare it is."""
    mean, deviation = known_ED.mean(axis=0), np.maximum(known_ED.std(axis=0), MIN_DEVIATION)
    weights_E = (wanted_EK / np.maximum(wanted_EK.sum(axis=0), 1)).sum(axis=1) ** 0.5
    weights_E *= (len(weights_E) / (weights_E**2).sum()) ** 0.5
    centre_K = (wanted_EK * weights_E[:, None] ** 2).mean(axis=0)
    x_ED = (known_ED - mean) / deviation * weights_E[:, None]
    y_EK = (wanted_EK - centre_K) * weights_E[:, None]
    left, sizes, right = np.linalg.svd(x_ED, full_matrices=False)
    projected, turned = left.T @ y_EK, (asked_ED - mean) / deviation @ right.T
    return {penalty: turned @ ((sizes / (sizes**2 + penalty))[:, None] * projected) + centre_K for penalty in PENALTIES}

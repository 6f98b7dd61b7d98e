"""A linear probe on frozen features: ridge regression on the classes, its penalty chosen by cross-validation.

It is the baseline of a tuned model with the same vision tower, which should come close or do better.

Shapes: E examples, D features of each, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PENALTIES = tuple(10.0**power for power in range(-1, 6))
NUM_FOLDS = 5
MIN_DEVIATION = 1e-6  # do not amplify features that hardly vary

Numbers = NDArray[np.float64]


def pool_features(features_NC: NDArray[np.float16] | NDArray[np.float32]) -> Numbers:
    """Pool the features of a picture over its positions: mean and deviation of each channel, (2 C,).

    >>> pool_features(np.array([[1.0, 2.0], [3.0, 2.0]], np.float16)).tolist()
    [2.0, 2.0, 1.0, 0.0]
    """
    exact = features_NC.astype(np.float64)
    return np.concatenate([exact.mean(axis=0), exact.std(axis=0)])


def fit_linear_probe(train_ED: Numbers, labels: Sequence[str], test_ED: Numbers, *, seed: int = 0) -> list[str]:
    """Predict a label for each row of `test_ED` from the labelled rows of `train_ED`, which must be at least two."""
    classes = sorted(set(labels))
    one_hot_EK = np.array([[float(label == name) for name in classes] for label in labels])
    folds = np.random.default_rng(seed).permutation(len(labels)) % min(NUM_FOLDS, len(labels))
    right = {penalty: 0.0 for penalty in PENALTIES}
    for fold in range(folds.max() + 1):
        train, validation = folds != fold, folds == fold
        scores = _scores(train_ED[train], one_hot_EK[train], train_ED[validation])
        for penalty, scores_EK in scores.items():
            right[penalty] += float((scores_EK.argmax(axis=1) == one_hot_EK[validation].argmax(axis=1)).sum())
    best = max(PENALTIES, key=lambda penalty: right[penalty])
    return [classes[index] for index in _scores(train_ED, one_hot_EK, test_ED)[best].argmax(axis=1)]


def _scores(train_ED: Numbers, one_hot_EK: Numbers, test_ED: Numbers) -> dict[float, Numbers]:
    """Class scores of the test rows, (E, K), by penalty; all classes have the same weight, however rare they are."""
    mean, deviation = train_ED.mean(axis=0), np.maximum(train_ED.std(axis=0), MIN_DEVIATION)
    weights_E = (one_hot_EK / np.maximum(one_hot_EK.sum(axis=0), 1)).sum(axis=1) ** 0.5
    weights_E *= (len(weights_E) / (weights_E**2).sum()) ** 0.5
    centre_K = (one_hot_EK * weights_E[:, None] ** 2).mean(axis=0)
    x_ED = (train_ED - mean) / deviation * weights_E[:, None]
    y_EK = (one_hot_EK - centre_K) * weights_E[:, None]
    left, sizes, right = np.linalg.svd(x_ED, full_matrices=False)
    projected, turned = left.T @ y_EK, (test_ED - mean) / deviation @ right.T
    return {penalty: turned @ ((sizes / (sizes**2 + penalty))[:, None] * projected) + centre_K for penalty in PENALTIES}

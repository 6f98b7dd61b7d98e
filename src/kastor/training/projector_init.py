"""Initial alignment of a new projector: ridge regression from picture features to the embeddings of answers.

Randomly initialised layers spend a short job on finding out which channels of the tower matter. A linear regression
finds them before the first step. With X the standardised mean features of pictures, Y the centred mean embeddings of
their answers, and M the minimum of |X M - Y|² + p |M|²,

    expected embedding of the answer - average = (mean of the picture's features - centre) / deviation @ M

This, times `GAIN`, is added to the picture's tokens.

The penalty p is chosen from a grid by the smallest leave-one-out error, which ridge regression gives without refitting:
the error of a left-out row is its residual / (1 - its leverage) (Allen 1974, PRESS).

The map overfits its own training images, and a model trained on its outputs would trust it too much on new ones. So
training uses leave-one-out predictions instead (stacking: Wolpert 1992).

Shapes: N observations, C channels of the features, W width of the language model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kastor.models.chat.render import RenderedExample

MIN_OBSERVATIONS = 32
"""With fewer observations the leave-one-out error is unreliable."""

PENALTIES = [10 ** (power / 5) for power in range(26)]

MIN_EXPLAINED = 0.05
"""Minimum explained share of the variance of left-out answers; below it the map is not used."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Affine map from the mean features of a picture to an offset of its token embeddings."""

    matrix_CW: Floats
    offset_W: Floats
    corrections: dict[str, Floats]  # by medium of the fit: leave-one-out prediction minus the fitted one
    explained: float  # share of the variance of left-out answers


GAIN = 4.0
"""Factor of the expected deviation from the average answer, so that it stands out among other embeddings."""


def collect_observations(
    examples: Iterable[RenderedExample],
    features: Mapping[tuple[str, int], NDArray[Any]],
    embedded: Callable[[Sequence[int]], NDArray[Any]],
) -> dict[str, tuple[Floats, Floats]]:
    """By media key, the mean features of its pictures and the mean embedding of the answers to it.

    Each medium is one observation, however many pictures and rows it has, because leaving out one of several similar
    rows would not test the fit. Segments of one film count as separate media, so its leave-one-out error is too
    optimistic. `features` are those of pictures (tokens, C) by key and index; `embedded` returns embeddings
    (tokens, W).
    """
    seen: dict[str, list[Floats]] = {}
    for (key, _), features_NC in features.items():
        seen.setdefault(key, []).append(features_NC.astype(np.float64).mean(axis=0))
    answer_means: dict[str, list[Floats]] = {}
    for example in examples:
        starts = {picture.key: picture.start for picture in reversed(example.pictures)}
        for key, start in starts.items():
            if key in seen and (answer := next_answer(example, start)):
                answer_means.setdefault(key, []).append(embedded(answer).astype(np.float64).mean(axis=0))
    return {key: (np.mean(seen[key], axis=0), np.mean(answers, axis=0)) for key, answers in answer_means.items()}


def next_answer(example: RenderedExample, start: int) -> list[int]:
    """The tokens of the first answer after position `start`, without the token that ends it.

    >>> next_answer(RenderedExample([7, 8, 1, 2, 9, 3, 9], [False, False, True, True, True, False, True]), 1)
    [1, 2]
    """
    rest = zip(example.token_ids[start:], example.supervised[start:], strict=True)
    answer = [token for token, _ in takewhile(_is_supervised, dropwhile(lambda pair: not _is_supervised(pair), rest))]
    return answer[:-1]


def _is_supervised(pair: tuple[int, bool]) -> bool:
    return pair[1]


def fit_alignment(observations: Mapping[str, tuple[Floats, Floats]]) -> Alignment | None:
    """Fit the map on mean features and mean answer embeddings; `None` if features do not predict answers."""
    if len(observations) < MIN_OBSERVATIONS:
        return None
    x_NC, y_NW = (np.stack(part) for part in zip(*observations.values(), strict=True))
    if not np.ptp(y_NW, axis=0).max() > 1e-6:
        return None  # all answers are the same
    centre_C, deviation_C = x_NC.mean(axis=0), x_NC.std(axis=0)
    # do not amplify channels that hardly vary
    deviation_C = np.maximum(deviation_C, max(1e-6, 1e-2 * float(deviation_C.max())))
    x_NC, y_NW = (x_NC - centre_C) / deviation_C, y_NW - y_NW.mean(axis=0)
    map_CW, left_out_NW = _fit_ridge(x_NC, y_NW)
    explained = 1 - _squared(y_NW - left_out_NW) / _squared(y_NW)
    if explained < MIN_EXPLAINED:
        return None
    matrix_CW = GAIN * map_CW / deviation_C[:, None]
    correction_NW = GAIN * (left_out_NW - x_NC @ map_CW)
    return Alignment(matrix_CW, -centre_C @ matrix_CW, dict(zip(observations, correction_NW, strict=True)), explained)


def _fit_ridge(x_NC: Floats, y_NW: Floats) -> tuple[Floats, Floats]:
    """With the best penalty: the map (C, W) fitted on all rows, and leave-one-out predictions (N, W)."""
    rows_NR, singular_R, channels_RC = np.linalg.svd(x_NC, full_matrices=False)
    projected_RW = rows_NR.T @ y_NW

    def left_out(penalty: float) -> Floats:
        shrinkage_R = singular_R**2 / (singular_R**2 + penalty)
        leverage_N = np.square(rows_NR) @ shrinkage_R + 1 / len(x_NC)  # includes the leverage of the mean
        error_NW: Floats = (y_NW - rows_NR @ (shrinkage_R[:, None] * projected_RW)) / (1 - leverage_N)[:, None]
        return y_NW - error_NW

    penalty = min(PENALTIES, key=lambda candidate: _squared(y_NW - left_out(candidate)))
    return channels_RC.T @ ((singular_R / (singular_R**2 + penalty))[:, None] * projected_RW), left_out(penalty)


def _squared(x: Floats) -> float:
    return float(np.square(x).sum())
